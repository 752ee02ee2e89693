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
/// Every field is big-endian. The storage tag is the most significant STS bits of the last field: NVM Command Set
/// specification §5.2.1.1.
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
        Ok(self.decode(&metadata[self.tuple_range()]))
    }

    /// Writes `tuple` into the metadata of one interval and leaves the opaque bytes as they are. Tags wider than
    /// their fields are cut to the field's low bits.
    pub fn set_tuple(&self, tuple: &Tuple, metadata: &mut [u8]) -> Result<(), LengthError> {
        self.check_metadata_of_one(metadata.len())?;
        self.encode(tuple, &mut metadata[self.tuple_range()]);
        Ok(())
    }

    /// Reads a tuple's bytes: as one big-endian integer, whose fields are cut out by shifts, since the border of
    /// storage and reference tag may fall on any bit.
    #[inline]
    #[expect(
        clippy::cast_possible_truncation,
        reason = "each field is cut out of the tuple's integer"
    )]
    pub(crate) fn decode(&self, bytes: &[u8]) -> Tuple {
        let value = match (bytes.first_chunk::<TUPLE_SIZE_MAX>(), bytes.first_chunk::<8>()) {
            (Some(bytes), _) => u128::from_be_bytes(*bytes),
            (None, Some(bytes)) => u64::from_be_bytes(*bytes).into(),
            (None, None) => 0,
        };
        let space = value & !(u128::MAX << self.space_size());
        Tuple {
            guard: (value >> (self.space_size() + u16::BITS)) as u64,
            application: (value >> self.space_size()) as u16,
            reference: space as u64 & self.reference_mask(),
            storage: (space >> self.reference_tag_size()) as u64,
        }
    }

    /// Writes a tuple's bytes.
    #[inline]
    #[expect(
        clippy::cast_possible_truncation,
        reason = "an 8-byte tuple's integer has 64 bits"
    )]
    pub(crate) fn encode(&self, tuple: &Tuple, bytes: &mut [u8]) {
        let storage = u128::from(tuple.storage & self.storage_mask()) << self.reference_tag_size();
        let space = storage | u128::from(tuple.reference & self.reference_mask());
        let application = u128::from(tuple.application) << self.space_size();
        let value = u128::from(tuple.guard) << (self.space_size() + u16::BITS) | application | space;
        if let Some(bytes) = bytes.first_chunk_mut::<TUPLE_SIZE_MAX>() {
            *bytes = value.to_be_bytes();
        } else if let Some(bytes) = bytes.first_chunk_mut::<8>() {
            *bytes = (value as u64).to_be_bytes();
        }
    }
}
