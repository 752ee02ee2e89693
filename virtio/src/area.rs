//! The places of the three parts of a split ring, and access to their 16-bit fields (virtio 1.2,
//! 2.7).

use std::fmt;
use std::sync::atomic::Ordering;

use vm_memory::bitmap::{BitmapSlice, MS};
use vm_memory::{
    Bytes, GuestAddress, GuestMemoryBackend, VolatileMemory, VolatileMemoryError, VolatileSlice,
};

use crate::descriptor::Descriptor;
use crate::ring::RingError;

/// Offset of `flags` in the available and the used ring.
pub(crate) const FLAGS_OFFSET: usize = 0;
/// Offset of `idx` in the available and the used ring.
pub(crate) const IDX_OFFSET: usize = 2;
/// Offset of `ring[]` in the available and the used ring.
const ENTRIES_OFFSET: usize = 4;
/// Size of an entry of the available ring.
const AVAILABLE_ENTRY_SIZE: usize = 2;
/// Size of an entry of the used ring, `struct virtq_used_elem`.
const USED_ENTRY_SIZE: usize = 8;
/// Size of `used_event` and `avail_event`, which follow the entries if `EVENT_IDX` was negotiated.
const EVENT_SIZE: usize = 2;

/// The place of the ring in memory, in guest physical addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RingAddresses {
    /// Descriptor table, 16-byte aligned.
    pub descriptor_table: GuestAddress,
    /// Available ring, the driver's area, 2-byte aligned.
    pub available_ring: GuestAddress,
    /// Used ring, the device's area, 4-byte aligned.
    pub used_ring: GuestAddress,
}

/// One of the three parts of a split ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RingArea {
    /// `struct virtq_desc[]`
    DescriptorTable,
    /// `struct virtq_avail`
    AvailableRing,
    /// `struct virtq_used`
    UsedRing,
}

impl fmt::Display for RingArea {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::DescriptorTable => "descriptor table",
            Self::AvailableRing => "available ring",
            Self::UsedRing => "used ring",
        })
    }
}

/// The shape of a ring.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RingLayout {
    /// Number of entries, a power of two.
    pub(crate) size: u16,
    pub(crate) addresses: RingAddresses,
    pub(crate) event_idx: bool,
}

impl RingLayout {
    /// The offset of entry `index`, which counts modulo 2^16, in the available ring.
    pub(crate) fn available_entry(&self, index: u16) -> usize {
        ENTRIES_OFFSET + self.slot(index) * AVAILABLE_ENTRY_SIZE
    }

    /// The offset of entry `index`, which counts modulo 2^16, in the used ring.
    pub(crate) fn used_entry(&self, index: u16) -> usize {
        ENTRIES_OFFSET + self.slot(index) * USED_ENTRY_SIZE
    }

    /// `used_event`, behind the available ring.
    pub(crate) fn used_event(&self) -> usize {
        ENTRIES_OFFSET + usize::from(self.size) * AVAILABLE_ENTRY_SIZE
    }

    /// `avail_event`, behind the used ring.
    pub(crate) fn avail_event(&self) -> usize {
        ENTRIES_OFFSET + usize::from(self.size) * USED_ENTRY_SIZE
    }

    /// Checks the alignment of all three areas and that they lie in guest memory.
    pub(crate) fn check<M: GuestMemoryBackend>(&self, mem: &M) -> Result<(), RingError> {
        for area in [RingArea::DescriptorTable, RingArea::AvailableRing, RingArea::UsedRing] {
            let (address, alignment) = (self.address(area), alignment(area));
            if !address.0.is_multiple_of(alignment) {
                return Err(RingError::Misaligned { area, address, alignment });
            }
            self.map(mem, area)?;
        }
        Ok(())
    }

    /// Translates an area. Done at each use, since the memory map may change while the ring lives.
    pub(crate) fn map<'m, M: GuestMemoryBackend>(
        &self,
        mem: &'m M,
        area: RingArea,
    ) -> Result<MappedArea<'m, MS<'m, M>>, RingError> {
        let address = self.address(area);
        match mem.get_slice(address, self.len(area)) {
            Ok(slice) => Ok(MappedArea { slice, area, address }),
            Err(source) => Err(RingError::OutsideMemory { area, address, source }),
        }
    }

    pub(crate) fn used_ring_len(&self) -> usize {
        self.len(RingArea::UsedRing)
    }

    fn address(&self, area: RingArea) -> GuestAddress {
        match area {
            RingArea::DescriptorTable => self.addresses.descriptor_table,
            RingArea::AvailableRing => self.addresses.available_ring,
            RingArea::UsedRing => self.addresses.used_ring,
        }
    }

    fn len(&self, area: RingArea) -> usize {
        let event_len = if self.event_idx { EVENT_SIZE } else { 0 };
        match area {
            RingArea::DescriptorTable => usize::from(self.size) * Descriptor::SIZE,
            RingArea::AvailableRing => self.used_event() + event_len,
            RingArea::UsedRing => self.avail_event() + event_len,
        }
    }

    fn slot(&self, index: u16) -> usize {
        usize::from(index & (self.size - 1))
    }
}

fn alignment(area: RingArea) -> u64 {
    match area {
        RingArea::DescriptorTable => 16,
        RingArea::AvailableRing => 2,
        RingArea::UsedRing => 4,
    }
}

/// An area of the ring, translated.
#[derive(Debug)]
pub(crate) struct MappedArea<'m, B> {
    slice: VolatileSlice<'m, B>,
    area: RingArea,
    address: GuestAddress,
}

impl<'m, B: BitmapSlice> MappedArea<'m, B> {
    /// The memory itself.
    pub(crate) fn as_slice(&self) -> &VolatileSlice<'m, B> {
        &self.slice
    }

    /// Reads a little-endian field once.
    pub(crate) fn load(&self, offset: usize, order: Ordering) -> Result<u16, RingError> {
        self.slice.load(offset, order).map(u16::from_le).map_err(|error| self.outside(error))
    }

    /// Writes a little-endian field.
    pub(crate) fn store(&self, offset: usize, value: u16, order: Ordering) -> Result<(), RingError> {
        self.slice.store(value.to_le(), offset, order).map_err(|error| self.outside(error))
    }

    /// Writes a used element in one piece, ordered by the store of the used index that follows.
    pub(crate) fn store_used_element(&self, offset: usize, head: u16, len: u32) -> Result<(), RingError> {
        let element = u64::from(len) << 32 | u64::from(head);
        let entry = self.slice.get_ref(offset).map_err(|error| self.outside(error))?;
        entry.store(element.to_le());
        Ok(())
    }

    fn outside(&self, source: VolatileMemoryError) -> RingError {
        RingError::OutsideMemory { area: self.area, address: self.address, source: source.into() }
    }
}
