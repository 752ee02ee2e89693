//! The contents of a block after a crash, found out from the block itself.

use std::cell::LazyCell;
use std::collections::HashSet;

use foldhash::fast::RandomState;

use super::is_zero;
use super::tuples::{adopt, generate, is_unwritten};
use crate::IntegrityProfile;
use crate::tuple::TUPLE_SIZE_MAX;

/// A tuple's bytes; those behind its size are zero.
type TupleBytes = [u8; TUPLE_SIZE_MAX];

/// Candidates that are compared one by one to find a repetition.
const FEW: usize = 16;

/// The possible contents of an interval: the tuples of writes that may have reached it, the
/// likeliest first.
#[derive(Debug, Clone, Default)]
pub struct Candidates {
    /// Each once.
    tuples: Vec<TupleBytes>,
    /// The same, where there are more than a [`FEW`].
    known: HashSet<TupleBytes, RandomState>,
}

/// The contents that an interval was found to have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Verdict {
    bytes: TupleBytes,
    tuple_size: usize,
    /// Whether it is none of what it may hold: torn by the crash, or damaged; the tuple was made
    /// for what is there.
    pub adopted: bool,
}

impl Verdict {
    /// The tuple it has from now on.
    #[must_use]
    pub fn tuple(&self) -> &[u8] {
        &self.bytes[..self.tuple_size]
    }

    /// The guard tag of that tuple; `None` for zeros that were never written.
    #[must_use]
    pub fn guard(&self, profile: &IntegrityProfile) -> Option<u64> {
        guard_of(profile, self.tuple())
    }
}

impl Candidates {
    /// Adds a tuple that is less likely than those before.
    pub fn push(&mut self, tuple: &[u8]) {
        let mut bytes = [0; TUPLE_SIZE_MAX];
        bytes[..tuple.len()].copy_from_slice(tuple);
        let is_known = if self.tuples.len() <= FEW {
            self.tuples.contains(&bytes)
        } else {
            if self.known.is_empty() {
                self.known.extend(&self.tuples);
            }
            !self.known.insert(bytes)
        };
        if !is_known {
            self.tuples.push(bytes);
        }
    }

    /// Their guard tags; `None` for zeros that were never written.
    pub(super) fn guards(&self, profile: &IntegrityProfile) -> impl Iterator<Item = Option<u64>> {
        let tuple_size = profile.tuple_size();
        self.tuples.iter().map(move |bytes| guard_of(profile, &bytes[..tuple_size]))
    }

    /// The first of them.
    pub(super) fn likeliest(&self, profile: &IntegrityProfile) -> Option<Verdict> {
        let tuple_size = profile.tuple_size();
        self.tuples.first().map(|&bytes| Verdict { bytes, tuple_size, adopted: false })
    }

    /// Finds out which of them `interval` holds, whose bytes are `data`.
    #[must_use]
    #[expect(clippy::missing_panics_doc, reason = "the lengths are those of one interval")]
    pub fn judge(&self, profile: &IntegrityProfile, interval: u64, data: &[u8]) -> Verdict {
        let tuple_size = profile.tuple_size();
        let actual = LazyCell::new(|| {
            let mut actual = [0; TUPLE_SIZE_MAX];
            generate(profile, interval, data, &mut actual[..tuple_size]).expect("one interval, one tuple");
            actual
        });
        let holds = |candidate: &TupleBytes| {
            if is_unwritten(candidate) {
                is_zero(data)
            } else {
                same_but_for_adoption(profile, *candidate, *actual)
            }
        };
        if let Some(&bytes) = self.tuples.iter().find(|candidate| holds(candidate)) {
            return Verdict { bytes, tuple_size, adopted: false };
        }
        let mut bytes = *actual;
        adopt(profile, &mut bytes[..tuple_size]);
        Verdict { bytes, tuple_size, adopted: true }
    }
}

fn guard_of(profile: &IntegrityProfile, tuple: &[u8]) -> Option<u64> {
    profile.tuple(tuple).ok().filter(|_| !is_unwritten(tuple)).map(|tuple| tuple.guard)
}

/// An adopted tuple vouches for its data as any other does.
fn same_but_for_adoption(
    profile: &IntegrityProfile,
    mut candidate: TupleBytes,
    mut actual: TupleBytes,
) -> bool {
    let tuple_size = profile.tuple_size();
    adopt(profile, &mut candidate[..tuple_size]);
    adopt(profile, &mut actual[..tuple_size]);
    candidate == actual
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sidecar::{is_adopted, verify};
    use crate::{Guard, PiType};

    fn profile() -> IntegrityProfile {
        IntegrityProfile::new(Guard::Crc64Nvme, PiType::Type1, 512).unwrap()
    }

    fn tuple_of(fill: u8) -> Vec<u8> {
        let mut tuple = vec![0; 16];
        generate(&profile(), 7, &[fill; 512], &mut tuple).unwrap();
        tuple
    }

    #[test]
    fn finds_the_write_that_reached_the_block() {
        let mut candidates = Candidates::default();
        for fill in [3, 2, 1] {
            candidates.push(&tuple_of(fill));
        }
        for fill in [1, 2, 3] {
            let verdict = candidates.judge(&profile(), 7, &[fill; 512]);
            assert_eq!((verdict.tuple(), verdict.adopted), (&tuple_of(fill)[..], false));
        }
    }

    #[test]
    fn zeros_are_an_unwritten_block_where_that_may_be() {
        let mut candidates = Candidates::default();
        candidates.push(&[0; 16]);
        assert_eq!(candidates.judge(&profile(), 7, &[0; 512]).tuple(), [0; 16]);
        assert!(candidates.judge(&profile(), 7, &[1; 512]).adopted);
    }

    #[test]
    fn adopts_data_that_no_write_left() {
        let mut candidates = Candidates::default();
        candidates.push(&tuple_of(1));
        let mut torn = [1; 512];
        torn[256..].fill(2);
        let verdict = candidates.judge(&profile(), 7, &torn);
        assert!(verdict.adopted && is_adopted(&profile(), verdict.tuple()));
        assert_eq!(verify(&profile(), 7, &torn, verdict.tuple()), Ok(()));
        // and stands by it when asked again
        candidates.push(verdict.tuple());
        assert!(!candidates.judge(&profile(), 7, &torn).adopted);
    }
}
