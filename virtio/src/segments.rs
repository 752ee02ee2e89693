//! A request's data buffers as one stream of bytes.

use smallvec::SmallVec;
use vm_memory::bitmap::{Bitmap, MS};
use vm_memory::{GuestAddress, GuestMemoryBackend, GuestMemoryError, VolatileSlice};

/// A run of guest memory, of any length and alignment: drivers do send 3952 + 2704 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    /// The address of its first byte.
    pub address: GuestAddress,
    /// The length in bytes.
    pub len: u32,
}

/// Why bytes could not be moved between guest memory and the device.
#[derive(Debug, thiserror::Error)]
pub enum CopyError {
    /// The caller asked for bytes that the request does not have.
    #[error("bytes {offset}..{offset}+{len} lie outside the request's {total} bytes of data")]
    OutOfBounds {
        /// First byte asked for, from the start of the data.
        offset: u64,
        /// The number of bytes asked for.
        len: u64,
        /// The number of bytes that the request has.
        total: u64,
    },
    /// Guest memory was removed since the request was parsed.
    #[error("the request's data is no longer in guest memory")]
    NotInMemory(#[source] GuestMemoryError),
}

/// The data buffers of a request, in descriptor order. One page may occur in it several times.
///
/// Every range lay in guest memory when the request was parsed.
#[derive(Clone, Debug, Default)]
pub struct Segments {
    segments: SmallVec<[Segment; 4]>,
    len: u64,
}

impl Segments {
    /// Takes `len` bytes from `offset` of the stream `source`, which must have them.
    ///
    /// Returns the first segment that does not lie in guest memory as the error.
    pub(crate) fn cut<M: GuestMemoryBackend>(
        mem: &M,
        source: &[Segment],
        offset: u64,
        len: u64,
    ) -> Result<Self, Segment> {
        let mut segments = SmallVec::new();
        for piece in pieces(source, offset, len) {
            if !mem.check_range(piece.address, piece.len as usize) {
                return Err(piece);
            }
            segments.push(piece);
        }
        Ok(Self { segments, len })
    }

    /// Length of the data in bytes.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether there is no data.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The buffers in descriptor order.
    pub fn iter(&self) -> std::slice::Iter<'_, Segment> {
        self.segments.iter()
    }

    /// Copies the data from `offset` (bytes) on into `destination`, reading each byte of guest
    /// memory once.
    ///
    /// On an error `destination` may be filled in part.
    pub fn copy_to<M: GuestMemoryBackend>(
        &self,
        mem: &M,
        offset: u64,
        destination: &mut [u8],
    ) -> Result<(), CopyError> {
        self.check_bounds(offset, destination.len() as u64)?;
        copy_to(mem, &self.segments, offset, destination)
    }

    /// Copies `source` into the data from `offset` (bytes) on, in descriptor order: where a page
    /// occurs several times, its last occurrence stands.
    ///
    /// On an error guest memory may be filled in part.
    pub fn copy_from<M: GuestMemoryBackend>(
        &self,
        mem: &M,
        offset: u64,
        mut source: &[u8],
    ) -> Result<(), CopyError> {
        for slice in self.slices(mem, offset, source.len() as u64)? {
            let slice = slice?;
            let (head, tail) = source.split_at(slice.len());
            slice.copy_from(head);
            source = tail;
        }
        Ok(())
    }

    /// The `len` bytes from `offset` on as slices of guest memory in descriptor order, for a
    /// transfer without a copy.
    ///
    /// A write through a slice's pointer must be marked in the dirty bitmap.
    pub fn slices<'a, M: GuestMemoryBackend>(
        &'a self,
        mem: &'a M,
        offset: u64,
        len: u64,
    ) -> Result<impl Iterator<Item = Result<VolatileSlice<'a, MS<'a, M>>, CopyError>>, CopyError> {
        self.check_bounds(offset, len)?;
        Ok(slices(mem, &self.segments, offset, len))
    }

    /// Marks `len` bytes from `offset` on, which were written through [`Self::slices`], in the
    /// dirty bitmap of the memory: a write by address leaves no mark by itself.
    pub fn mark_dirty<M: GuestMemoryBackend>(&self, mem: &M, offset: u64, len: u64) {
        // parts that are no longer in guest memory need no mark
        for slice in slices(mem, &self.segments, offset, len).flatten() {
            slice.bitmap().mark_dirty(0, slice.len());
        }
    }

    fn check_bounds(&self, offset: u64, len: u64) -> Result<(), CopyError> {
        match offset.checked_add(len) {
            Some(end) if end <= self.len => Ok(()),
            _ => Err(CopyError::OutOfBounds { offset, len, total: self.len }),
        }
    }
}

impl<'a> IntoIterator for &'a Segments {
    type Item = &'a Segment;
    type IntoIter = std::slice::Iter<'a, Segment>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

/// Fills `destination` from `offset` of the stream `source`, which must have that many bytes.
pub(crate) fn copy_to<M: GuestMemoryBackend>(
    mem: &M,
    source: &[Segment],
    offset: u64,
    mut destination: &mut [u8],
) -> Result<(), CopyError> {
    for slice in slices(mem, source, offset, destination.len() as u64) {
        let slice = slice?;
        let (head, tail) = destination.split_at_mut(slice.len());
        slice.copy_to(head);
        destination = tail;
    }
    Ok(())
}

/// The bytes `offset..offset + len` of `source` as slices; a segment may cross from one memory
/// region to the next.
fn slices<'a, M: GuestMemoryBackend>(
    mem: &'a M,
    source: &'a [Segment],
    offset: u64,
    len: u64,
) -> impl Iterator<Item = Result<VolatileSlice<'a, MS<'a, M>>, CopyError>> {
    pieces(source, offset, len)
        .flat_map(|piece| mem.get_slices(piece.address, piece.len as usize))
        .map(|slice| slice.map_err(CopyError::NotInMemory))
}

/// The bytes `offset..offset + len` of `source` as segments, none of them empty.
fn pieces(source: &[Segment], mut offset: u64, mut len: u64) -> impl Iterator<Item = Segment> {
    source
        .iter()
        .map_while(move |segment| {
            if len == 0 {
                return None;
            }
            let skipped = offset.min(u64::from(segment.len));
            offset -= skipped;
            let piece = segment.cut(skipped, len);
            len -= u64::from(piece.len);
            Some(piece)
        })
        .filter(|piece| piece.len > 0)
}

impl Segment {
    /// At most `len_max` bytes of what follows the first `skipped`, which must not be more than
    /// there are.
    fn cut(&self, skipped: u64, len_max: u64) -> Self {
        let rest = u64::from(self.len) - skipped;
        Self {
            // the last address is in no region, so that a segment that would wrap is refused
            address: GuestAddress(self.address.0.saturating_add(skipped)),
            len: u32::try_from(rest.min(len_max)).unwrap_or(self.len),
        }
    }
}
