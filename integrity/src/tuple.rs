//! The tuple and its big-endian bytes.

use crate::length::LengthError;
use crate::profile::IntegrityProfile;

/// Bytes of the largest tuple.
pub(crate) const TUPLE_SIZE_MAX: usize = 16;

/// The tags of one interval, as its tuple holds them.
///
/// ```text
/// 16b guard,  8 bytes   0-1 guard   2-3 application    4-7 storage, then reference (32 bits)
/// 32b guard, 16 bytes   0-3 guard   4-5 application   6-15 storage, then reference (80 bits)
/// 64b guard, 16 bytes   0-7 guard   8-9 application  10-15 storage, then reference (48 bits)
/// ```
///
/// Every field is big-endian. The storage tag is the most significant STS bits of the last field:
/// NVM Command Set specification §5.2.1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Tuple {
    /// Guard tag.
    pub guard: u64,
    /// Application tag.
    pub application: u16,
    /// Reference tag.
    pub reference: u64,
    /// Storage tag.
    pub storage: u64,
}

impl IntegrityProfile {
    /// The tuple in the metadata of one interval.
    pub fn tuple(&self, metadata: &[u8]) -> Result<Tuple, LengthError> {
        self.check_metadata_of_one(metadata.len())?;
        Ok(self.unpack(load(&metadata[self.tuple_range()])))
    }

    /// Writes `tuple` into the metadata of one interval and leaves the opaque bytes as they are.
    /// Tags wider than their fields are cut to the field's low bits.
    pub fn set_tuple(&self, tuple: &Tuple, metadata: &mut [u8]) -> Result<(), LengthError> {
        self.check_metadata_of_one(metadata.len())?;
        store(self.pack(tuple), &mut metadata[self.tuple_range()]);
        Ok(())
    }

    /// The tuple as one big-endian integer: the border of storage and reference tag may fall on any
    /// bit. A tuple of 8 bytes takes the high half, so that the guard tag is on top in each format.
    pub(crate) fn pack(&self, tuple: &Tuple) -> u128 {
        u128::from(tuple.guard & self.guard_mask()) << self.guard_shift()
            | u128::from(tuple.application) << self.application_shift()
            | u128::from(tuple.storage & self.storage_mask()) << self.storage_shift()
            | u128::from(tuple.reference & self.reference_mask()) << self.reference_shift()
    }

    /// The tags of a tuple's integer.
    #[expect(clippy::cast_possible_truncation, reason = "each tag is cut out of the integer")]
    pub(crate) fn unpack(&self, value: u128) -> Tuple {
        Tuple {
            guard: (value >> self.guard_shift()) as u64,
            application: (value >> self.application_shift()) as u16,
            storage: (value >> self.storage_shift()) as u64 & self.storage_mask(),
            reference: (value >> self.reference_shift()) as u64 & self.reference_mask(),
        }
    }
}

/// Reads a tuple's bytes, 8 or 16.
#[inline]
pub(crate) fn load(bytes: &[u8]) -> u128 {
    match (bytes.first_chunk::<TUPLE_SIZE_MAX>(), bytes.first_chunk::<8>()) {
        (Some(bytes), _) => u128::from_be_bytes(*bytes),
        (None, Some(bytes)) => u128::from(u64::from_be_bytes(*bytes)) << 64,
        (None, None) => 0,
    }
}

/// Writes a tuple's bytes, 8 or 16.
#[inline]
pub(crate) fn store(value: u128, bytes: &mut [u8]) {
    if let Some(bytes) = bytes.first_chunk_mut::<TUPLE_SIZE_MAX>() {
        *bytes = value.to_be_bytes();
    } else if let Some(bytes) = bytes.first_chunk_mut::<8>() {
        *bytes = ((value >> 64) as u64).to_be_bytes();
    }
}
