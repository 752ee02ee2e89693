//! Files in memory: tmpfs and ramfs.
//!
//! The kernel does not know that their I/O never waits (they lack `FMODE_NOWAIT`), so io_uring
//! gives each request to a kernel thread. Its wake-up costs several times the copy of a small
//! transfer, and it copies a large one into another core's cache. So transfers are done at once, by
//! a system call, while the folio is hot in this core's cache.

#![expect(unsafe_code, reason = "reads and writes memory that is known by its address")]

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};

use rustix::fs::{FileType, fstat, fstatfs};

use crate::device::operation::{Transfer, TransferBuffer, TransferDirection};

/// `RAMFS_MAGIC` of linux/magic.h
const RAMFS_MAGIC: i64 = 0x8584_58f6;

/// A regular file that lies in memory.
#[derive(Debug)]
pub(super) struct MemoryFile(OwnedFd);

impl MemoryFile {
    /// `file`, if it is a regular file in memory.
    pub(super) fn of(file: BorrowedFd<'_>) -> io::Result<Option<Self>> {
        // device nodes lie in memory too, but the devices do not
        let is_regular = FileType::from_raw_mode(fstat(file)?.st_mode) == FileType::RegularFile;
        let in_memory = matches!(fstatfs(file)?.f_type, libc::TMPFS_MAGIC | RAMFS_MAGIC);
        if is_regular && in_memory {
            file.try_clone_to_owned().map(|file| Some(Self(file)))
        } else {
            Ok(None)
        }
    }

    /// Does `transfer`. The result is what io_uring would say: bytes, or an errno below zero.
    ///
    /// The transfer is borrowed mutably, so no code has a reference to the bytes of its folio.
    pub(super) fn transfer(&self, transfer: &mut Transfer) -> i32 {
        let (direction, offset) = (transfer.direction(), transfer.offset());
        // a vector is for many runs of bytes: for one the kernel need not fetch it
        let done = match transfer.buffer() {
            TransferBuffer::Bounce(folio) => {
                let run = libc::iovec { iov_base: folio.as_ptr().cast(), iov_len: transfer.len() };
                // SAFETY: the folio has these bytes, by the check of `Transfer::new`, and holds the
                // arena that they lie in. The transfer is borrowed mutably, so no code has a
                // reference to them.
                unsafe { self.run(direction, &run, offset) }
            }
            TransferBuffer::Guest(guest, _) => match guest.as_slice() {
                // SAFETY: the vectors keep the guest memory mapped that they name, and no code has
                // a reference to guest memory.
                [run] => unsafe { self.run(direction, run, offset) },
                // SAFETY: the same, for each vector.
                runs => unsafe { self.runs(direction, runs, offset) },
            },
        };
        match usize::try_from(done) {
            Ok(count) if count > 0 && count < transfer.len() && direction == TransferDirection::Write => {
                self.why_not_whole(transfer, count).unwrap_or(done)
            }
            _ => done,
        }
    }

    /// Why only `done` bytes of a write were written: the error of writing the next byte. `None`
    /// when that succeeds.
    fn why_not_whole(&self, transfer: &Transfer, done: usize) -> Option<i32> {
        let next = next_byte(transfer, done)?;
        // SAFETY: it is one of the bytes that the transfer owns, or keeps mapped.
        let error = unsafe { self.run(TransferDirection::Write, &next, transfer.offset() + done as u64) };
        (error < 0).then_some(error)
    }

    /// Moves the bytes of one run. The result is as for [`Self::transfer`].
    ///
    /// # Safety
    /// `run` names memory that stays mapped during the call, and to which no code has a reference.
    unsafe fn run(&self, direction: TransferDirection, run: &libc::iovec, offset: u64) -> i32 {
        let Ok(offset) = libc::off_t::try_from(offset) else { return -libc::EINVAL };
        let (file, start, len) = (self.0.as_raw_fd(), run.iov_base, run.iov_len);
        result(match direction {
            // SAFETY: the kernel writes to the `len` bytes at `start`, as the caller allows.
            TransferDirection::Read => unsafe { libc::pread(file, start, len, offset) },
            // SAFETY: the kernel reads the same bytes.
            TransferDirection::Write => unsafe { libc::pwrite(file, start, len, offset) },
        })
    }

    /// As [`Self::run`], for several runs.
    ///
    /// # Safety
    /// As for [`Self::run`], for each of `runs`.
    unsafe fn runs(&self, direction: TransferDirection, runs: &[libc::iovec], offset: u64) -> i32 {
        let Ok(offset) = libc::off_t::try_from(offset) else { return -libc::EINVAL };
        let file = self.0.as_raw_fd();
        let count = libc::c_int::try_from(runs.len()).expect("at most UIO_MAXIOV");
        result(match direction {
            // SAFETY: the list has `count` vectors, and the kernel writes to the bytes of each, as
            // the caller allows.
            TransferDirection::Read => unsafe { libc::preadv(file, runs.as_ptr(), count, offset) },
            // SAFETY: the kernel reads the same list and bytes.
            TransferDirection::Write => unsafe { libc::pwritev(file, runs.as_ptr(), count, offset) },
        })
    }
}

/// The address of byte `at` of the data of `transfer`.
fn next_byte(transfer: &Transfer, at: usize) -> Option<libc::iovec> {
    let folio;
    let runs = match transfer.buffer() {
        TransferBuffer::Bounce(it) => {
            folio = [libc::iovec { iov_base: it.as_ptr().cast(), iov_len: transfer.len() }];
            &folio[..]
        }
        TransferBuffer::Guest(guest, _) => guest.as_slice(),
    };
    let mut before = 0;
    let run = runs.iter().find(|run| {
        before += run.iov_len;
        at < before
    })?;
    let start = run.iov_base.cast::<u8>().wrapping_add(at - (before - run.iov_len));
    Some(libc::iovec { iov_base: start.cast(), iov_len: 1 })
}

fn result(done: libc::ssize_t) -> i32 {
    let errno = || -io::Error::last_os_error().raw_os_error().unwrap_or(libc::EIO);
    i32::try_from(done).ok().filter(|done| *done >= 0).unwrap_or_else(errno)
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::os::fd::AsFd;

    use super::*;
    use crate::device::bounce::FolioPool;
    use crate::device::operation::Piece;

    /// Writes or reads a folio at byte 4096.
    fn transfer(file: &MemoryFile, direction: TransferDirection, len: usize, byte: u8) -> (i32, Vec<u8>) {
        let mut folio = FolioPool::reserve(0).unwrap().take(len, len).unwrap();
        folio.parts_mut().0.fill(byte);
        let piece = Piece { request: 0, data_offset: 0, data_len: len, lead: 0, merge: false };
        let mut transfer = Transfer::new(direction, 4096, len, TransferBuffer::Bounce(folio), piece);
        let done = file.transfer(&mut transfer);
        (done, transfer.folio().unwrap().data().to_vec())
    }

    #[test]
    fn transfers_are_done_at_once() {
        let file = MemoryFile::of(tempfile::tempfile_in("/dev/shm").unwrap().as_fd()).unwrap().unwrap();
        for len in [4096, 1 << 20] {
            assert_eq!(transfer(&file, TransferDirection::Write, len, 0xA5).0, i32::try_from(len).unwrap());
            assert_eq!(
                transfer(&file, TransferDirection::Read, len, 0),
                (i32::try_from(len).unwrap(), vec![0xA5; len])
            );
        }
    }

    #[test]
    fn errors_are_reported_as_io_uring_reports_them() {
        let file = tempfile::NamedTempFile::new_in("/dev/shm").unwrap();
        let read_only = File::open(file.path()).unwrap();
        let read_only = MemoryFile::of(read_only.as_fd()).unwrap().unwrap();
        assert_eq!(transfer(&read_only, TransferDirection::Write, 4096, 0).0, -libc::EBADF);
        assert_eq!(transfer(&read_only, TransferDirection::Read, 4096, 0).0, 0, "past the end");
    }

    fn is_memory_file(file: &File) -> bool {
        MemoryFile::of(file.as_fd()).unwrap().is_some()
    }

    #[test]
    fn a_device_node_on_devtmpfs_is_no_file_in_memory() {
        assert!(!is_memory_file(&File::open("/dev/null").unwrap()));
        assert!(!is_memory_file(&File::open("/proc/self/status").unwrap()));
        assert!(is_memory_file(&tempfile::tempfile_in("/dev/shm").unwrap()));
    }
}
