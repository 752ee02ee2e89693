//! Moving reference tags between the numbers of a partition and those of its disk.

use std::ops::DerefMut;

use crate::length::LengthError;
use crate::profile::{IntegrityProfile, PiType};
use crate::slice_cursor::{SliceCursor, len_of};
use crate::tuple::{TUPLE_SIZE_MAX, load, store};

impl IntegrityProfile {
    /// Rewrites the reference tags of a request's tuples in `metadata` from the seed `from` to the
    /// seed `to`; with the two exchanged it is the way back. Seeds are initial reference tags, as
    /// in [`Tags::reference`](crate::Tags::reference).
    ///
    /// Only a tag that is right for `from` is rewritten, as in the kernel's `block/t10-pi.c`: a
    /// wrong one must stay wrong, and the tuple of a never-written block stays the escape it is.
    /// Type 3, whose reference tag is opaque, has nothing to remap.
    pub fn remap(&self, from: u64, to: u64, metadata: &mut [u8]) -> Result<(), LengthError> {
        self.check_whole_metadata(metadata.len())?;
        for (index, metadata) in (0..).zip(metadata.chunks_exact_mut(self.metadata_size())) {
            self.remap_tuple(from, to, index, &mut metadata[self.tuple_range()]);
        }
        Ok(())
    }

    /// [`remap`](Self::remap) of tuples interleaved with their data: see
    /// [`generate_interleaved`](Self::generate_interleaved).
    pub fn remap_interleaved(&self, from: u64, to: u64, blocks: &mut [u8]) -> Result<(), LengthError> {
        self.remap_interleaved_vectored(from, to, &mut [blocks])
    }

    /// [`remap_interleaved`](Self::remap_interleaved) over blocks in a list of slices, whose
    /// borders may fall inside a block, even inside its tuple.
    pub fn remap_interleaved_vectored<S: DerefMut<Target = [u8]>>(
        &self,
        from: u64,
        to: u64,
        blocks: &mut [S],
    ) -> Result<(), LengthError> {
        let mut scratch = [0; TUPLE_SIZE_MAX];
        let bytes = &mut scratch[..self.tuple_size()];
        let mut cursor = SliceCursor::default();
        for index in 0..self.blocks_in(len_of(blocks))? {
            cursor.skip(blocks, self.covered_size());
            let mut at_tuple = cursor;
            cursor.copy_to(blocks, bytes);
            self.remap_tuple(from, to, index, bytes);
            at_tuple.copy_from(blocks, bytes);
            cursor.skip(blocks, self.uncovered_size());
        }
        Ok(())
    }

    fn remap_tuple(&self, from: u64, to: u64, index: u64, bytes: &mut [u8]) {
        let reference_at = |initial: u64| initial.wrapping_add(index) & self.reference_mask();
        let mut tuple = self.unpack(load(bytes));
        if self.pi_type() != PiType::Type3 && tuple.reference == reference_at(from) {
            tuple.reference = reference_at(to);
            store(self.pack(&tuple), bytes);
        }
    }
}
