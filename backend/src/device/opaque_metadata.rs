//! Metadata that a device stores without checking it: room for tuples of our own, which it writes
//! together with the data.

use integrity::{Guard, IntegrityProfile, PiType, ProfileError, TuplePlace};
use thiserror::Error;

/// Why opaque metadata cannot hold tuples of our own. Sizes are in bytes, for each logical block.
#[derive(Debug, Error)]
pub enum UnusableMetadata {
    /// Smaller than the smallest tuple.
    #[error(
        "its {0} bytes of metadata a block are not protection information, and too few for a tuple of our own, which takes 8"
    )]
    TooSmall(u16),
    /// Larger than a profile can be.
    #[error("it has {0} bytes of metadata a block, and no more than 64 are supported")]
    TooLarge(u16),
    /// Blocks of a size that no profile has.
    #[error(transparent)]
    Profile(#[from] ProfileError),
}

/// The profile of our own tuples in `size` bytes of metadata for each `interval_size` bytes: the
/// 64b guard where its tuple fits, else the 16b guard. The tuple comes first, and what follows it
/// is zeros that mean nothing.
pub(super) fn profile_in(size: u16, interval_size: u32) -> Result<IntegrityProfile, UnusableMetadata> {
    let guard = match size {
        0..8 => return Err(UnusableMetadata::TooSmall(size)),
        8..16 => Guard::Crc16T10Dif,
        16.. => Guard::Crc64Nvme,
    };
    let size = u8::try_from(size).ok().filter(|size| *size <= 64).ok_or(UnusableMetadata::TooLarge(size))?;
    Ok(IntegrityProfile::new(guard, PiType::Type1, interval_size)?.with_metadata(size, TuplePlace::First)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_size_chooses_the_guard() {
        for (size, guard) in [
            (8, Guard::Crc16T10Dif),
            (15, Guard::Crc16T10Dif),
            (16, Guard::Crc64Nvme),
            (64, Guard::Crc64Nvme),
        ] {
            let profile = profile_in(size, 512).unwrap();
            assert_eq!(
                (profile.guard(), profile.metadata_size(), profile.tuple_offset()),
                (guard, size.into(), 0)
            );
        }
    }

    #[test]
    fn metadata_that_holds_no_tuple_is_refused() {
        assert!(matches!(profile_in(7, 512), Err(UnusableMetadata::TooSmall(7))));
        assert!(matches!(profile_in(65, 512), Err(UnusableMetadata::TooLarge(65))));
        assert!(matches!(profile_in(8, 520), Err(UnusableMetadata::Profile(_))));
    }
}
