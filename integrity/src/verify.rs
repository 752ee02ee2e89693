//! Checking tuples against the data and the expected tags.

use std::ops::Deref;

use crate::expected::{Expected, checked_bits};
use crate::pi_error::{PiError, Tag, VerifyError};
use crate::profile::{IntegrityProfile, PiType};
use crate::slice_cursor::{SliceCursor, len_of};
use crate::tags::{Checks, Tags};
use crate::tuple::{TUPLE_SIZE_MAX, load};

/// The application tag that, by the rules of the type, turns an interval's checks off.
const APPLICATION_ESCAPE: u16 = 0xFFFF;

impl IntegrityProfile {
    /// Checks the intervals of `data` against their tuples in `metadata` (DIX), in order, up to the
    /// first error.
    ///
    /// Within an interval the order is NVMe's: guard, application, reference, then storage tag. An
    /// interval whose tuple holds the escape is not checked: application tag 0xFFFF, and for Type 3
    /// also a reference tag of all ones (SBC-4, protection information model; NVM Command Set
    /// specification §5.2).
    pub fn verify(
        &self,
        tags: &Tags,
        checks: Checks,
        data: &[u8],
        metadata: &[u8],
    ) -> Result<(), VerifyError> {
        self.verify_vectored(tags, checks, &[data], metadata)
    }

    /// [`verify`](Self::verify) over data in a list of slices, whose borders may fall inside an
    /// interval.
    pub fn verify_vectored<S: Deref<Target = [u8]>>(
        &self,
        tags: &Tags,
        checks: Checks,
        data: &[S],
        metadata: &[u8],
    ) -> Result<(), VerifyError> {
        let intervals = self.intervals_in(len_of(data), metadata.len())?;
        let verifier = Verifier::new(self, tags, checks);
        let mut cursor = SliceCursor::default();
        for (index, metadata) in (0..intervals).zip(metadata.chunks_exact(self.metadata_size())) {
            let covered = &metadata[..self.tuple_offset()];
            let guard = verifier.guard(&mut cursor, data, self.interval_size(), covered);
            verifier.check(index, guard, load(&metadata[self.tuple_range()]))?;
        }
        Ok(())
    }

    /// [`verify`](Self::verify) of intervals interleaved with their metadata (DIF), as
    /// [`generate_interleaved`](Self::generate_interleaved) leaves them.
    pub fn verify_interleaved(&self, tags: &Tags, checks: Checks, blocks: &[u8]) -> Result<(), VerifyError> {
        self.verify_interleaved_vectored(tags, checks, &[blocks])
    }

    /// [`verify_interleaved`](Self::verify_interleaved) over blocks in a list of slices, whose
    /// borders may fall inside a block, even inside its tuple.
    pub fn verify_interleaved_vectored<S: Deref<Target = [u8]>>(
        &self,
        tags: &Tags,
        checks: Checks,
        blocks: &[S],
    ) -> Result<(), VerifyError> {
        let mut scratch = [0; TUPLE_SIZE_MAX];
        let bytes = &mut scratch[..self.tuple_size()];
        let verifier = Verifier::new(self, tags, checks);
        let mut cursor = SliceCursor::default();
        for index in 0..self.blocks_in(len_of(blocks))? {
            let guard = verifier.guard(&mut cursor, blocks, self.covered_size(), &[]);
            cursor.copy_to(blocks, bytes);
            verifier.check(index, guard, load(bytes))?;
            cursor.skip(blocks, self.uncovered_size());
        }
        Ok(())
    }
}

/// The checks of one request.
struct Verifier<'a> {
    profile: &'a IntegrityProfile,
    lba: u64,
    expected: Expected,
    /// The bits of a tuple that are compared.
    checked: u128,
    guard_checked: bool,
}

impl<'a> Verifier<'a> {
    fn new(profile: &'a IntegrityProfile, tags: &Tags, checks: Checks) -> Self {
        Self {
            profile,
            lba: tags.lba,
            expected: Expected::new(profile, tags),
            checked: checked_bits(profile, tags, checks),
            guard_checked: checks.contains(Checks::GUARD),
        }
    }

    /// Steps over the next `len` bytes: the guard over them and `metadata`, or 0 if it is not
    /// needed.
    #[inline]
    fn guard<S: Deref<Target = [u8]>>(
        &self,
        cursor: &mut SliceCursor,
        slices: &[S],
        len: usize,
        metadata: &[u8],
    ) -> u64 {
        if self.guard_checked {
            return cursor.guard(slices, len, metadata, self.profile.guard());
        }
        cursor.skip(slices, len);
        0
    }

    /// Checks the tuple `actual` of interval `index`, whose data has `guard`.
    #[inline]
    fn check(&self, index: u64, guard: u64, actual: u128) -> Result<(), PiError> {
        let expected = self.expected.tuple(index, guard);
        if (expected ^ actual) & self.checked == 0 {
            return Ok(());
        }
        self.judge(index, expected, actual)
    }

    /// Judges a tuple that is not as expected: an escape, or an error of the first tag that
    /// differs.
    #[cold]
    fn judge(&self, index: u64, expected: u128, actual: u128) -> Result<(), PiError> {
        if self.is_escape(actual) {
            return Ok(());
        }
        let expected = self.profile.unpack(expected & self.checked);
        let actual = self.profile.unpack(actual & self.checked);
        let (tag, tag_size, expected, actual) = if expected.guard != actual.guard {
            (Tag::Guard, self.profile.guard().size(), expected.guard, actual.guard)
        } else if expected.application != actual.application {
            (Tag::Application, u16::BITS, expected.application.into(), actual.application.into())
        } else if expected.reference != actual.reference {
            (Tag::Reference, self.profile.reference_tag_size(), expected.reference, actual.reference)
        } else {
            (Tag::Storage, self.profile.storage_tag_size(), expected.storage, actual.storage)
        };
        Err(PiError { tag, interval: index, lba: self.lba.wrapping_add(index), expected, actual, tag_size })
    }

    fn is_escape(&self, tuple: u128) -> bool {
        let tuple = self.profile.unpack(tuple);
        let application = tuple.application == APPLICATION_ESCAPE;
        match self.profile.pi_type() {
            PiType::Type1 | PiType::Type2 => application,
            PiType::Type3 => application && tuple.reference == self.profile.reference_mask(),
        }
    }
}
