//! Checking tuples against the data and the expected tags.

use std::ops::Deref;

use crate::cursor::{Cursor, len_of};
use crate::pi_error::{PiError, Tag, VerifyError};
use crate::profile::{IntegrityProfile, PiType};
use crate::tags::{Checks, Tags};
use crate::tuple::{TUPLE_SIZE_MAX, Tuple};

/// The application tag that, by the rules of the type, turns an interval's checks off.
const APPLICATION_ESCAPE: u16 = 0xFFFF;

impl IntegrityProfile {
    /// Checks the intervals of `data` against their tuples in `metadata` (DIX), in order, up to the first error.
    ///
    /// Within an interval the order is NVMe's: guard, application, reference, then storage tag. An interval whose
    /// tuple holds the escape is not checked: application tag 0xFFFF, and for Type 3 also a reference tag of all
    /// ones (SBC-4 §4.21.2, NVM Command Set specification §5.2.1.5).
    pub fn verify(
        &self,
        tags: &Tags,
        checks: Checks,
        data: &[u8],
        metadata: &[u8],
    ) -> Result<(), VerifyError> {
        self.verify_vectored(tags, checks, &[data], metadata)
    }

    /// [`verify`](Self::verify) over data in a list of slices, whose borders may fall inside an interval.
    pub fn verify_vectored<S: Deref<Target = [u8]>>(
        &self,
        tags: &Tags,
        checks: Checks,
        data: &[S],
        metadata: &[u8],
    ) -> Result<(), VerifyError> {
        let intervals = self.intervals_in(len_of(data), metadata.len())?;
        let mut cursor = Cursor::default();
        for (index, metadata) in (0..intervals).zip(metadata.chunks_exact(self.metadata_size())) {
            let covered = &metadata[..self.tuple_offset()];
            let mut interval = cursor;
            let guard = || interval.guard(data, self.interval_size(), covered, self.guard());
            let tuple = self.decode(&metadata[self.tuple_range()]);
            self.verify_tuple(tags, checks, index, &tuple, guard)?;
            cursor.skip(data, self.interval_size());
        }
        Ok(())
    }

    /// [`verify`](Self::verify) of intervals interleaved with their metadata (DIF), as
    /// [`generate_interleaved`](Self::generate_interleaved) leaves them.
    pub fn verify_interleaved(&self, tags: &Tags, checks: Checks, blocks: &[u8]) -> Result<(), VerifyError> {
        self.verify_interleaved_vectored(tags, checks, &[blocks])
    }

    /// [`verify_interleaved`](Self::verify_interleaved) over blocks in a list of slices, whose borders may fall
    /// inside a block, even inside its tuple.
    pub fn verify_interleaved_vectored<S: Deref<Target = [u8]>>(
        &self,
        tags: &Tags,
        checks: Checks,
        blocks: &[S],
    ) -> Result<(), VerifyError> {
        let mut scratch = [0; TUPLE_SIZE_MAX];
        let bytes = &mut scratch[..self.tuple_size()];
        let mut cursor = Cursor::default();
        for index in 0..self.blocks_in(len_of(blocks))? {
            let mut block = cursor;
            let guard = || block.guard(blocks, self.covered_size(), &[], self.guard());
            cursor.skip(blocks, self.covered_size());
            cursor.copy_to(blocks, bytes);
            self.verify_tuple(tags, checks, index, &self.decode(bytes), guard)?;
            cursor.skip(blocks, self.uncovered_size());
        }
        Ok(())
    }

    /// Checks the tuple of interval `index`. `guard` computes what the guard tag should be, when it is needed.
    #[inline]
    fn verify_tuple(
        &self,
        tags: &Tags,
        checks: Checks,
        index: u64,
        tuple: &Tuple,
        guard: impl FnOnce() -> u64,
    ) -> Result<(), PiError> {
        if self.is_escape(tuple) {
            return Ok(());
        }
        let compare = |tag, expected, actual| self.compare(tags, index, tag, expected, actual);
        if checks.contains(Checks::GUARD) {
            compare(Tag::Guard, guard(), tuple.guard)?;
        }
        if checks.contains(Checks::APPLICATION) {
            let mask = tags.application_mask;
            compare(
                Tag::Application,
                (tags.application & mask).into(),
                (tuple.application & mask).into(),
            )?;
        }
        if checks.contains(Checks::REFERENCE) && self.pi_type() != PiType::Type3 {
            compare(
                Tag::Reference,
                self.reference_at(tags.reference, index),
                tuple.reference,
            )?;
        }
        if checks.contains(Checks::STORAGE) {
            compare(Tag::Storage, tags.storage & self.storage_mask(), tuple.storage)?;
        }
        Ok(())
    }

    #[inline]
    fn is_escape(&self, tuple: &Tuple) -> bool {
        tuple.application == APPLICATION_ESCAPE
            && (self.pi_type() != PiType::Type3 || tuple.reference == self.reference_mask())
    }

    fn compare(&self, tags: &Tags, index: u64, tag: Tag, expected: u64, actual: u64) -> Result<(), PiError> {
        if expected == actual {
            return Ok(());
        }
        let tag_size = match tag {
            Tag::Guard => self.guard().size(),
            Tag::Application => u16::BITS,
            Tag::Reference => self.reference_tag_size(),
            Tag::Storage => self.storage_tag_size(),
        };
        Err(PiError {
            tag,
            interval: index,
            lba: tags.lba.wrapping_add(index),
            expected,
            actual,
            tag_size,
        })
    }
}
