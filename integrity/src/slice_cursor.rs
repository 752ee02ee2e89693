//! Reading a list of slices as one run of bytes, wherever their borders fall.

use std::ops::{Deref, DerefMut, Range};

use crate::guard::Guard;

/// A place in a list of slices. The list is handed to each step, so that steps which read and steps
/// which write can take turns on one list.
///
/// Callers stay within the list, by [`len_of`]; a step past its end does nothing.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct SliceCursor {
    slice: usize,
    offset: usize,
}

/// Bytes in the list. One that names the same slice too often to count saturates, and no interval
/// divides that.
pub(crate) fn len_of<S: Deref<Target = [u8]>>(slices: &[S]) -> usize {
    slices.iter().fold(0, |len: usize, slice| len.saturating_add(slice.len()))
}

impl SliceCursor {
    pub(crate) fn skip<S: Deref<Target = [u8]>>(&mut self, slices: &[S], len: usize) {
        self.read(slices, len, |_| ());
    }

    pub(crate) fn copy_to<S: Deref<Target = [u8]>>(&mut self, slices: &[S], to: &mut [u8]) {
        let mut filled = 0;
        self.read(slices, to.len(), |piece| {
            to[filled..][..piece.len()].copy_from_slice(piece);
            filled += piece.len();
        });
    }

    pub(crate) fn copy_from<S: DerefMut<Target = [u8]>>(&mut self, slices: &mut [S], mut from: &[u8]) {
        while let Some((slice, range)) = self.next_piece(slices, from.len()) {
            let (head, tail) = from.split_at(range.len());
            slices[slice][range].copy_from_slice(head);
            from = tail;
        }
    }

    /// The guard over the next `len` bytes, then over `metadata`.
    #[inline]
    pub(crate) fn guard<S: Deref<Target = [u8]>>(
        &mut self,
        slices: &[S],
        len: usize,
        metadata: &[u8],
        guard: Guard,
    ) -> u64 {
        // most intervals are whole in the slice the last one was in: at 512 bytes the rest would
        // show
        if let Some(slice) = slices.get(self.slice)
            && let Some(interval) = slice.get(self.offset..self.offset + len)
            && metadata.is_empty()
        {
            self.offset += len;
            return guard.compute(interval);
        }
        self.guard_over_border(slices, len, metadata, guard)
    }

    /// A digest is large, so this is apart from [`guard`](Self::guard), and does without where it
    /// can.
    #[inline(never)]
    fn guard_over_border<S: Deref<Target = [u8]>>(
        &mut self,
        slices: &[S],
        len: usize,
        metadata: &[u8],
        guard: Guard,
    ) -> u64 {
        let Some((slice, range)) = self.next_piece(slices, len) else {
            return guard.compute(metadata);
        };
        let left = len - range.len();
        let first = &slices[slice][range];
        if left == 0 && metadata.is_empty() {
            return guard.compute(first);
        }
        let mut digest = guard.digest();
        digest.update(first);
        self.read(slices, left, |piece| digest.update(piece));
        digest.update(metadata);
        digest.finalize()
    }

    fn read<S: Deref<Target = [u8]>>(&mut self, slices: &[S], mut len: usize, mut each: impl FnMut(&[u8])) {
        while let Some((slice, range)) = self.next_piece(slices, len) {
            len -= range.len();
            each(&slices[slice][range]);
        }
    }

    /// Steps over at most `len` bytes that stand in one slice: its index and their range, not
    /// empty.
    #[inline]
    fn next_piece<S: Deref<Target = [u8]>>(
        &mut self,
        slices: &[S],
        len: usize,
    ) -> Option<(usize, Range<usize>)> {
        if len == 0 {
            return None;
        }
        loop {
            let left = slices.get(self.slice)?.len() - self.offset;
            if left > 0 {
                let start = self.offset;
                self.offset += left.min(len);
                return Some((self.slice, start..self.offset));
            }
            *self = Self { slice: self.slice + 1, offset: 0 };
        }
    }
}
