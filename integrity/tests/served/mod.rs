//! A sidecar that is served without threads: what the log's thread does, one step at a time.
//!
//! Shared by the crash tests and the fuzz target `recover`.

use std::io;
use std::ops::Range;

use stableblk_integrity::Guard;
use stableblk_integrity::sidecar::{Checkpoint, Journal, Media, SECTOR_SIZE, Superblock, TuplePage};

/// The pages of the shortest log there may be.
const LOG_PAGES: u64 = 64;

/// Where a superblock has the number of pages of its log, the limit of blocks in doubt, and its
/// CRC.
const LOG_PAGES_AT: usize = 80;
const DOUBT_MAX_AT: usize = 88;
const CRC_AT: usize = SECTOR_SIZE - 8;

/// A journal, and the checkpoint that is under way.
#[derive(Debug)]
pub(crate) struct Served<'m, M> {
    pub(crate) media: &'m M,
    pub(crate) journal: Journal,
    checkpoint: Option<Checkpoint>,
}

impl<'m, M: Media> Served<'m, M> {
    pub(crate) fn new(media: &'m M, journal: Journal) -> Self {
        Self { media, journal, checkpoint: None }
    }

    pub(crate) fn is_checkpointing(&self) -> bool {
        self.checkpoint.is_some()
    }

    /// Takes a step of a checkpoint, and returns whether it was the last. `None`: no checkpoint is
    /// due.
    pub(crate) fn step_checkpoint(&mut self) -> Option<io::Result<bool>> {
        let mut checkpoint = self.checkpoint.take().or_else(|| self.journal.begin_checkpoint())?;
        let step = checkpoint.step(self.media);
        if matches!(step, Ok(false)) {
            self.checkpoint = Some(checkpoint);
            return Some(step);
        }
        let result = step.map(drop);
        self.journal.end_checkpoint(checkpoint, &result);
        Some(result.map(|()| true))
    }

    /// The tuples of `intervals`, as a read gets them.
    pub(crate) fn tuples(&mut self, intervals: &Range<u64>) -> io::Result<Vec<u8>> {
        tuples_of(&mut self.journal, self.media, intervals)
    }
}

/// The tuples of `intervals`, as a read gets them.
pub(crate) fn tuples_of(
    journal: &mut Journal,
    media: &impl Media,
    intervals: &Range<u64>,
) -> io::Result<Vec<u8>> {
    let (layout, mut tuples) = (journal.layout().clone(), Vec::new());
    for part in layout.parts(intervals) {
        let count = usize::try_from(part.end - part.start).expect("few intervals");
        let mut of_part = vec![0; count * layout.profile().tuple_size()];
        while let Err(miss) = journal.tuples(&part, &mut of_part) {
            let page = TuplePage::read(&layout, media, miss.page);
            journal.fill(&miss, page.as_ref().ok());
            page?;
        }
        tuples.append(&mut of_part);
    }
    Ok(tuples)
}

/// `superblock` with the shortest log there may be and, if it is given, another limit of blocks in
/// doubt.
pub(crate) fn with_short_log(superblock: &Superblock, doubt_max: Option<u64>) -> Superblock {
    let mut bytes = superblock.encode();
    bytes[LOG_PAGES_AT..][..8].copy_from_slice(&LOG_PAGES.to_be_bytes());
    if let Some(doubt_max) = doubt_max {
        bytes[DOUBT_MAX_AT..][..8].copy_from_slice(&doubt_max.to_be_bytes());
    }
    let crc = Guard::Crc64Nvme.compute(&bytes[..CRC_AT]);
    bytes[CRC_AT..].copy_from_slice(&crc.to_be_bytes());
    Superblock::decode(&bytes).expect("a superblock with a short log")
}
