//! What is between submit and reap: operations, and the buffers they own.
//!
//! The kernel works on memory that these values own. They are moved in at submit and out at reap; in between no code has
//! a reference to them, which is what makes a bounce folio stable.

use std::fmt;
use std::rc::Rc;
use std::sync::Arc;

use virtio::CopyError;
use vm_memory::VolatileSlice;
use vm_memory::bitmap::BitmapSlice;

use crate::device::bounce::BounceFolio;
use crate::guest::memory_table::GuestMemory;

/// Which way data goes, seen from the guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TransferDirection {
    /// Device to guest.
    Read,
    /// Guest to device.
    Write,
}

impl fmt::Display for TransferDirection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Read => "read",
            Self::Write => "write",
        })
    }
}

/// The part of a request that one transfer carries. The device passes it through unread.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Piece {
    /// The worker's number of the request.
    pub request: usize,
    /// Where the part starts in the request's data, in bytes.
    pub data_offset: u64,
    /// Length of the part, in bytes.
    pub data_len: usize,
    /// Bytes of the transfer before the part: the transfer starts at a granule, the part may not.
    pub lead: usize,
    /// A read whose granule the part is then merged into and written.
    pub merge: bool,
}

/// Guest memory as one worker holds it. Its transfers count among themselves, so that none touches the count that all workers
/// share.
#[derive(Debug)]
pub struct HeldMemory(pub Arc<GuestMemory>);

/// Guest memory that the device reads or writes itself, without a bounce.
#[derive(Debug)]
pub struct GuestVectors {
    vectors: Vec<libc::iovec>,
    /// Keeps the regions mapped that the vectors point into.
    _memory: Rc<HeldMemory>,
}

/// Lists of vectors to be used again, so that a request allocates none. One worker's.
#[derive(Debug, Default)]
pub struct SpareVectors(Vec<Vec<libc::iovec>>);

impl SpareVectors {
    /// A longer list is not worth its memory.
    const LEN_MAX: usize = 32;
    /// Nor are more lists.
    const LISTS_MAX: usize = 256;

    /// Takes a list back.
    pub fn put(&mut self, GuestVectors { mut vectors, .. }: GuestVectors) {
        if vectors.capacity() <= Self::LEN_MAX && self.0.len() < Self::LISTS_MAX {
            vectors.clear();
            self.0.push(vectors);
        }
    }
}

impl GuestVectors {
    /// The vectors of `slices`, all of `memory`, when each is aligned to `alignment` bytes in address and length and
    /// there are few enough for one system call.
    pub fn of<'a, B: BitmapSlice + 'a>(
        memory: &Rc<HeldMemory>,
        slices: impl Iterator<Item = Result<VolatileSlice<'a, B>, CopyError>>,
        alignment: usize,
        spare: &mut SpareVectors,
    ) -> Option<Self> {
        let vectors = spare.0.pop().unwrap_or_default();
        let mut guest = Self { vectors, _memory: memory.clone() };
        for slice in slices {
            let vector = slice.ok().and_then(|slice| aligned(&slice, alignment));
            match vector {
                Some(vector) if guest.vectors.len() < libc::UIO_MAXIOV as usize => guest.vectors.push(vector),
                _ => {
                    spare.put(guest);
                    return None;
                }
            }
        }
        Some(guest)
    }

    /// The vectors, for the submission queue entry. Their place does not change when this value moves.
    pub fn as_slice(&self) -> &[libc::iovec] {
        &self.vectors
    }
}

fn aligned<B: BitmapSlice>(slice: &VolatileSlice<'_, B>, alignment: usize) -> Option<libc::iovec> {
    let start = slice.ptr_guard_mut().as_ptr();
    let aligned = start.addr().is_multiple_of(alignment) && slice.len().is_multiple_of(alignment);
    aligned.then_some(libc::iovec { iov_base: start.cast(), iov_len: slice.len() })
}

/// The memory of one transfer.
#[derive(Debug)]
pub enum TransferBuffer {
    /// Stable: the data was copied, or will be, and nobody else sees the folio.
    Bounce(BounceFolio),
    /// The guest's own memory, and a folio for the tuples where there is PI.
    Guest(GuestVectors, Option<BounceFolio>),
}

impl TransferBuffer {
    /// The folio that carries the metadata.
    pub fn folio(&self) -> Option<&BounceFolio> {
        match self {
            Self::Bounce(folio) => Some(folio),
            Self::Guest(_, folio) => folio.as_ref(),
        }
    }

    /// As [`Self::folio`], to fill it.
    pub fn folio_mut(&mut self) -> Option<&mut BounceFolio> {
        match self {
            Self::Bounce(folio) => Some(folio),
            Self::Guest(_, folio) => folio.as_mut(),
        }
    }

    /// The folio alone.
    pub fn into_folio(self) -> Option<BounceFolio> {
        match self {
            Self::Bounce(folio) => Some(folio),
            Self::Guest(_, folio) => folio,
        }
    }
}

/// One read or write of the device: whole granules.
#[derive(Debug)]
pub struct Transfer {
    /// Read or write.
    pub direction: TransferDirection,
    /// Where on the device, in bytes; a multiple of the granule.
    pub offset: u64,
    /// How much, in bytes; a multiple of the granule.
    pub len: usize,
    /// Where to or from.
    pub buffer: TransferBuffer,
    /// Whose.
    pub piece: Piece,
}

/// How blocks become zeros.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ZeroBy {
    /// Their space is given back.
    PunchHole,
    /// Their space is kept.
    ZeroRange,
    /// Their space is given back, and what they hold then does not matter.
    Deallocate,
    /// They are written, where the file system can do neither.
    Writing,
}

/// What a device is asked to do.
#[derive(Debug)]
pub enum DeviceOperation {
    /// Move data.
    Transfer(Transfer),
    /// Make whole granules read as zeros, without writing them.
    Zero {
        /// Where on the device, in bytes.
        offset: u64,
        /// How much, in bytes.
        len: u64,
        /// Whether space is to be given back.
        by: ZeroBy,
        /// The worker's number of the request.
        request: usize,
    },
    /// Make all completed writes stable, for this request.
    Flush {
        /// The worker's number of the request.
        request: usize,
    },
}

#[cfg(test)]
mod tests {
    use vm_memory::{GuestAddress, GuestMemoryBackend};

    use super::*;

    #[test]
    fn a_list_of_vectors_is_used_again() {
        let memory = GuestMemory::from_ranges(&[(GuestAddress(0), 1 << 20)]).unwrap();
        let memory = Rc::new(HeldMemory(Arc::new(memory)));
        let mut spare = SpareVectors::default();
        let mut vectors = |address, len| {
            let slices = memory.0.get_slices(GuestAddress(address), len).map(|slice| Ok(slice.unwrap()));
            let guest = GuestVectors::of(&memory, slices, 512, &mut spare)?;
            let (place, first) = (guest.as_slice().as_ptr(), guest.as_slice()[0]);
            spare.put(guest);
            Some((place, first.iov_base.addr(), first.iov_len))
        };
        let (place, start, _) = vectors(0, 512).unwrap();
        assert_eq!(vectors(100, 512), None, "not aligned");
        assert_eq!(vectors(4096, 1024), Some((place, start + 4096, 1024)));
    }
}
