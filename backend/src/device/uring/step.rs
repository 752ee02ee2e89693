//! The steps of an operation on a ring: submission queue entries, and the meaning of their results.

#![expect(unsafe_code, reason = "promises that the memory of an entry stays in place")]

use std::{fmt, io};

use io_uring::{cqueue, opcode, squeue, types};

use crate::device::operation::{DeviceOperation, Transfer, TransferBuffer, TransferDirection, ZeroBy};

/// The file that is read and written, by its place in the list given to `Ring::new`.
const IMAGE: types::Fixed = types::Fixed(0);
/// Another open file description of it, by which only this ring syncs it.
const IMAGE_FOR_SYNC: types::Fixed = types::Fixed(1);

/// A step of an operation: one submission queue entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::device) enum Step {
    /// Reads or writes file 0 as the operation's transfer says.
    Transfer,
    /// `fallocate` of part of file 0, in bytes.
    Fallocate { offset: u64, len: u64, by: ZeroBy },
    /// `fdatasync` by file 1.
    Sync,
}

/// A step of an operation, which a ring does by one submission queue entry.
///
/// # Safety
/// Every address and length in the result of [`Self::entry`] is of memory that the operation or the
/// step owns. That memory stays in place when they are moved, and is freed only when they are
/// dropped.
pub(in crate::device) unsafe trait RingStep: fmt::Debug {
    /// The format of its submission queue entries.
    type Submission: squeue::EntryMarker;
    /// The format of its completion queue entries.
    type Completion: cqueue::EntryMarker + Into<cqueue::Entry>;

    /// The entry that does this step of `operation`. Folios lie in fixed buffer 0 when
    /// `fixed_buffer`.
    ///
    /// Panics when an operation of its kind has no such step: an operation without an entry would
    /// never come back.
    fn entry(&self, operation: &DeviceOperation, fixed_buffer: bool) -> Self::Submission;

    /// The outcome of the step, by the result of its completion.
    fn outcome(&self, operation: &DeviceOperation, result: i32) -> io::Result<()>;

    /// Whether it is a plain read or write of file 0, as the operation's transfer says.
    fn is_transfer(&self) -> bool {
        false
    }

    /// Whether it can be done again as it is, when the kernel asks for that.
    fn is_repeatable(&self, _operation: &DeviceOperation) -> bool {
        true
    }
}

// SAFETY: a transfer's entry names the `len` bytes of its folio, which holds the arena, or its list
// of guest vectors, which keep guest memory mapped; `Transfer::new` has checked that both have
// `len` bytes. Pages of the arena and of the guest, and the list on the heap, stay in place when
// the transfer is moved. The other entries have no memory.
unsafe impl RingStep for Step {
    type Submission = squeue::Entry;
    type Completion = cqueue::Entry;

    fn entry(&self, operation: &DeviceOperation, fixed_buffer: bool) -> squeue::Entry {
        match (operation, self) {
            (DeviceOperation::Transfer(transfer), Self::Transfer) => transfer_entry(transfer, fixed_buffer),
            (_, Self::Fallocate { offset, len, by }) => {
                let mode = match by {
                    ZeroBy::PunchHole | ZeroBy::Deallocate => libc::FALLOC_FL_PUNCH_HOLE,
                    ZeroBy::ZeroRange | ZeroBy::Writing => libc::FALLOC_FL_ZERO_RANGE,
                };
                let entry = opcode::Fallocate::new(IMAGE, *len).offset(*offset);
                entry.mode(mode | libc::FALLOC_FL_KEEP_SIZE).build()
            }
            (_, Self::Sync) => opcode::Fsync::new(IMAGE_FOR_SYNC).flags(types::FsyncFlags::DATASYNC).build(),
            (_, Self::Transfer) => panic!("{operation:?} is no transfer"),
        }
    }

    fn outcome(&self, operation: &DeviceOperation, result: i32) -> io::Result<()> {
        whole(operation, result)
    }

    fn is_transfer(&self) -> bool {
        *self == Self::Transfer
    }
}

/// A step, and what its device has to know when it is done.
// SAFETY: the entry is that of `Step`, for the same operation.
unsafe impl<T: fmt::Debug> RingStep for (Step, T) {
    type Submission = squeue::Entry;
    type Completion = cqueue::Entry;

    fn entry(&self, operation: &DeviceOperation, fixed_buffer: bool) -> squeue::Entry {
        self.0.entry(operation, fixed_buffer)
    }

    fn outcome(&self, operation: &DeviceOperation, result: i32) -> io::Result<()> {
        self.0.outcome(operation, result)
    }

    fn is_transfer(&self) -> bool {
        self.0.is_transfer()
    }
}

/// Success for a result that is the operation's whole length, in bytes.
pub(in crate::device) fn whole(operation: &DeviceOperation, result: i32) -> io::Result<()> {
    let expected = match operation {
        DeviceOperation::Transfer(transfer) => transfer.len(),
        DeviceOperation::Zero { .. } | DeviceOperation::Flush { .. } => 0,
    };
    match usize::try_from(result) {
        Ok(done) if done == expected => Ok(()),
        // behind a short read a recycled folio holds another request's data
        Ok(done) => Err(io::Error::new(
            io::ErrorKind::UnexpectedEof,
            format!("short transfer: {done} of {expected} bytes"),
        )),
        Err(_) => Err(io::Error::from_raw_os_error(-result)),
    }
}

pub(in crate::device) fn transfer_entry(transfer: &Transfer, fixed_buffer: bool) -> squeue::Entry {
    let (file, offset) = (IMAGE, transfer.offset());
    let len = u32::try_from(transfer.len()).expect("a transfer is at most a folio");
    match (transfer.buffer(), transfer.direction()) {
        (TransferBuffer::Bounce(folio), TransferDirection::Read) if fixed_buffer => {
            opcode::ReadFixed::new(file, folio.as_ptr(), len, 0).offset(offset).build()
        }
        (TransferBuffer::Bounce(folio), TransferDirection::Write) if fixed_buffer => {
            opcode::WriteFixed::new(file, folio.as_ptr(), len, 0).offset(offset).build()
        }
        (TransferBuffer::Bounce(folio), TransferDirection::Read) => {
            opcode::Read::new(file, folio.as_ptr(), len).offset(offset).build()
        }
        (TransferBuffer::Bounce(folio), TransferDirection::Write) => {
            opcode::Write::new(file, folio.as_ptr(), len).offset(offset).build()
        }
        (TransferBuffer::Guest(guest, _), direction) => {
            let vectors = guest.as_slice();
            if let [libc::iovec { iov_base, .. }] = vectors {
                return match direction {
                    TransferDirection::Read => {
                        opcode::Read::new(file, iov_base.cast(), len).offset(offset).build()
                    }
                    TransferDirection::Write => {
                        opcode::Write::new(file, iov_base.cast(), len).offset(offset).build()
                    }
                };
            }
            let count = u32::try_from(vectors.len()).expect("at most UIO_MAXIOV");
            match direction {
                TransferDirection::Read => {
                    opcode::Readv::new(file, vectors.as_ptr(), count).offset(offset).build()
                }
                TransferDirection::Write => {
                    opcode::Writev::new(file, vectors.as_ptr(), count).offset(offset).build()
                }
            }
        }
    }
}
