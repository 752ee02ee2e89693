//! The Linux kernel's descriptions of a format: the name in sysfs and `struct
//! logical_block_metadata_cap`.
//!
//! The kernel has the 16b and 64b guards and the IP checksum, Types 1 and 3, and no storage tags.
//! It runs Type 2 under the names of Type 1, so nothing here yields Type 2.

use crate::guard::Guard;
use crate::profile::{IntegrityProfile, PiType, ProfileError};

/// `/sys/block/DISK/integrity/format` of each profile that has protection information:
/// `block/blk-integrity.c`.
const NAMES: [(&str, Guard, PiType); 6] = [
    ("T10-DIF-TYPE1-CRC", Guard::Crc16T10Dif, PiType::Type1),
    ("T10-DIF-TYPE3-CRC", Guard::Crc16T10Dif, PiType::Type3),
    ("T10-DIF-TYPE1-IP", Guard::IpChecksum, PiType::Type1),
    ("T10-DIF-TYPE3-IP", Guard::IpChecksum, PiType::Type3),
    ("EXT-DIF-TYPE1-CRC64", Guard::Crc64Nvme, PiType::Type1),
    ("EXT-DIF-TYPE3-CRC64", Guard::Crc64Nvme, PiType::Type3),
];

/// `LBMD_PI_CAP_REFTAG`: the reference tag is checked, so the type is not 3.
const CAP_REFTAG: u32 = 1 << 1;

/// `struct logical_block_metadata_cap` of `linux/fs.h`, which the ioctl `FS_IOC_GETLBMD_CAP` fills
/// (Linux 6.17). Fields have the kernel's names without `lbmd_`; sizes and offsets are in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct LogicalBlockMetadataCap {
    /// `LBMD_PI_CAP_INTEGRITY` (1) and `LBMD_PI_CAP_REFTAG` (2).
    pub flags: u32,
    /// Data that one tuple covers.
    pub interval: u16,
    /// Metadata per interval.
    pub size: u8,
    /// Metadata that is not the tuple.
    pub opaque_size: u8,
    /// Where the opaque metadata starts.
    pub opaque_offset: u8,
    /// The tuple.
    pub pi_size: u8,
    /// Where the tuple starts.
    pub pi_offset: u8,
    /// 0 none, 1 IP checksum, 2 CRC-16/T10-DIF, 4 CRC-64/NVME.
    pub guard_tag_type: u8,
    /// Application tag.
    pub app_tag_size: u8,
    /// Reference tag.
    pub ref_tag_size: u8,
    /// Storage tag.
    pub storage_tag_size: u8,
}

impl LogicalBlockMetadataCap {
    /// The 16 bytes the ioctl filled, in the byte order of this machine.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 16]) -> Self {
        let [f0, f1, f2, f3, i0, i1, size, opaque_size, opaque_offset, pi_size, pi_offset, ..] = bytes;
        let [.., guard_tag_type, app_tag_size, ref_tag_size, storage_tag_size, _pad] = bytes;
        Self {
            flags: u32::from_ne_bytes([f0, f1, f2, f3]),
            interval: u16::from_ne_bytes([i0, i1]),
            size,
            opaque_size,
            opaque_offset,
            pi_size,
            pi_offset,
            guard_tag_type,
            app_tag_size,
            ref_tag_size,
            storage_tag_size,
        }
    }
}

/// Reads a device's format. The tuple may stand at any offset, and the guard covers the metadata
/// before it.
impl TryFrom<LogicalBlockMetadataCap> for IntegrityProfile {
    type Error = ProfileError;

    fn try_from(cap: LogicalBlockMetadataCap) -> Result<Self, ProfileError> {
        let LogicalBlockMetadataCap { guard_tag_type, pi_size, storage_tag_size, .. } = cap;
        let unknown = ProfileError::Capability { guard_tag_type, pi_size, storage_tag_size };
        let guard = match guard_tag_type {
            0 => return Err(ProfileError::NoProtectionInformation),
            1 => Guard::IpChecksum,
            2 => Guard::Crc16T10Dif,
            4 => Guard::Crc64Nvme,
            _ => return Err(unknown),
        };
        let pi_type = if cap.flags & CAP_REFTAG == 0 { PiType::Type3 } else { PiType::Type1 };
        let profile =
            Self::new(guard, pi_type, cap.interval.into())?.with_tuple_at(cap.size, cap.pi_offset)?;
        if usize::from(pi_size) != profile.tuple_size() || storage_tag_size != 0 {
            return Err(unknown);
        }
        Ok(profile)
    }
}

impl IntegrityProfile {
    /// The profile with a kernel name such as `T10-DIF-TYPE1-CRC`, with the bare tuple as metadata.
    /// `interval_size` is the `protection_interval_bytes` beside the name in sysfs.
    pub fn from_kernel_name(name: &str, interval_size: u32) -> Result<Self, ProfileError> {
        let (_, guard, pi_type) =
            NAMES.into_iter().find(|(known, ..)| *known == name).ok_or(ProfileError::KernelName)?;
        Self::new(guard, pi_type, interval_size)
    }

    /// The kernel's name of this profile; none for Type 2, the 32b guard and storage tags, which
    /// the kernel lacks.
    #[must_use]
    pub fn kernel_name(&self) -> Option<&'static str> {
        let format = (self.guard(), self.pi_type());
        let (name, ..) = NAMES.into_iter().find(|(_, guard, pi_type)| (*guard, *pi_type) == format)?;
        (self.storage_tag_size() == 0).then_some(name)
    }
}
