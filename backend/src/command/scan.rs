//! Going over an image whole: in parallel, past what needs no look, with a progress bar.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;

use indicatif::{ProgressBar, ProgressStyle};
use integrity::IntegrityProfile;

use crate::bounce::{Arena, FOLIO_SIZE_MAX, FOLIO_SIZE_MIN, FolioPool};
use crate::error::Error;
use crate::image::Image;

/// More would only queue up at the disk.
const THREADS_MAX: usize = 8;

/// A part of the image, read into memory.
#[derive(Debug)]
pub(super) struct Chunk<'a> {
    /// The number of its first interval.
    pub(super) first_interval: u64,
    /// Whole intervals.
    pub(super) data: &'a [u8],
    /// Room for the tuples of these intervals; what is in it is of no meaning.
    pub(super) tuples: &'a mut [u8],
}

/// Gives each part of `image` to `visit`, on several threads and in no certain order, until one fails.
///
/// `next_work` tells the first byte at or after an offset that has to be visited, so that holes cost nothing. The image
/// consists of whole intervals of `profile`.
pub(super) fn scan(
    image: &Image,
    profile: &IntegrityProfile,
    title: &'static str,
    next_work: impl Fn(u64) -> Result<Option<u64>, Error> + Sync,
    visit: impl Fn(Chunk<'_>) -> Result<(), Error> + Sync,
) -> Result<(), Error> {
    let cursor = Cursor::new(image.size(), title);
    let work = || {
        let worked = visit_chunks(image, profile, || cursor.advance(&next_work), &visit);
        worked.inspect_err(|_| cursor.stop())
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
    next_offset: impl Fn() -> Result<Option<u64>, Error>,
    visit: impl Fn(Chunk<'_>) -> Result<(), Error>,
) -> Result<(), Error> {
    let out_of_memory =
        |source| Error::Io { action: "reserve memory for", path: image.path().to_owned(), source };
    let metadata_per_page = profile.metadata_len(FOLIO_SIZE_MIN);
    let arena = Arena::reserve(metadata_per_page).map_err(out_of_memory)?;
    let mut folio = FolioPool::new(arena)
        .take(FOLIO_SIZE_MAX, FOLIO_SIZE_MAX)
        .ok_or_else(|| out_of_memory(io::ErrorKind::OutOfMemory.into()))?;
    let (data, tuples) = folio.parts_mut();
    while let Some(offset) = next_offset()? {
        let len = data_len(image, offset);
        read(image, offset, len, data)?;
        visit(Chunk {
            first_interval: offset / profile.interval_size() as u64,
            data: &data[..len],
            tuples: &mut tuples[..profile.metadata_len(len)],
        })?;
    }
    Ok(())
}

/// Bytes of the chunk at `offset`.
fn data_len(image: &Image, offset: u64) -> usize {
    usize::try_from(image.size() - offset).map_or(FOLIO_SIZE_MAX, |left| left.min(FOLIO_SIZE_MAX))
}

/// Reads `len` bytes into `data`, which has room for more: direct I/O reads whole blocks, past the end of the image too.
fn read(image: &Image, offset: u64, len: usize, data: &mut [u8]) -> Result<(), Error> {
    let whole_blocks = len.next_multiple_of(image.alignment().offset as usize);
    read_at_least(image.file(), offset, len, &mut data[..whole_blocks]).map_err(|source| Error::ReadAt {
        path: image.path().to_owned(),
        offset,
        source,
    })
}

fn read_at_least(file: &File, offset: u64, len: usize, data: &mut [u8]) -> io::Result<()> {
    let mut done = 0;
    while done < len {
        match file.read_at(&mut data[done..], offset + done as u64) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(read) => done += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// How far the threads have come together.
struct Cursor {
    next_offset: Mutex<u64>,
    end: u64,
    progress: ProgressBar,
}

impl Cursor {
    fn new(end: u64, title: &'static str) -> Self {
        let style =
            ProgressStyle::with_template("{msg} {wide_bar} {binary_bytes}/{binary_total_bytes} {eta}");
        // drawn on stderr, and only if that is a terminal
        let progress = ProgressBar::new(end).with_message(title);
        progress.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
        Self { next_offset: Mutex::new(0), end, progress }
    }

    /// Where the next chunk to visit starts; `None` when there is none, or the scan was stopped.
    fn advance(&self, next_work: impl Fn(u64) -> Result<Option<u64>, Error>) -> Result<Option<u64>, Error> {
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
        // an offset is whole at any time
        self.next_offset.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Cursor {
    fn drop(&mut self) {
        // whatever is printed next starts on an empty line
        self.progress.finish_and_clear();
    }
}
