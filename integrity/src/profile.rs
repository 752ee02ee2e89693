//! The description of a format: everything about the metadata that does not change from request to
//! request.

use std::ops::Range;

use thiserror::Error;

use crate::guard::Guard;

/// The protection information type, which gives the reference tag its rule: SBC-4, protection
/// information model; NVM Command Set specification §5.2.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PiType {
    /// The reference tag is the low bits of the LBA.
    Type1,
    /// The reference tag starts at any value and grows by one an interval.
    Type2,
    /// The reference tag is opaque, the same in each interval and never checked.
    Type3,
}

/// Where the tuple stands in metadata that is larger: NVMe's PIL (DPS bit 3).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TuplePlace {
    /// The tuple comes first; the guard covers the data alone.
    First,
    /// The tuple comes last; the guard covers the data, then the metadata before the tuple.
    Last,
}

/// A format that cannot be: found when a profile is made, so that nothing is left to find on the
/// path.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum ProfileError {
    /// The interval is no power of two from 512 to 65536 bytes.
    #[error("protection interval of {0} bytes is not a power of two from 512 to 65536")]
    IntervalSize(u32),
    /// The metadata of an interval cannot hold the tuple, or is larger than 64 bytes.
    #[error("metadata of {metadata_size} bytes per interval is not from {tuple_size} to 64")]
    MetadataSize {
        /// Bytes of metadata asked for, per interval.
        metadata_size: u8,
        /// Bytes of the guard's tuple.
        tuple_size: u8,
    },
    /// The tuple would stand beyond the end of the metadata.
    #[error("tuple at byte {tuple_offset} does not fit in metadata of {metadata_size} bytes")]
    TupleOffset {
        /// Byte offset of the tuple.
        tuple_offset: u8,
        /// Bytes of metadata per interval.
        metadata_size: u8,
    },
    /// The storage tag size is outside what the guard's format permits.
    #[error("storage tag size of {bits} bits is not from {min} to {max}")]
    StorageTagSize {
        /// Bits asked for.
        bits: u8,
        /// Fewest bits the guard's tuple permits.
        min: u8,
        /// Most bits the guard's tuple permits.
        max: u8,
    },
    /// The kernel reports metadata without protection information, or no metadata at all.
    #[error("the device has no protection information")]
    NoProtectionInformation,
    /// The kernel reports a guard type or tag sizes that none of its profiles has.
    #[error(
        "guard type {guard_tag_type} with a tuple of {pi_size} bytes and a storage tag of {storage_tag_size} is unknown"
    )]
    Capability {
        /// `lbmd_guard_tag_type`.
        guard_tag_type: u8,
        /// `lbmd_pi_size`, in bytes.
        pi_size: u8,
        /// `lbmd_storage_tag_size`, in bytes.
        storage_tag_size: u8,
    },
    /// The kernel has no profile of this name.
    #[error("not a kernel profile name with protection information, such as T10-DIF-TYPE1-CRC")]
    KernelName,
    /// No guard has this name.
    #[error("guard is none of crc16-t10dif, ip-checksum, crc32c, crc64-nvme")]
    GuardName,
}

/// A protection information format: guard, type, interval, metadata size and the tuple's place in
/// it.
///
/// Made once and checked then; equal profiles lay out equal bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct IntegrityProfile {
    guard: Guard,
    pi_type: PiType,
    interval_size: u32,
    metadata_size: u8,
    /// Byte offset of the tuple in an interval's metadata. The guard covers what comes before.
    tuple_offset: u8,
    /// STS: bits of the storage tag.
    storage_tag_size: u8,
}

impl IntegrityProfile {
    /// A profile whose metadata is the bare tuple, with the smallest storage tag the guard permits:
    /// none, but 16 bits with [`Guard::Crc32c`]. `interval_size` is in bytes: a power of two from
    /// 512 to 65536.
    ///
    /// NVMe has the 32b and 64b guards for intervals from 4096 bytes only; shorter ones are
    /// accepted here.
    pub const fn new(guard: Guard, pi_type: PiType, interval_size: u32) -> Result<Self, ProfileError> {
        if !interval_size.is_power_of_two() || interval_size < 512 || interval_size > 65536 {
            return Err(ProfileError::IntervalSize(interval_size));
        }
        Ok(Self {
            guard,
            pi_type,
            interval_size,
            metadata_size: tuple_size(guard),
            tuple_offset: 0,
            storage_tag_size: storage_tag_sizes(guard).0,
        })
    }

    /// The same profile with `size` bytes of metadata per interval, from the tuple's size to 64,
    /// and the tuple at `place` in it. The bytes outside the tuple are opaque: the caller's own.
    pub const fn with_metadata(self, size: u8, place: TuplePlace) -> Result<Self, ProfileError> {
        let tuple_offset = match place {
            TuplePlace::First => 0,
            TuplePlace::Last => size.saturating_sub(tuple_size(self.guard)),
        };
        self.with_tuple_at(size, tuple_offset)
    }

    /// [`with_metadata`](Self::with_metadata) with the tuple at any offset: the kernel allows that.
    pub(crate) const fn with_tuple_at(mut self, size: u8, tuple_offset: u8) -> Result<Self, ProfileError> {
        let tuple_size = tuple_size(self.guard);
        if size < tuple_size || size > 64 {
            return Err(ProfileError::MetadataSize { metadata_size: size, tuple_size });
        }
        if tuple_offset > size - tuple_size {
            return Err(ProfileError::TupleOffset { tuple_offset, metadata_size: size });
        }
        self.metadata_size = size;
        self.tuple_offset = tuple_offset;
        Ok(self)
    }

    /// The same profile with a storage tag of `bits` (NVMe's STS), taken from the reference tag's
    /// most significant bits: 0 to 32 with the 16b guard, 16 to 64 with the 32b guard, 0 to 48 with
    /// the 64b guard, and 0 with the IP checksum, which no NVMe format has.
    pub const fn with_storage_tag_size(mut self, bits: u8) -> Result<Self, ProfileError> {
        let (min, max) = storage_tag_sizes(self.guard);
        if bits < min || bits > max {
            return Err(ProfileError::StorageTagSize { bits, min, max });
        }
        self.storage_tag_size = bits;
        Ok(self)
    }

    /// The checksum in the guard tag.
    #[must_use]
    pub const fn guard(&self) -> Guard {
        self.guard
    }

    /// The protection information type.
    #[must_use]
    pub const fn pi_type(&self) -> PiType {
        self.pi_type
    }

    /// Bytes of data that one tuple covers.
    #[must_use]
    pub const fn interval_size(&self) -> usize {
        self.interval_size as usize
    }

    /// Bytes of the tuple: 8 with 16-bit guards, else 16.
    #[must_use]
    pub const fn tuple_size(&self) -> usize {
        tuple_size(self.guard) as usize
    }

    /// Byte offset of the tuple in an interval's metadata; the guard covers the metadata before it.
    #[must_use]
    pub const fn tuple_offset(&self) -> usize {
        self.tuple_offset as usize
    }

    /// Bytes of metadata per interval.
    #[must_use]
    pub const fn metadata_size(&self) -> usize {
        self.metadata_size as usize
    }

    /// Bytes of metadata that belong to the whole intervals in `data_len` bytes of data.
    #[must_use]
    pub const fn metadata_len(&self, data_len: usize) -> usize {
        data_len / self.interval_size() * self.metadata_size()
    }

    /// Bytes of an interval with its metadata, where they are interleaved: 520, 528, 4104, 4160,
    /// ...
    #[must_use]
    pub const fn block_size(&self) -> usize {
        self.interval_size() + self.metadata_size()
    }

    /// Bits of the storage tag: NVMe's STS.
    #[must_use]
    pub const fn storage_tag_size(&self) -> u32 {
        self.storage_tag_size as u32
    }

    /// Bits of the reference tag: what the storage tag leaves.
    #[must_use]
    pub const fn reference_tag_size(&self) -> u32 {
        self.space_size() - self.storage_tag_size()
    }

    /// Where the tuple stands in an interval's metadata.
    pub(crate) const fn tuple_range(&self) -> Range<usize> {
        self.tuple_offset()..self.tuple_offset() + self.tuple_size()
    }

    /// Bytes of an interleaved block that the guard covers: all before the tuple.
    pub(crate) const fn covered_size(&self) -> usize {
        self.interval_size() + self.tuple_offset()
    }

    /// Bytes of metadata that follow the tuple.
    pub(crate) const fn uncovered_size(&self) -> usize {
        self.metadata_size() - self.tuple_offset() - self.tuple_size()
    }

    /// Bits of the storage and reference space, the tuple's last field.
    const fn space_size(&self) -> u32 {
        match self.guard {
            Guard::Crc16T10Dif | Guard::IpChecksum => 32,
            Guard::Crc32c => 80,
            Guard::Crc64Nvme => 48,
        }
    }

    /// Bits below the guard tag in the tuple's integer, whose top it is.
    pub(crate) const fn guard_shift(&self) -> u32 {
        u128::BITS - self.guard.size()
    }

    /// Bits below the application tag in the tuple's integer.
    pub(crate) const fn application_shift(&self) -> u32 {
        self.guard_shift() - u16::BITS
    }

    /// Bits below the storage tag in the tuple's integer.
    pub(crate) const fn storage_shift(&self) -> u32 {
        self.application_shift() - self.storage_tag_size()
    }

    /// Bits below the reference tag in the tuple's integer: 64 or none.
    pub(crate) const fn reference_shift(&self) -> u32 {
        self.storage_shift() - self.reference_tag_size()
    }

    /// The guard tag's bits.
    pub(crate) const fn guard_mask(&self) -> u64 {
        low_bits(self.guard.size())
    }

    /// The reference tag's bits; all ones is also its escape value.
    pub(crate) const fn reference_mask(&self) -> u64 {
        low_bits(self.reference_tag_size())
    }

    /// The storage tag's bits.
    pub(crate) const fn storage_mask(&self) -> u64 {
        low_bits(self.storage_tag_size())
    }
}

/// Bytes of the guard's tuple.
const fn tuple_size(guard: Guard) -> u8 {
    match guard {
        Guard::Crc16T10Dif | Guard::IpChecksum => 8,
        Guard::Crc32c | Guard::Crc64Nvme => 16,
    }
}

/// The fewest and the most bits of storage tag that the guard's tuple permits: NVM Command Set
/// specification, the STS field of the Extended LBA Format.
const fn storage_tag_sizes(guard: Guard) -> (u8, u8) {
    match guard {
        Guard::Crc16T10Dif => (0, 32),
        Guard::IpChecksum => (0, 0),
        Guard::Crc32c => (16, 64),
        Guard::Crc64Nvme => (0, 48),
    }
}

/// `bits` ones, of 64 at most.
const fn low_bits(bits: u32) -> u64 {
    match bits {
        0 => 0,
        _ => u64::MAX >> (64 - bits),
    }
}
