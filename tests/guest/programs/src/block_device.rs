//! A block device without the page cache in between.

use std::{
    fs::{File, OpenOptions},
    io::{self, Seek, SeekFrom},
    os::{fd::AsRawFd, unix::fs::OpenOptionsExt},
};

use crate::Pages;

/// A block device opened with `O_DIRECT`: the buffer given is the buffer the device reads or
/// writes.
#[derive(Debug)]
pub struct BlockDevice(File);

impl BlockDevice {
    /// Opens `path` for reading and writing, or for reading alone.
    ///
    /// # Errors
    /// Names the device and says what open(2) said.
    pub fn open(path: &str, writable: bool) -> Result<Self, String> {
        OpenOptions::new()
            .read(true)
            .write(writable)
            .custom_flags(libc::O_DIRECT)
            .open(path)
            .map(Self)
            .map_err(|error| format!("cannot open {path}: {error}"))
    }

    /// Writes the whole buffer at `offset` bytes in one request, whatever other threads do to it
    /// meanwhile.
    ///
    /// # Errors
    /// What pwrite(2) reports; a short write is an error too.
    pub fn write(&self, buffer: &Pages, offset: u64) -> io::Result<()> {
        let offset = offset.try_into().map_err(io::Error::other)?;
        // SAFETY: `buffer` owns `byte_len` bytes from that pointer on and outlives the call.
        let written = unsafe { libc::pwrite(self.0.as_raw_fd(), buffer.as_ptr(), buffer.byte_len(), offset) };
        whole(written, buffer)
    }

    /// Fills the whole buffer from `offset` bytes in one request.
    ///
    /// # Errors
    /// What pread(2) reports; a short read is an error too.
    pub fn read(&self, buffer: &Pages, offset: u64) -> io::Result<()> {
        let offset = offset.try_into().map_err(io::Error::other)?;
        // SAFETY: `buffer` owns `byte_len` bytes from that pointer on, all inside atomics, and
        // outlives the call.
        let read = unsafe { libc::pread(self.0.as_raw_fd(), buffer.as_ptr(), buffer.byte_len(), offset) };
        whole(read, buffer)
    }

    /// Its size in bytes.
    ///
    /// # Errors
    /// What lseek(2) reports.
    pub fn size(&self) -> io::Result<u64> {
        (&self.0).seek(SeekFrom::End(0))
    }

    /// Flushes the device's volatile cache.
    ///
    /// # Errors
    /// What fsync(2) reports.
    pub fn flush(&self) -> io::Result<()> {
        self.0.sync_all()
    }
}

fn whole(transferred: isize, buffer: &Pages) -> io::Result<()> {
    match usize::try_from(transferred) {
        Ok(len) if len == buffer.byte_len() => Ok(()),
        Ok(_) => Err(io::ErrorKind::UnexpectedEof.into()),
        Err(_) => Err(io::Error::last_os_error()),
    }
}
