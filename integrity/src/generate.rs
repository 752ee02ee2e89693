//! Writing tuples.

use std::ops::{Deref, DerefMut};

use crate::expected::Expected;
use crate::length::LengthError;
use crate::profile::IntegrityProfile;
use crate::slice_cursor::{SliceCursor, len_of};
use crate::tags::Tags;
use crate::tuple::{TUPLE_SIZE_MAX, store};

impl IntegrityProfile {
    /// Writes a tuple for each interval of `data` into `metadata` (DIX). The opaque bytes of the
    /// metadata stay as they are, and so does what follows the metadata of the last interval.
    pub fn generate(&self, tags: &Tags, data: &[u8], metadata: &mut [u8]) -> Result<(), LengthError> {
        // One slice and bare tuples need no cursor; it costs a nanosecond an interval, which shows
        // at 512 bytes.
        if self.metadata_size() > self.tuple_size() {
            return self.generate_vectored(tags, &[data], metadata);
        }
        self.intervals_in(data.len(), metadata.len())?;
        let expected = Expected::new(self, tags);
        let (guard, intervals) = (self.guard(), data.chunks_exact(self.interval_size()));
        for (index, (interval, tuple)) in
            (0..).zip(intervals.zip(metadata.chunks_exact_mut(self.tuple_size())))
        {
            store(expected.tuple(index, guard.compute(interval)), tuple);
        }
        Ok(())
    }

    /// [`generate`](Self::generate) over data in a list of slices, whose borders may fall inside an
    /// interval.
    pub fn generate_vectored<S: Deref<Target = [u8]>>(
        &self,
        tags: &Tags,
        data: &[S],
        metadata: &mut [u8],
    ) -> Result<(), LengthError> {
        let intervals = self.intervals_in(len_of(data), metadata.len())?;
        let expected = Expected::new(self, tags);
        let mut cursor = SliceCursor::default();
        for (index, metadata) in (0..intervals).zip(metadata.chunks_exact_mut(self.metadata_size())) {
            let covered = &metadata[..self.tuple_offset()];
            let guard = cursor.guard(data, self.interval_size(), covered, self.guard());
            store(expected.tuple(index, guard), &mut metadata[self.tuple_range()]);
        }
        Ok(())
    }

    /// Writes the tuple of each block in `blocks`: intervals interleaved with their metadata (DIF),
    /// as in NVMe's extended LBAs, of [`block_size`](Self::block_size) bytes. Data and opaque bytes
    /// stay as they are.
    pub fn generate_interleaved(&self, tags: &Tags, blocks: &mut [u8]) -> Result<(), LengthError> {
        self.generate_interleaved_vectored(tags, &mut [blocks])
    }

    /// [`generate_interleaved`](Self::generate_interleaved) over blocks in a list of slices, whose
    /// borders may fall inside a block, even inside its tuple.
    pub fn generate_interleaved_vectored<S: DerefMut<Target = [u8]>>(
        &self,
        tags: &Tags,
        blocks: &mut [S],
    ) -> Result<(), LengthError> {
        let mut scratch = [0; TUPLE_SIZE_MAX];
        let bytes = &mut scratch[..self.tuple_size()];
        let expected = Expected::new(self, tags);
        let mut cursor = SliceCursor::default();
        for index in 0..self.blocks_in(len_of(blocks))? {
            let guard = cursor.guard(blocks, self.covered_size(), &[], self.guard());
            store(expected.tuple(index, guard), bytes);
            cursor.copy_from(blocks, bytes);
            cursor.skip(blocks, self.uncovered_size());
        }
        Ok(())
    }
}
