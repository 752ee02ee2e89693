//! A file under stress.

use std::{
    fs::{self, File, OpenOptions},
    io,
    ops::Range,
    os::unix::fs::{FileExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use memmap2::MmapOptions;
use rustix::fs::{FallocateFlags, fallocate};

use crate::{
    model::Model,
    operation::{FILE_LEN_MAX, Operation, Route},
};

/// Where direct transfers begin in memory, in bytes; more than any device asks for.
const ALIGNMENT: usize = 4096;

/// An open file. One thread has it, so nothing changes it but the operation at hand.
#[derive(Debug)]
pub(crate) struct StressedFile {
    path: PathBuf,
    cached: File,
    direct: File,
}

impl StressedFile {
    /// Makes an empty file; an error if there is one.
    pub(crate) fn create(path: &Path) -> io::Result<Self> {
        File::create_new(path)?;
        Self::open(path)
    }

    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        let mut options = OpenOptions::new();
        let cached = options.read(true).write(true).open(path)?;
        let direct = options.custom_flags(libc::O_DIRECT).open(path)?;
        Ok(Self { path: path.to_owned(), cached, direct })
    }

    /// Carries out an operation. `model` has it applied already: it has the data of writes, and
    /// says what reads must find.
    pub(crate) fn execute(&mut self, operation: &Operation, model: &Model) -> io::Result<()> {
        match operation {
            Operation::Read { route, range } => model.verify(range, &self.read(*route, range)?),
            Operation::Write { route, range, .. } => self.write(*route, range.start, model.bytes(range)),
            Operation::Truncate { len } => self.cached.set_len(*len as u64),
            Operation::PunchHole { range } => {
                let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
                Ok(fallocate(&self.cached, flags, range.start as u64, range.len() as u64)?)
            }
            Operation::Sync => self.sync(),
            Operation::Replace => {
                fs::remove_file(&self.path)?;
                *self = Self::create(&self.path)?;
                Ok(())
            }
        }
    }

    pub(crate) fn sync(&self) -> io::Result<()> {
        self.cached.sync_all()
    }

    /// Reads the whole file by each route.
    pub(crate) fn verify(&self, model: &Model) -> io::Result<()> {
        let whole = 0..FILE_LEN_MAX;
        Route::ALL.into_iter().try_for_each(|route| model.verify(&whole, &self.read(route, &whole)?))
    }

    /// The bytes of `range` that are before the end of the file.
    fn read(&self, route: Route, range: &Range<usize>) -> io::Result<Vec<u8>> {
        let start = range.start as u64;
        match route {
            Route::Buffered => {
                let mut bytes = vec![0; range.len()];
                let len = self.cached.read_at(&mut bytes, start)?;
                bytes.truncate(len);
                Ok(bytes)
            }
            Route::Direct => {
                let mut memory = vec![0; range.len() + ALIGNMENT];
                let buffer = aligned(&mut memory, range.len());
                let len = self.direct.read_at(buffer, start)?;
                Ok(buffer[..len].to_vec())
            }
            Route::Mapped => {
                let end = self.len()?.min(range.end);
                if end <= range.start {
                    return Ok(Vec::new());
                }
                let mut options = MmapOptions::new();
                options.offset(start).len(end - range.start);
                // SAFETY: the mapping ends within the file, which no other thread truncates or
                // writes while it is mapped.
                let mapping = unsafe { options.map(&self.cached) }?;
                Ok(mapping.to_vec())
            }
        }
    }

    fn write(&self, route: Route, offset: usize, data: &[u8]) -> io::Result<()> {
        match route {
            Route::Buffered => self.cached.write_all_at(data, offset as u64),
            Route::Direct => {
                let mut memory = vec![0; data.len() + ALIGNMENT];
                let buffer = aligned(&mut memory, data.len());
                buffer.copy_from_slice(data);
                self.direct.write_all_at(buffer, offset as u64)
            }
            Route::Mapped => {
                let end = offset + data.len();
                if self.len()? < end {
                    self.cached.set_len(end as u64)?;
                }
                let mut options = MmapOptions::new();
                options.offset(offset as u64).len(data.len());
                // SAFETY: the mapping ends within the file, which no other thread truncates, reads
                // or writes while it is mapped.
                let mut mapping = unsafe { options.map_mut(&self.cached) }?;
                mapping.copy_from_slice(data);
                Ok(())
            }
        }
    }

    fn len(&self) -> io::Result<usize> {
        self.cached.metadata()?.len().try_into().map_err(io::Error::other)
    }
}

/// The first `len` bytes of `memory` from a multiple of [`ALIGNMENT`] on.
fn aligned(memory: &mut [u8], len: usize) -> &mut [u8] {
    let start = memory.as_ptr().align_offset(ALIGNMENT);
    &mut memory[start..start + len]
}
