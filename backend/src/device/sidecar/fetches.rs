//! Reads whose tuples are not in memory. The ring reads their pages of the tuple array beside the
//! data, many at once, and reads that need the same page share it.
//!
//! A page that cannot be read, or in which a sector does not match its checksum, may be damaged, or
//! may have been read while the log's thread wrote it. The log's thread reads such a page again,
//! sector by sector.

use std::collections::HashSet;
use std::io;
use std::sync::{Arc, OnceLock};

use integrity::sidecar::{Journal, KeptPages, Layout, TuplePage};

use crate::device::operation::DeviceOperation;
use crate::device::uring::PageRead;

/// The result of a page that the log's thread reads, once there is one.
type CarefulResult = Arc<OnceLock<io::Result<()>>>;

/// A page that the log's thread is to read.
#[derive(Debug)]
pub(super) struct CarefulRead {
    pub(super) page: u64,
    pub(super) result: CarefulResult,
}

/// A read whose data has arrived, and the pages that it keeps in memory until it has their tuples.
pub(super) type Waiting = (DeviceOperation, KeptPages);

/// The fetches of one queue.
#[derive(Debug, Default)]
pub(super) struct Fetches {
    /// Pages that are being read.
    reading: HashSet<u64>,
    /// Pages of which no read was begun yet.
    new: Vec<u64>,
    /// Pages that the log's thread reads.
    careful: Vec<(u64, CarefulResult)>,
    waiting: Vec<Waiting>,
}

impl Fetches {
    /// Takes in the pages that a read needs.
    pub(super) fn add(&mut self, pages: &[u64]) {
        for page in pages {
            if self.reading.insert(*page) {
                self.new.push(*page);
            }
        }
    }

    /// The pages to begin to read.
    pub(super) fn take_new(&mut self) -> Vec<u64> {
        std::mem::take(&mut self.new)
    }

    /// The data of a read has arrived; its tuples are in the pages of `kept`.
    pub(super) fn wait(&mut self, operation: DeviceOperation, kept: KeptPages) {
        self.waiting.push((operation, kept));
    }

    /// Whether a page that the log's thread reads is awaited.
    pub(super) fn awaits_log_thread(&self) -> bool {
        !self.careful.is_empty()
    }

    /// Takes a page that the ring has read into the memory of `journal`, or returns the read that
    /// the log's thread is to do instead.
    pub(super) fn arrive(
        &mut self,
        page: &PageRead,
        result: &io::Result<()>,
        layout: &Layout,
        journal: &mut Journal,
    ) -> Option<CarefulRead> {
        let decoded = result.is_ok().then(|| TuplePage::decode(layout, page.number, &page.bytes));
        if let Some(decoded) = decoded.filter(|decoded| decoded.lost.is_empty()) {
            journal.supply(&decoded);
            self.reading.remove(&page.number);
            return None;
        }
        let result = CarefulResult::default();
        self.careful.push((page.number, result.clone()));
        Some(CarefulRead { page: page.number, result })
    }

    /// Takes the pages that the log's thread has read. Returns the reads that fail, since one of
    /// their pages could not be read.
    pub(super) fn take_careful(&mut self) -> Vec<(Waiting, io::Error)> {
        let mut failed = Vec::new();
        let done: Vec<_> = self.careful.extract_if(.., |(_, result)| result.get().is_some()).collect();
        for (page, result) in done {
            self.reading.remove(&page);
            if let Some(Err(error)) = result.get() {
                let needs_page = |(_, kept): &mut Waiting| kept.missing().contains(&page);
                failed.extend(self.waiting.extract_if(.., needs_page).map(|it| (it, copy_of(error))));
            }
        }
        failed
    }

    /// The reads whose pages have all arrived.
    pub(super) fn take_ready(&mut self) -> Vec<Waiting> {
        let (waiting, reading) = (&mut self.waiting, &self.reading);
        waiting.extract_if(.., |(_, kept)| !kept.missing().iter().any(|it| reading.contains(it))).collect()
    }

    /// The reads that wait, of a queue that does no more.
    pub(super) fn abandon(&mut self) -> Vec<Waiting> {
        std::mem::take(&mut self.waiting)
    }
}

/// The same error for another read.
fn copy_of(error: &io::Error) -> io::Error {
    error.raw_os_error().map_or_else(|| error.kind().into(), io::Error::from_raw_os_error)
}
