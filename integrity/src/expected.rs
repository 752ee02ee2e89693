//! The tuples that a request is to have: what `generate` writes and `verify` compares with.

use crate::profile::{IntegrityProfile, PiType};
use crate::tags::{Checks, Tags};
use crate::tuple::Tuple;

/// The tuples of one request as integers, laid out once so that an interval costs a few
/// instructions.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Expected {
    /// The tags that are the same in each interval: application and storage.
    constant: u128,
    reference: u64,
    /// The step of the reference tag from one interval to the next: 0 or 1.
    reference_step: u64,
    /// The reference tag's place, in either half of the tuple's integer.
    reference_mask: u128,
    /// Bits below the guard tag in the high half of the tuple's integer.
    guard_shift: u32,
}

impl Expected {
    pub(crate) fn new(profile: &IntegrityProfile, tags: &Tags) -> Self {
        let Tags { application, storage, reference, .. } = *tags;
        Self {
            constant: profile.pack(&Tuple { guard: 0, application, reference: 0, storage }),
            reference,
            reference_step: match profile.pi_type() {
                PiType::Type1 | PiType::Type2 => 1,
                PiType::Type3 => 0,
            },
            reference_mask: u128::from(profile.reference_mask()) << profile.reference_shift(),
            guard_shift: profile.guard_shift() - u64::BITS,
        }
    }

    /// The tuple of interval `index`, whose guard tag is `guard`.
    #[inline]
    pub(crate) fn tuple(&self, index: u64, guard: u64) -> u128 {
        let reference = self.reference.wrapping_add(index.wrapping_mul(self.reference_step));
        // shifts of 128 bits by a variable are what this avoids: at 512 bytes they show
        halves(guard << self.guard_shift, 0)
            | self.constant
            | halves(reference, reference) & self.reference_mask
    }
}

fn halves(high: u64, low: u64) -> u128 {
    u128::from(high) << u64::BITS | u128::from(low)
}

/// The bits of a tuple that `checks` compares.
pub(crate) fn checked_bits(profile: &IntegrityProfile, tags: &Tags, checks: Checks) -> u128 {
    let all = |check| if checks.contains(check) { u64::MAX } else { 0 };
    profile.pack(&Tuple {
        guard: all(Checks::GUARD),
        application: if checks.contains(Checks::APPLICATION) { tags.application_mask } else { 0 },
        reference: match profile.pi_type() {
            PiType::Type1 | PiType::Type2 => all(Checks::REFERENCE),
            PiType::Type3 => 0,
        },
        storage: all(Checks::STORAGE),
    })
}
