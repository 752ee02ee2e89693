//! Reading a whole image, in parallel and with a progress bar. Parts that need not be read are
//! skipped.

use std::io;
use std::ops::Range;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;

use indicatif::{ProgressBar, ProgressStyle};
use integrity::IntegrityProfile;

use crate::device::bounce::{FOLIO_SIZE_MAX, FOLIO_SIZE_MIN, FolioPool};
use crate::storage::error::ImageError;
use crate::storage::image::{Image, read_at_least};

/// The largest number of threads. More would only queue up at the disk.
const THREADS_MAX: usize = 8;

/// A part of the image, read into memory.
#[derive(Debug)]
pub(super) struct Chunk<'a> {
    /// The number of the first interval.
    pub(super) first_interval: u64,
    /// The data of whole intervals.
    pub(super) data: &'a [u8],
    /// Room for the tuples of these intervals. Its content has no meaning.
    pub(super) tuples: &'a mut [u8],
}

/// A part of the image that cannot be read. It is as small as one request can be.
#[derive(Debug)]
pub(super) struct Unreadable {
    pub(super) intervals: Range<u64>,
    pub(super) error: ImageError,
}

/// The receiver of a scan. Several threads call it, in no certain order.
pub(super) trait Visitor: Sync {
    /// The first byte at or after `offset` that has to be visited, so that holes cost nothing.
    fn next_work(&self, offset: u64) -> Result<Option<u64>, ImageError>;

    /// Takes a part that was read.
    fn visit(&self, chunk: Chunk<'_>) -> Result<(), ImageError>;

    /// Takes a part that could not be read.
    fn unreadable(&self, unreadable: Unreadable) -> Result<(), ImageError> {
        Err(unreadable.error)
    }
}

/// Reads the first `size` bytes of `image`, whole intervals of `profile`, and passes them to
/// `visitor`, until that fails.
pub(super) fn scan(
    image: &Image,
    size: u64,
    profile: &IntegrityProfile,
    title: &'static str,
    visitor: &impl Visitor,
) -> Result<(), ImageError> {
    let progress = ScanProgress::new(size, title);
    let work = || {
        let worked = visit_chunks(image, profile, &progress, visitor);
        worked.inspect_err(|_| progress.stop())
    };
    let threads = thread::available_parallelism().map_or(1, usize::from).min(THREADS_MAX);
    thread::scope(|scope| {
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        workers.into_iter().try_for_each(|worker| match worker.join() {
            Ok(worked) => worked,
            Err(panic) => std::panic::resume_unwind(panic),
        })
    })
}

/// The work of one thread.
fn visit_chunks(
    image: &Image,
    profile: &IntegrityProfile,
    progress: &ScanProgress,
    visitor: &impl Visitor,
) -> Result<(), ImageError> {
    let out_of_memory =
        |source| ImageError::Io { action: "reserve memory for", path: image.path().to_owned(), source };
    let metadata_per_page = profile.metadata_len(FOLIO_SIZE_MIN);
    let mut folio = FolioPool::reserve(metadata_per_page)
        .map_err(out_of_memory)?
        .take(FOLIO_SIZE_MAX, FOLIO_SIZE_MAX)
        .ok_or_else(|| out_of_memory(io::ErrorKind::OutOfMemory.into()))?;
    let (data, tuples) = folio.parts_mut();
    let mut part = Part { image, profile, data, tuples };
    while let Some(offset) = progress.advance(|offset| visitor.next_work(offset))? {
        let len = data_len(progress.end, offset);
        if part.read(offset, len).is_ok() {
            part.show(offset, len, visitor)?;
        } else {
            part.show_one_by_one(offset, len, visitor)?;
        }
    }
    Ok(())
}

/// The memory for a part of the image.
struct Part<'a> {
    image: &'a Image,
    profile: &'a IntegrityProfile,
    data: &'a mut [u8],
    tuples: &'a mut [u8],
}

impl Part<'_> {
    /// Reads `len` bytes. There is room for more, because direct I/O reads whole blocks, past the
    /// end of the image too.
    fn read(&mut self, offset: u64, len: usize) -> Result<(), ImageError> {
        let whole_blocks = len.next_multiple_of(self.image.alignment().offset as usize);
        read_at_least(self.image.file(), offset, len, &mut self.data[..whole_blocks])
            .map_err(|source| ImageError::ReadAt { path: self.image.path().to_owned(), offset, source })
    }

    fn show(&mut self, offset: u64, len: usize, visitor: &impl Visitor) -> Result<(), ImageError> {
        visitor.visit(Chunk {
            first_interval: self.interval(offset),
            data: &self.data[..len],
            tuples: &mut self.tuples[..self.profile.metadata_len(len)],
        })
    }

    /// Reads a part in small steps, to find out which of them cannot be read.
    fn show_one_by_one(&mut self, offset: u64, len: usize, visitor: &impl Visitor) -> Result<(), ImageError> {
        let end = offset + len as u64;
        let step = self.profile.interval_size().max(self.image.alignment().offset as usize);
        for offset in (offset..end).step_by(step) {
            let len = usize::try_from(end - offset).map_or(step, |left| left.min(step));
            match self.read(offset, len) {
                Ok(()) => self.show(offset, len, visitor)?,
                Err(error) => {
                    let intervals = self.interval(offset)..self.interval(offset + len as u64);
                    visitor.unreadable(Unreadable { intervals, error })?;
                }
            }
        }
        Ok(())
    }

    fn interval(&self, offset: u64) -> u64 {
        offset / self.profile.interval_size() as u64
    }
}

/// The length of the chunk at `offset`, if there are `size` bytes in all.
fn data_len(size: u64, offset: u64) -> usize {
    usize::try_from(size - offset).map_or(FOLIO_SIZE_MAX, |left| left.min(FOLIO_SIZE_MAX))
}

/// The progress of all threads together.
struct ScanProgress {
    next_offset: Mutex<u64>,
    end: u64,
    progress: ProgressBar,
}

impl ScanProgress {
    fn new(end: u64, title: &'static str) -> Self {
        let style =
            ProgressStyle::with_template("{msg} {wide_bar} {binary_bytes}/{binary_total_bytes} {eta}");
        // drawn on stderr, and only if that is a terminal
        let progress = ProgressBar::new(end).with_message(title);
        progress.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
        Self { next_offset: Mutex::new(0), end, progress }
    }

    /// The offset of the next chunk to visit; `None` when there is none, or the scan was stopped.
    fn advance(
        &self,
        next_work: impl Fn(u64) -> Result<Option<u64>, ImageError>,
    ) -> Result<Option<u64>, ImageError> {
        let mut next_offset = self.lock();
        if *next_offset >= self.end {
            return Ok(None);
        }
        let chunk_size = FOLIO_SIZE_MAX as u64;
        let chunk = next_work(*next_offset)?
            .map(|work| work / chunk_size * chunk_size)
            .filter(|&chunk| chunk < self.end);
        *next_offset = chunk.map_or(self.end, |chunk| chunk + chunk_size);
        self.progress.set_position(next_offset.min(self.end));
        Ok(chunk)
    }

    fn stop(&self) {
        *self.lock() = self.end;
    }

    fn lock(&self) -> MutexGuard<'_, u64> {
        // an offset is consistent at any time
        self.next_offset.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for ScanProgress {
    fn drop(&mut self) {
        // the next output starts on an empty line
        self.progress.finish_and_clear();
    }
}
