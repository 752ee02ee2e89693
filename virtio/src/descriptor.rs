//! One entry of a descriptor table (virtio 1.2, 2.7.5).

use bitflags::bitflags;

bitflags! {
    /// `VIRTQ_DESC_F_*`. Other bits are reserved and ignored, as the specification wants.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct DescriptorFlags: u16 {
        /// The chain continues at `next`.
        const NEXT = 1;
        /// The buffer is device-writable, otherwise device-readable.
        const WRITE = 2;
        /// The buffer holds a table of descriptors.
        const INDIRECT = 4;
    }
}

/// `struct virtq_desc`, a private copy: the driver can no longer change what was checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Descriptor {
    /// Guest address of the buffer.
    pub address: u64,
    /// Length of the buffer in bytes.
    pub len: u32,
    /// The kind of the buffer.
    pub flags: DescriptorFlags,
    /// Index of the next descriptor, if there is [`DescriptorFlags::NEXT`].
    pub next: u16,
}

impl Descriptor {
    /// Size in its table, in bytes.
    pub const SIZE: usize = 16;

    /// Decodes the little-endian form.
    #[must_use]
    pub fn from_bytes(bytes: [u8; Self::SIZE]) -> Self {
        let [a0, a1, a2, a3, a4, a5, a6, a7, l0, l1, l2, l3, f0, f1, n0, n1] = bytes;
        Self {
            address: u64::from_le_bytes([a0, a1, a2, a3, a4, a5, a6, a7]),
            len: u32::from_le_bytes([l0, l1, l2, l3]),
            flags: DescriptorFlags::from_bits_retain(u16::from_le_bytes([f0, f1])),
            next: u16::from_le_bytes([n0, n1]),
        }
    }

    /// Encodes the little-endian form.
    #[must_use]
    pub fn to_bytes(self) -> [u8; Self::SIZE] {
        let mut bytes = [0; Self::SIZE];
        bytes[..8].copy_from_slice(&self.address.to_le_bytes());
        bytes[8..12].copy_from_slice(&self.len.to_le_bytes());
        bytes[12..14].copy_from_slice(&self.flags.bits().to_le_bytes());
        bytes[14..].copy_from_slice(&self.next.to_le_bytes());
        bytes
    }
}
