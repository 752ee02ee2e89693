//! The rules for the tuples of a sidecar: what they must say of the image's data.

mod mismatches;

pub use self::mismatches::{Mismatch, Mismatches, mismatches};

use super::is_zero;
use crate::tuple::TUPLE_SIZE_MAX;
use crate::{IntegrityProfile, LengthError, Tags, Tuple};

/// The application tag of every tuple in a sidecar: `SB` in ASCII.
///
/// Being neither zero nor 0xFFFF, it keeps a written tuple apart from an unwritten one, whatever
/// the guard and the reference tag are, and from the escape, with which a tuple would go unchecked.
pub const APPLICATION_TAG: u16 = 0x5342;

/// Set in the application tag of a tuple that recovery has made for what it found: see
/// [`is_adopted`].
const ADOPTED: u16 = 1;

/// The application tag of a tuple that says that the interval's own was lost with its sector of the
/// array.
const LOST: u16 = 0x4C54;

/// Why data was not found good.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SidecarError {
    /// An interval does not agree with its tuple.
    #[error(transparent)]
    Mismatch(#[from] Mismatch),
    /// Data and metadata do not fit each other, so nothing was checked.
    #[error(transparent)]
    Length(#[from] LengthError),
}

/// Writes the tuples of the intervals in `data`, of which `first_interval` is the number of the
/// first.
pub fn generate(
    profile: &IntegrityProfile,
    first_interval: u64,
    data: &[u8],
    metadata: &mut [u8],
) -> Result<(), LengthError> {
    profile.generate(&tags(first_interval), data, metadata)
}

/// As [`generate`], but intervals of zeros become unwritten: for data whose holes are to stay
/// holes.
pub fn generate_sparse(
    profile: &IntegrityProfile,
    first_interval: u64,
    data: &[u8],
    metadata: &mut [u8],
) -> Result<(), LengthError> {
    generate(profile, first_interval, data, metadata)?;
    let intervals = data.chunks_exact(profile.interval_size());
    for (interval, metadata) in intervals.zip(metadata.chunks_exact_mut(profile.metadata_size())) {
        if is_zero(interval) {
            metadata.fill(0);
        }
    }
    Ok(())
}

/// Checks the intervals of `data` against their tuples, up to the first that does not agree.
pub fn verify(
    profile: &IntegrityProfile,
    first_interval: u64,
    data: &[u8],
    metadata: &[u8],
) -> Result<(), SidecarError> {
    match mismatches(profile, first_interval, data, metadata)?.next() {
        None => Ok(()),
        Some(mismatch) => Err(mismatch.into()),
    }
}

/// Whether this tuple says that its interval was never written.
#[must_use]
#[inline]
pub fn is_unwritten(tuple: &[u8]) -> bool {
    tuple.iter().all(|&byte| byte == 0)
}

/// Whether recovery has made this tuple for data that it found after a crash and could not vouch
/// for.
///
/// Such a block was being written, or lay in a region that was; its present content is protected
/// like any other.
#[must_use]
pub fn is_adopted(profile: &IntegrityProfile, tuple: &[u8]) -> bool {
    profile.tuple(tuple).is_ok_and(|tuple| tuple.application == APPLICATION_TAG | ADOPTED)
}

/// Makes an adopted tuple one like any other, after a person has accepted what the interval holds.
/// Returns whether it was adopted.
pub fn accept(profile: &IntegrityProfile, tuple: &mut [u8]) -> bool {
    let adopted = profile.tuple(tuple).ok().filter(|tuple| tuple.application == APPLICATION_TAG | ADOPTED);
    let accepted = adopted.map(|tuple| Tuple { application: APPLICATION_TAG, ..tuple });
    accepted.is_some_and(|accepted| profile.set_tuple(&accepted, tuple).is_ok())
}

/// Whether this tuple says that the interval's own was lost with its sector of the array: see
/// [`Mismatch::TupleLost`].
#[must_use]
pub fn is_lost(profile: &IntegrityProfile, tuple: &[u8]) -> bool {
    profile.tuple(tuple).is_ok_and(|tuple| tuple.application == LOST)
}

/// Marks a tuple as adopted.
pub(super) fn adopt(profile: &IntegrityProfile, tuple: &mut [u8]) {
    if let Ok(found) = profile.tuple(tuple) {
        let adopted = Tuple { application: found.application | ADOPTED, ..found };
        profile.set_tuple(&adopted, tuple).expect("as long as the tuple it was read from");
    }
}

/// The bytes that replace a tuple whose sector is damaged. Only the first ones count, as many as a
/// tuple has.
pub(super) fn lost_tuple(profile: &IntegrityProfile) -> [u8; TUPLE_SIZE_MAX] {
    let mut bytes = [0; TUPLE_SIZE_MAX];
    let tuple = Tuple { guard: 0, application: LOST, reference: 0, storage: 0 };
    profile
        .set_tuple(&tuple, &mut bytes[..profile.metadata_size()])
        .expect("a sidecar's metadata is the tuple");
    bytes
}

/// The seed of every request to a sidecar: the reference tag is the interval's number.
fn tags(first_interval: u64) -> Tags {
    Tags { application: APPLICATION_TAG, application_mask: !ADOPTED, ..Tags::at_lba(first_interval) }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;
    use crate::{Guard, PiError, PiType, Tag};

    const INTERVAL: usize = 512;
    /// The reference tag of a 16b guard wraps behind the second interval.
    const FIRST: u64 = 0xF_FFFF_FFFE;

    fn profile(guard: Guard) -> IntegrityProfile {
        IntegrityProfile::new(guard, PiType::Type1, 512).unwrap()
    }

    fn any_profile() -> impl Strategy<Value = IntegrityProfile> {
        prop::sample::select(vec![Guard::Crc16T10Dif, Guard::Crc32c, Guard::Crc64Nvme]).prop_map(profile)
    }

    /// One byte value per interval, often zero; its intervals then hold nothing else.
    fn fills() -> impl Strategy<Value = Vec<u8>> {
        vec(prop_oneof![Just(0), any::<u8>()], 0..40)
    }

    fn data_of(fills: &[u8]) -> Vec<u8> {
        fills.iter().flat_map(|&fill| [fill; INTERVAL]).collect()
    }

    fn generated(profile: &IntegrityProfile, data: &[u8]) -> Vec<u8> {
        let mut metadata = vec![0xEE; profile.metadata_len(data.len())];
        generate(profile, FIRST, data, &mut metadata).unwrap();
        metadata
    }

    /// The rule stated interval by interval, to compare the runs with.
    fn agrees(profile: &IntegrityProfile, lba: u64, data: &[u8], tuple: &[u8]) -> bool {
        let mut expected = vec![0; tuple.len()];
        generate(profile, lba, data, &mut expected).unwrap();
        let mut adopted = expected.clone();
        adopt(profile, &mut adopted);
        tuple == expected || tuple == adopted || (tuple.iter().chain(data).all(|&byte| byte == 0))
    }

    fn lbas(profile: &IntegrityProfile, data: &[u8], metadata: &[u8]) -> Vec<u64> {
        mismatches(profile, FIRST, data, metadata).unwrap().map(|mismatch| mismatch.lba()).collect()
    }

    proptest! {
        #[test]
        fn written_intervals_verify(profile in any_profile(), fills in fills()) {
            let data = data_of(&fills);
            let metadata = generated(&profile, &data);
            prop_assert_eq!(verify(&profile, FIRST, &data, &metadata), Ok(()));
            prop_assert!(!metadata.chunks_exact(profile.tuple_size()).any(is_unwritten));
        }

        #[test]
        fn sparse_tuples_verify_and_follow_the_zeros(profile in any_profile(), fills in fills()) {
            let data = data_of(&fills);
            let mut metadata = vec![0xEE; profile.metadata_len(data.len())];
            generate_sparse(&profile, FIRST, &data, &mut metadata).unwrap();
            prop_assert_eq!(verify(&profile, FIRST, &data, &metadata), Ok(()));
            let unwritten: Vec<_> = metadata.chunks_exact(profile.tuple_size()).map(is_unwritten).collect();
            let zero: Vec<_> = fills.iter().map(|&fill| fill == 0).collect();
            prop_assert_eq!(unwritten, zero);
        }

        #[test]
        fn reports_exactly_the_intervals_that_disagree(
            profile in any_profile(),
            fills in fills(),
            lost in vec(any::<bool>(), 40),
            flips in vec((any::<prop::sample::Index>(), 0_u8..8), 0..6),
            flip_tuples: bool,
        ) {
            let mut data = data_of(&fills);
            let mut metadata = generated(&profile, &data);
            for (tuple, _) in metadata.chunks_exact_mut(profile.tuple_size()).zip(&lost).filter(|(_, lost)| **lost) {
                tuple.fill(0);
            }
            let target = if flip_tuples { &mut metadata } else { &mut data };
            for (at, bit) in flips.iter().filter(|_| !fills.is_empty()) {
                *at.get_mut(target) ^= 1 << bit;
            }
            let tuples = metadata.chunks_exact(profile.tuple_size());
            let expected: Vec<_> = (FIRST..)
                .zip(data.chunks_exact(INTERVAL).zip(tuples))
                .filter(|(lba, (data, tuple))| !agrees(&profile, *lba, data, tuple))
                .map(|(lba, _)| lba)
                .collect();
            prop_assert_eq!(lbas(&profile, &data, &metadata), expected);
        }

        #[test]
        fn arbitrary_tuples_never_panic(profile in any_profile(), fills in fills(), bytes in vec(any::<u8>(), 700)) {
            let _ = verify(&profile, FIRST, &data_of(&fills), &bytes);
        }
    }

    #[test]
    fn lost_tuple_of_written_data_is_named() {
        let profile = profile(Guard::Crc64Nvme);
        let data = data_of(&[1, 2, 3]);
        let mut metadata = generated(&profile, &data);
        metadata[16..32].fill(0);
        let error = verify(&profile, FIRST, &data, &metadata).unwrap_err();
        assert_eq!(error, Mismatch::UnwrittenNotZero { lba: FIRST + 1 }.into());
        assert_eq!(error.to_string(), format!("unwritten block not zero at LBA {}", FIRST + 1));
    }

    #[test]
    fn escape_does_not_pass_unchecked() {
        let profile = profile(Guard::Crc64Nvme);
        let data = data_of(&[1, 2, 3]);
        let mut metadata = generated(&profile, &data);
        metadata[24..26].fill(0xFF);
        let error = PiError {
            tag: Tag::Application,
            interval: 1,
            lba: FIRST + 1,
            expected: 0x5342,
            actual: 0xFFFF,
            tag_size: 16,
        };
        assert_eq!(verify(&profile, FIRST, &data, &metadata), Err(Mismatch::Pi(error).into()));
    }

    #[test]
    fn data_of_another_place_fails_by_its_reference_tag() {
        let profile = profile(Guard::Crc64Nvme);
        let data = data_of(&[7, 7]);
        let mut metadata = generated(&profile, &data);
        metadata.rotate_left(16);
        let tags: Vec<_> = mismatches(&profile, FIRST, &data, &metadata)
            .unwrap()
            .map(|mismatch| match mismatch {
                Mismatch::Pi(PiError { tag, interval, expected, actual, .. }) => {
                    (tag, interval, expected, actual)
                }
                Mismatch::UnwrittenNotZero { .. } | Mismatch::TupleLost { .. } => panic!("{mismatch}"),
            })
            .collect();
        assert_eq!(tags, [(Tag::Reference, 0, FIRST, FIRST + 1), (Tag::Reference, 1, FIRST + 1, FIRST)]);
    }

    #[test]
    fn zero_data_at_lba_0_of_a_16b_guard_is_not_taken_for_unwritten() {
        let profile = profile(Guard::Crc16T10Dif);
        let mut tuple = [0; 8];
        generate(&profile, 0, &[0; INTERVAL], &mut tuple).unwrap();
        assert_eq!(tuple, [0, 0, 0x53, 0x42, 0, 0, 0, 0]);
    }

    #[test]
    fn lengths_that_do_not_fit_are_refused() {
        let profile = profile(Guard::Crc64Nvme);
        assert!(matches!(verify(&profile, 0, &[0; 511], &[0; 16]), Err(SidecarError::Length(_))));
        assert!(matches!(verify(&profile, 0, &[0; 1024], &[0; 31]), Err(SidecarError::Length(_))));
    }
}
