//! A checkpoint: the records of the log go to the tuple array, and then the log forgets them.
//!
//! The order is the point: the data of the tuples is made durable, then the tuples, and then the
//! superblock that moves the tail. It goes in steps, none longer than a sync or some pages, so that
//! commits can go in between. A run of pages that become unwritten is one hole, however long it is.

use std::io;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::array::{TuplePage, zero_pages};
use super::layout::Layout;
use super::log::LogId;
use super::media::{File, Media, Reason};
use super::read_ahead::ReadAhead;
use super::replay::{CoveredPages, Replay};
use super::rules::Rules;
use super::superblock::{Loaded, Superblock};

/// Pages of the log that are in memory at a time: the more, the fewer pages of the array are
/// written again.
const BATCH: u64 = 1024;

/// Pages of the array, or runs of them, that one step writes.
const STEP: usize = 64;

#[derive(Debug)]
enum Phase {
    SyncData,
    /// Pages of the log from here on are to be read.
    Read(u64),
    /// The records that were read, up to this page of the log, are on their way to the array.
    Redo(u64, Replay, ReadAhead),
    SyncTuples,
    MoveTail,
}

/// Whether what a checkpoint has written may be lost.
#[derive(Debug, Clone, Default)]
pub(super) struct Spoiled(Arc<AtomicBool>);

impl Spoiled {
    pub(super) fn set(&self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// A checkpoint on its way.
#[derive(Debug)]
pub struct Checkpoint {
    attempt: u64,
    id: LogId,
    layout: Layout,
    pages: Range<u64>,
    superblock: Loaded,
    phase: Phase,
    spoiled: Spoiled,
    rules: Rules,
    /// A flush of the guest's has failed for the durability that was lost: the superblock need not
    /// say so any more.
    loss_reported: bool,
}

impl Checkpoint {
    /// A checkpoint of `pages` of the log that `superblock` is of: they are all durable, and their
    /// data is all written. If a flush has failed for lost durability (`loss_reported`), the
    /// superblock will not say so any more.
    pub(super) fn new(
        attempt: u64,
        id: LogId,
        superblock: Loaded,
        pages: Range<u64>,
        rules: Rules,
        loss_reported: bool,
    ) -> Self {
        let layout = superblock.superblock.layout().clone();
        let spoiled = Spoiled::default();
        Self { attempt, id, layout, pages, superblock, phase: Phase::SyncData, spoiled, rules, loss_reported }
    }

    /// A flag to be set when a sync has failed elsewhere.
    pub(super) fn spoiled(&self) -> Spoiled {
        self.spoiled.clone()
    }

    /// Takes one step. True when it was the last; an error ends the checkpoint too.
    pub fn step(&mut self, media: &impl Media) -> io::Result<bool> {
        if self.spoiled.0.load(Ordering::Relaxed) {
            return Err(io::Error::other("a sync has failed during the checkpoint"));
        }
        match &mut self.phase {
            Phase::SyncData => {
                let synced = media.sync(File::Image, Reason::CheckpointData);
                synced.map_err(|error| self.superblock.lose_durability(media, self.rules, error))?;
                self.phase = Phase::Read(self.pages.start);
            }
            Phase::Read(from) if *from == self.pages.end => self.phase = Phase::SyncTuples,
            Phase::Read(from) => {
                let seqs = *from..(*from + BATCH).min(self.pages.end);
                let replay = Replay::read(&self.layout, media, self.id, seqs.clone())?;
                if replay.pages < seqs.end - seqs.start {
                    // it was written and synced: the medium has lost it
                    let damaged = format!("page {} of the log is damaged", seqs.start + replay.pages);
                    return Err(io::Error::new(io::ErrorKind::InvalidData, damaged));
                }
                let pages = ReadAhead::over(replay.newest());
                self.phase = Phase::Redo(seqs.end, replay, pages);
            }
            Phase::Redo(next, replay, pages) => {
                if !redo(&self.layout, media, replay, pages)? {
                    self.phase = Phase::Read(*next);
                }
            }
            Phase::SyncTuples => {
                media.sync(File::Sidecar, Reason::CheckpointTuples)?;
                self.phase = Phase::MoveTail;
            }
            Phase::MoveTail => {
                let before = &self.superblock.superblock;
                let durability_lost = before.durability_lost && !self.loss_reported;
                let moved = Superblock { tail: self.pages.end, durability_lost, ..before.clone() };
                self.superblock.replace(media, moved)?;
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// The number of the attempt, the pages, and the superblock as it is now.
    pub(super) fn into_parts(self) -> (u64, Range<u64>, Loaded) {
        (self.attempt, self.pages, self.superblock)
    }
}

/// Brings some of what was read to the array. False when there is nothing left.
///
/// The pages are on the medium then, so that a step, and the sync at the end, take no longer than a
/// commit can wait.
fn redo(layout: &Layout, media: &impl Media, replay: &Replay, pages: &mut ReadAhead) -> io::Result<bool> {
    let mut written: Option<Range<u64>> = None;
    for _ in 0..STEP {
        let Some(covered) = pages.next_pages(layout, media, replay) else {
            break;
        };
        redo_pages(layout, media, replay, &covered)?;
        let start = written.map_or(covered.pages.start, |before| before.start);
        written = Some(start..covered.pages.end);
    }
    let Some(written) = written else {
        return Ok(false);
    };
    media.write_back(layout.page_offset(written.start)..layout.page_offset(written.end))?;
    Ok(true)
}

/// Brings the records of these pages to the array.
fn redo_pages(
    layout: &Layout,
    media: &impl Media,
    replay: &Replay,
    covered: &CoveredPages,
) -> io::Result<()> {
    if covered.are_unwritten(layout, replay) {
        return zero_pages(layout, media, &covered.pages);
    }
    let tuple_size = layout.profile().tuple_size();
    // records with tuples are shorter than a page: there is one
    for number in covered.pages.clone() {
        let mut page = TuplePage::read(layout, media, number)?;
        for cover in &covered.covers {
            let range = page.range(layout, &cover.intervals);
            replay.change(cover, tuple_size).apply(&mut page.tuples[range]);
        }
        page.write(layout, media)?;
    }
    Ok(())
}
