//! Operations that a worker submits to a device, and the buffers that they own.
//!
//! The kernel reads and writes memory that these values own. They are moved into the device's queue
//! at submit and come back at reap. In between no code has a reference to that memory, which is
//! what makes a bounce folio stable.

use std::fmt;

use crate::device::bounce::BounceFolio;
use crate::device::guest_vectors::GuestVectors;

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

/// The part of a request that one transfer carries. Devices pass it through and do not use it.
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
    /// Whether the part is to be merged into what the transfer reads, and written with it.
    pub merge: bool,
}

/// The memory of one transfer.
#[derive(Debug)]
pub enum TransferBuffer {
    /// A folio, whose data the guest cannot change.
    Bounce(BounceFolio),
    /// The guest's own memory, and a folio for the tuples where there is PI.
    Guest(GuestVectors, Option<BounceFolio>),
}

impl TransferBuffer {
    /// Whether the kernel can move `len` bytes to or from it and touches no memory beyond it.
    fn holds(&self, len: usize) -> bool {
        match self {
            Self::Bounce(folio) => len <= folio.len(),
            // a list of several vectors is used up to its end
            Self::Guest(vectors, _) => len == vectors.len(),
        }
    }
}

/// One read or write of the device.
#[derive(Debug)]
pub struct Transfer {
    direction: TransferDirection,
    offset: u64,
    len: usize,
    buffer: TransferBuffer,
    piece: Piece,
}

// A transfer moves several times on its way, at last in an `Event`, which is 8 bytes longer. To
// move more than 128 bytes the compiler calls `memcpy`.
const _: () = assert!(size_of::<Transfer>() <= 120);

impl Transfer {
    /// A transfer of `len` bytes between byte `offset` of the device and `buffer`. Both numbers are
    /// multiples of the device's granule.
    ///
    /// # Panics
    /// Panics when `buffer` does not have `len` bytes: the kernel would access memory beyond it.
    pub fn new(
        direction: TransferDirection,
        offset: u64,
        len: usize,
        buffer: TransferBuffer,
        piece: Piece,
    ) -> Self {
        assert!(buffer.holds(len), "a transfer of {len} bytes does not fit its buffer");
        Self { direction, offset, len, buffer, piece }
    }

    /// Whether it is a read or a write.
    pub fn direction(&self) -> TransferDirection {
        self.direction
    }

    /// Where it starts on the device, in bytes.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// The length of the transfer, in bytes. The buffer has as many.
    #[expect(clippy::len_without_is_empty, reason = "a transfer is never empty")]
    pub fn len(&self) -> usize {
        self.len
    }

    /// The part of a request that it carries.
    pub fn piece(&self) -> Piece {
        self.piece
    }

    /// The memory that the transfer reads or writes.
    pub fn buffer(&self) -> &TransferBuffer {
        &self.buffer
    }

    /// Returns the memory.
    pub fn into_buffer(self) -> TransferBuffer {
        self.buffer
    }

    /// The folio that has the metadata; `None` for guest memory without PI.
    pub fn folio(&self) -> Option<&BounceFolio> {
        match &self.buffer {
            TransferBuffer::Bounce(folio) => Some(folio),
            TransferBuffer::Guest(_, folio) => folio.as_ref(),
        }
    }

    /// Data and metadata of that folio, to fill both. The folio itself is not given out, so that no
    /// shorter one can take its place.
    pub fn parts_mut(&mut self) -> Option<(&mut [u8], &mut [u8])> {
        match &mut self.buffer {
            TransferBuffer::Bounce(folio) => Some(folio.parts_mut()),
            TransferBuffer::Guest(_, folio) => folio.as_mut().map(BounceFolio::parts_mut),
        }
    }

    /// Makes a write of a read whose data was merged with the guest's.
    pub fn turn_into_write(&mut self) {
        self.direction = TransferDirection::Write;
    }

    /// Aims it at another place of the device.
    #[cfg(any(test, feature = "test-utils"))]
    pub(super) fn move_to(&mut self, offset: u64) {
        self.offset = offset;
    }
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
    /// Zeros are written, where the file system can do neither.
    Writing,
}

/// An operation of a device.
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

impl DeviceOperation {
    /// The worker's number of the request that it is for.
    pub fn request(&self) -> usize {
        match self {
            Self::Transfer(transfer) => transfer.piece().request,
            Self::Zero { request, .. } | Self::Flush { request } => *request,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::bounce::FolioPool;

    #[test]
    #[should_panic(expected = "does not fit its buffer")]
    fn a_transfer_longer_than_its_folio_is_refused() {
        let folio = FolioPool::reserve(0).unwrap().take(4096, 4096).unwrap();
        let piece = Piece { request: 0, data_offset: 0, data_len: 8192, lead: 0, merge: false };
        Transfer::new(TransferDirection::Read, 0, 8192, TransferBuffer::Bounce(folio), piece);
    }
}
