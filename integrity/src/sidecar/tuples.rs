//! What the tuples of a sidecar must say of the image's data.

use super::is_zero;
use crate::tuple::TUPLE_SIZE_MAX;
use crate::{Checks, IntegrityProfile, LengthError, PiError, Tag, Tags, Tuple, VerifyError};

/// The application tag of every tuple in a sidecar: `SB` in ASCII.
///
/// Being neither zero nor 0xFFFF, it keeps a written tuple apart from an unwritten one, whatever the guard and the
/// reference tag are, and from the escape, with which a tuple would go unchecked.
pub const APPLICATION_TAG: u16 = 0x5342;

/// Set in the application tag of a tuple that recovery has made for what it found: see [`is_adopted`].
const ADOPTED: u16 = 1;

/// The application tag of a tuple that says that the interval's own was lost with its sector of the array.
const LOST: u16 = 0x4C54;

/// The application tag that would turn an interval's checks off: SBC-4 §4.21.2.
const ESCAPE: u16 = 0xFFFF;

/// An interval that does not agree with its tuple.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Mismatch {
    /// A tag is not as it should be.
    #[error(transparent)]
    Pi(#[from] PiError),
    /// The tuple says that the interval was never written, but the interval is not all zeros.
    #[error("unwritten block not zero at LBA {lba}")]
    UnwrittenNotZero {
        /// The interval's number in the image.
        lba: u64,
    },
    /// The part of the sidecar with the interval's tuple has rotted, so nothing can be said of the data.
    #[error("tuple lost at LBA {lba}: its sector of the sidecar was damaged")]
    TupleLost {
        /// The interval's number in the image.
        lba: u64,
    },
}

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

impl Mismatch {
    /// The interval's number in the image.
    #[must_use]
    pub fn lba(&self) -> u64 {
        match self {
            Self::Pi(error) => error.lba,
            Self::UnwrittenNotZero { lba } | Self::TupleLost { lba } => *lba,
        }
    }
}

/// Writes the tuples of the intervals in `data`, of which `first_interval` is the number of the first.
pub fn generate(
    profile: &IntegrityProfile,
    first_interval: u64,
    data: &[u8],
    metadata: &mut [u8],
) -> Result<(), LengthError> {
    profile.generate(&tags(first_interval), data, metadata)
}

/// As [`generate`], but intervals of zeros become unwritten: for data whose holes are to stay holes.
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

/// All intervals of `data` that do not agree with their tuples, in order; each is reported once, with the first tag
/// that failed.
pub fn mismatches<'a>(
    profile: &'a IntegrityProfile,
    first_interval: u64,
    data: &'a [u8],
    metadata: &'a [u8],
) -> Result<Mismatches<'a>, LengthError> {
    // with nothing to check, verification comes down to the check of the lengths
    match profile.verify(&tags(first_interval), Checks::empty(), data, metadata) {
        Err(VerifyError::Length(error)) => Err(error),
        _ => Ok(Mismatches {
            profile,
            first_interval,
            data,
            metadata,
            next: 0,
            claim: Claim::Written,
            run_end: 0,
        }),
    }
}

/// Whether this tuple says that its interval was never written.
#[must_use]
#[inline]
pub fn is_unwritten(tuple: &[u8]) -> bool {
    tuple.iter().all(|&byte| byte == 0)
}

/// Whether recovery has made this tuple for data that it found after a crash and could not vouch for.
///
/// Such a block was being written, or lay in a region that was; what is in it now is protected like any other.
#[must_use]
pub fn is_adopted(profile: &IntegrityProfile, tuple: &[u8]) -> bool {
    profile.tuple(tuple).is_ok_and(|tuple| tuple.application == APPLICATION_TAG | ADOPTED)
}

/// Makes an adopted tuple one like any other: somebody has accepted what the interval holds. Tells
/// whether it was adopted.
pub fn accept(profile: &IntegrityProfile, tuple: &mut [u8]) -> bool {
    let adopted = profile.tuple(tuple).ok().filter(|tuple| tuple.application == APPLICATION_TAG | ADOPTED);
    let accepted = adopted.map(|tuple| Tuple { application: APPLICATION_TAG, ..tuple });
    accepted.is_some_and(|accepted| profile.set_tuple(&accepted, tuple).is_ok())
}

/// Whether this tuple says that the interval's own was lost with its sector of the array: see [`Mismatch::TupleLost`].
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

/// What stands for a tuple whose sector has rotted; its first bytes, as many as a tuple has.
pub(super) fn lost_tuple(profile: &IntegrityProfile) -> [u8; TUPLE_SIZE_MAX] {
    let mut bytes = [0; TUPLE_SIZE_MAX];
    let tuple = Tuple { guard: 0, application: LOST, reference: 0, storage: 0 };
    profile
        .set_tuple(&tuple, &mut bytes[..profile.metadata_size()])
        .expect("a sidecar's metadata is the tuple");
    bytes
}

/// See [`mismatches`].
#[derive(Debug, Clone)]
pub struct Mismatches<'a> {
    profile: &'a IntegrityProfile,
    first_interval: u64,
    data: &'a [u8],
    metadata: &'a [u8],
    /// The next interval to check, counted from the first.
    next: usize,
    /// What the tuples from `next` to `run_end` claim alike: runs are verified in one call.
    claim: Claim,
    run_end: usize,
}

/// What a tuple says of its interval, as far as that decides how to check it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Claim {
    Unwritten,
    Escape,
    Lost,
    Written,
}

impl Iterator for Mismatches<'_> {
    type Item = Mismatch;

    fn next(&mut self) -> Option<Mismatch> {
        while self.next < self.data.len() / self.profile.interval_size() {
            if self.next == self.run_end {
                self.start_run();
            }
            let found = match self.claim {
                Claim::Unwritten => self.find_not_zero(),
                Claim::Escape => Some((self.next, self.escape())),
                Claim::Lost => Some((self.next, Mismatch::TupleLost { lba: self.lba(self.next) })),
                Claim::Written => self.find_pi_error(),
            };
            let Some((index, mismatch)) = found else {
                self.next = self.run_end;
                continue;
            };
            self.next = index + 1;
            return Some(mismatch);
        }
        None
    }
}

impl Mismatches<'_> {
    fn start_run(&mut self) {
        let intervals = self.data.len() / self.profile.interval_size();
        let tuples = self.metadata.chunks_exact(self.profile.metadata_size()).take(intervals);
        let mut claims = tuples.skip(self.next).map(|tuple| self.claim_of(tuple));
        if let Some(claim) = claims.next() {
            let alike = claims.take_while(|&next| next == claim).count();
            self.claim = claim;
            self.run_end = self.next + 1 + alike;
        }
    }

    fn claim_of(&self, tuple: &[u8]) -> Claim {
        match self.profile.tuple(tuple).map(|tuple| tuple.application) {
            Ok(APPLICATION_TAG) => Claim::Written,
            Ok(LOST) => Claim::Lost,
            Ok(ESCAPE) => Claim::Escape,
            _ if is_unwritten(tuple) => Claim::Unwritten,
            _ => Claim::Written,
        }
    }

    fn find_not_zero(&self) -> Option<(usize, Mismatch)> {
        let (data, _) = self.rest();
        let index =
            self.next + data.chunks_exact(self.profile.interval_size()).position(|it| !is_zero(it))?;
        Some((index, Mismatch::UnwrittenNotZero { lba: self.lba(index) }))
    }

    fn find_pi_error(&self) -> Option<(usize, Mismatch)> {
        let (data, metadata) = self.rest();
        match self.profile.verify(&tags(self.lba(self.next)), Checks::all(), data, metadata) {
            Err(VerifyError::Pi(error)) => {
                let in_run = usize::try_from(error.interval).expect("an interval of a slice");
                let index = self.next + in_run;
                Some((index, PiError { interval: index as u64, ..error }.into()))
            }
            _ => None,
        }
    }

    /// No tuple of ours has the escape, so here it is no more than a wrong application tag.
    fn escape(&self) -> Mismatch {
        PiError {
            tag: Tag::Application,
            interval: self.next as u64,
            lba: self.lba(self.next),
            expected: APPLICATION_TAG.into(),
            actual: ESCAPE.into(),
            tag_size: u16::BITS,
        }
        .into()
    }

    /// Data and metadata of what is left of the run.
    fn rest(&self) -> (&[u8], &[u8]) {
        let (interval_size, metadata_size) = (self.profile.interval_size(), self.profile.metadata_size());
        (
            &self.data[self.next * interval_size..self.run_end * interval_size],
            &self.metadata[self.next * metadata_size..self.run_end * metadata_size],
        )
    }

    fn lba(&self, index: usize) -> u64 {
        self.first_interval + index as u64
    }
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
    use crate::{Guard, PiType};

    const INTERVAL: usize = 512;
    const FIRST: u64 = 0xF_FFFF_FFFE; // the reference tag of a 16b guard wraps behind the second interval

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
