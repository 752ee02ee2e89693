//! The tag intent log of a sidecar that is being served: who may change a block when, and what is
//! known of each tuple.
//!
//! A change of blocks goes
//!
//! ```text
//! intend ... until Granted -> write the data -> complete
//! ```
//!
//! and before it is granted there is something durable that makes recovery look at these blocks:
//! the dirty bit of their region, or with [`IntentMode::Block`] the record itself. Records go into
//! pages of the log; a page is written once, by a [`Commit`](super::commit::Commit). A
//! [`Checkpoint`](super::checkpoint::Checkpoint) brings the records of the log into the tuple
//! array, and then the log forgets them.
//!
//! Everything here is state. The work on the files is handed out as a
//! [`Commit`](super::commit::Commit) or a [`Checkpoint`](super::checkpoint::Checkpoint), which one
//! thread runs beside the I/O and returns with its result.

mod data_sync;
mod doubt_limit;
mod intent;
mod log_thread;
mod records;
mod verification;
mod work;

use std::io;
use std::ops::Range;

pub use self::data_sync::DataSync;
pub use self::intent::{Flush, Intent, Permission};
pub use self::verification::{Marks, RegionFindings};
pub use self::work::Waits;

use self::doubt_limit::DoubtLimit;
use self::intent::IntentRecord;
use self::records::Records;
use self::work::{EIO, LogWork, Task};
use super::array::{Change, TuplePage};
use super::cache::{KeptPages, Miss, TupleCache};
use super::dirty_map::DirtyMap;
use super::layout::{Layout, PAGE_SIZE};
use super::log::{LogId, pages_for};
use super::media::{File, Media, Reason};
use super::recovery::RecoveredPages;
use super::regions::Regions;
use super::rules::Rules;
use super::superblock::{IntentMode, Loaded};

/// How much of the log and of the memory for tuples is used, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Usage {
    /// The size of the log.
    pub log_bytes: u64,
    /// The part of the log that counts.
    pub log_used: u64,
    /// The memory that tuples may use.
    pub cache_bytes: u64,
    /// The memory that they use.
    pub cache_used: u64,
}

/// The state of the log of one session.
#[derive(Debug)]
pub struct Journal {
    layout: Layout,
    superblock: Loaded,
    mode: IntentMode,
    rules: Rules,
    cache: TupleCache,
    regions: Regions,
    records: Records,
    doubt: DoubtLimit,
    work: LogWork,
    /// The result of some change is unknown and stays so: see [`Self::give_up`].
    given_up: bool,
    /// A sync of the image has failed, and the superblock does not say so yet.
    lost: bool,
    /// A flush of the guest's has failed for durability that was lost, and the superblock still
    /// says that it was.
    loss_reported: bool,
    /// Blocks that may still be adopted though no record names them: a crash leaves no more.
    adoptable: u64,
}

impl Journal {
    /// An empty log. `superblock` is on disk; its tail is the page to begin with.
    pub(super) fn new(superblock: Loaded, mode: IntentMode, cache_bytes: usize, rules: Rules) -> Self {
        let block = &superblock.superblock;
        let (layout, next) = (block.layout().clone(), block.tail);
        let id = LogId { uuid: block.uuid, epoch: block.epoch };
        Self {
            cache: TupleCache::new(layout.clone(), cache_bytes, next - 1),
            regions: Regions::clean(&layout, layout.dirty_limit()),
            records: Records::new(id, next, layout.profile().tuple_size()),
            doubt: DoubtLimit::new(block.doubt_max),
            work: LogWork::default(),
            given_up: false,
            lost: false,
            loss_reported: false,
            adoptable: u64::MAX,
            superblock,
            layout,
            mode,
            rules,
        }
    }

    /// The same after a crash that has left the regions of `map` in doubt, and in them no more than
    /// `adoptable` blocks that match nothing. At most `doubt_limit` others get into doubt.
    pub(super) fn unverified(mut self, map: DirtyMap, doubt_limit: u64, adoptable: u64) -> Self {
        self.regions = Regions::unverified(&self.layout, self.layout.dirty_limit(), map);
        self.doubt = DoubtLimit::new(doubt_limit);
        self.adoptable = adoptable;
        self
    }

    /// The log of a sidecar that is only read: it has tuples, and takes no intent. Where the last
    /// session was cut off, `recovered` are the pages of the array as
    /// [`Recovery::run`](super::Recovery::run) finds that they should be.
    #[must_use]
    pub fn view(superblock: Loaded, cache_bytes: usize, recovered: Vec<RecoveredPages>) -> Self {
        let mut journal = Self::new(superblock, IntentMode::Region, cache_bytes, Rules::all());
        for pages in recovered {
            match pages {
                RecoveredPages::One(page, _) => journal.cache.keep(page),
                RecoveredPages::Unwritten(pages) => journal.cache.keep_unwritten(&pages),
            }
        }
        journal
    }

    /// The places of everything in the sidecar.
    #[must_use]
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// How much of the log and of the memory for tuples is used.
    #[must_use]
    pub fn usage(&self) -> Usage {
        let bytes = |pages: u64| pages * PAGE_SIZE as u64;
        Usage {
            log_bytes: bytes(self.layout.log_pages()),
            log_used: bytes(self.records.used()),
            cache_bytes: self.cache.limit() as u64,
            cache_used: self.cache.used() as u64,
        }
    }

    /// Asks for permission to make `change`, until it is granted. The caller holds the range lock
    /// of the intervals.
    ///
    /// Fails when what it waits for has failed. Then an intent that [is logged](Intent::is_logged)
    /// must be settled.
    pub fn intend(&mut self, intent: &mut Intent, change: Change<'_>) -> io::Result<Permission> {
        self.refuse_if_given_up()?;
        self.work.busy = true;
        if intent.record.is_none() && !self.is_verified(&intent.intervals, &mut intent.waits)? {
            return Ok(Permission::Later);
        }
        let record = match intent.record {
            Some(record) => record,
            None => match self.log(intent, change)? {
                Some(record) => record,
                None => return Ok(Permission::Later),
            },
        };
        let marked = self.rules.contains(Rules::BIT_BEFORE_RECORD) || self.is_marked(&intent.intervals);
        if !marked {
            self.work.wait(&mut intent.waits, Task::Commit)?;
            return Ok(Permission::Later);
        }
        if record.is_first && record.pages.last > self.records.durable {
            self.work.wait_for_records(&mut intent.waits)?;
            return Ok(Permission::Later);
        }
        Ok(Permission::Granted)
    }

    /// Makes the record of an intent; `None` while it has to wait.
    fn log(&mut self, intent: &mut Intent, change: Change<'_>) -> io::Result<Option<IntentRecord>> {
        let (intervals, waits) = (&intent.intervals, &mut intent.waits);
        if self.rules.contains(Rules::BIT_BEFORE_RECORD) && !self.is_marked(intervals) {
            return self.work.wait(waits, Task::Commit).map(|()| None);
        }
        let (count, tuple_size) = (intervals.end - intervals.start, self.layout.profile().tuple_size());
        let is_first = self.is_record_first(count);
        if !is_first && self.rules.contains(Rules::BOUNDED_DOUBT) && !self.doubt.has_room(count) {
            return self.work.wait_for_records(waits).map(|()| None);
        }
        let reserve = pages_for(count, Change::Written(&[]), tuple_size);
        if !self.has_room(pages_for(count, change, tuple_size) + reserve)
            || !self.cache.pin(intervals, change)
        {
            return self.work.wait(waits, Task::Checkpoint).map(|()| None);
        }
        let pages = self.records.begin(intervals, change, reserve);
        self.regions.record(self.layout.regions_of(intervals), pages.last);
        if !is_first && self.doubt.add(pages.last, count) && !self.work.commit.failing {
            // well before a change has to wait for it
            self.work.commit.wanted = true;
            self.work.seal_wanted = true;
        }
        let record = IntentRecord { pages, is_first, is_unwritten: change == Change::Unwritten };
        intent.record = Some(record);
        Ok(Some(record))
    }

    /// The data of a granted intent is written: reads are verified against its tuples from now on.
    pub fn complete(&mut self, intent: &Intent, change: Change<'_>) {
        if let Some(record) = intent.record {
            self.cache.change(&intent.intervals, change, record.pages.last);
            self.records.end(record.pages);
        }
    }

    /// The data of a logged intent was not written, or not all of it; the blocks hold what `tuples`
    /// say. Makes a record of that.
    pub fn settle(&mut self, intent: &Intent, tuples: &[u8]) {
        let Some(record) = intent.record else {
            return;
        };
        let settled = if self.rules.contains(Rules::SETTLE_FAILED_WRITES) {
            let settled = self.records.append(&intent.intervals, Change::Written(tuples));
            self.regions.record(self.layout.regions_of(&intent.intervals), settled.last);
            settled
        } else {
            record.pages
        };
        self.work.settled = settled.last;
        if record.is_unwritten {
            self.cache.change(&intent.intervals, Change::Unwritten, settled.last);
            self.cache.write_unpinned(&intent.intervals, tuples, settled.last);
        } else {
            self.cache.change(&intent.intervals, Change::Written(tuples), settled.last);
        }
        self.records.end(record.pages);
    }

    /// The kernel still has a change, which may land at any time: nothing can be known of the
    /// blocks. From now on every intent and flush fails, the log does nothing more, and the sidecar
    /// stays open, so that it is recovered when it is opened the next time.
    pub fn give_up(&mut self) {
        self.given_up = true;
    }

    /// Fails when the log was [given up](Self::give_up).
    pub fn refuse_if_given_up(&self) -> io::Result<()> {
        if self.given_up { Err(io::Error::from_raw_os_error(EIO)) } else { Ok(()) }
    }

    /// Copies the tuples of `intervals`, which are one of the [parts](Layout::parts) of a request.
    /// Fails with a page to read first, to be given to [`Self::fill`]. For several pages at once
    /// that might never end, since memory may not have room for all of them.
    ///
    /// The caller holds the range lock of the intervals.
    pub fn tuples(&mut self, intervals: &Range<u64>, tuples: &mut [u8]) -> Result<(), Miss> {
        debug_assert!(self.layout.parts(intervals).count() == 1, "{intervals:?} are of several pages");
        self.cache.copy(intervals, tuples)
    }

    /// As [`Self::tuples`], but fails with the pages to read, each to be given to [`Self::supply`].
    pub fn tuples_or_pages(&mut self, intervals: &Range<u64>, tuples: &mut [u8]) -> Result<(), KeptPages> {
        self.cache.copy_or_keep(intervals, tuples)
    }

    /// The tuples were copied, or are not needed any more.
    pub fn release(&mut self, kept: KeptPages) {
        self.cache.release(kept);
    }

    /// Takes a page that was read, which [`KeptPages`] or a [`Miss`] keep in memory.
    pub fn supply(&mut self, page: &TuplePage) {
        self.cache.supply(page);
    }

    /// Takes the page that was read because of `miss`; none if it could not be read.
    pub fn fill(&mut self, miss: &Miss, page: Option<&TuplePage>) {
        self.cache.fill(miss, page);
    }

    /// Begins a flush of all changes that are complete. The image has to be synced after this.
    #[must_use]
    pub fn begin_flush(&mut self) -> Flush {
        let target = match self.mode {
            // tags are durable before the data is written
            IntentMode::Block => 0,
            IntentMode::Region if !self.rules.contains(Rules::FLUSH_WAITS_FOR_RECORDS) => 0,
            IntentMode::Region => {
                self.records.seal();
                self.records.next() - 1
            }
        };
        self.work.commit.wanted |= target > self.records.durable;
        Flush { complete: self.complete_through(), target, waits: None }
    }

    /// The image was synced, from after the flush began.
    pub fn image_synced(&mut self, flush: &Flush) {
        self.records.committed = self.records.committed.max(flush.complete);
    }

    /// Whether the log is as durable as the flush promises. Fails when it cannot be made so.
    pub fn is_flushed(&mut self, flush: &mut Flush) -> io::Result<bool> {
        self.refuse_if_given_up()?;
        if flush.target <= self.records.durable {
            return Ok(true);
        }
        self.work.wait(&mut flush.waits, Task::Commit).map(|()| false)
    }

    /// A sync of the image has failed. The superblock is to say so, by a checkpoint, which fails
    /// for it: the process may end before it closes the sidecar.
    pub fn durability_was_lost(&mut self) {
        self.lost = !self.superblock.says_lost();
        self.work.checkpoint.wanted |= self.lost;
    }

    /// A flush of the guest's has failed for [durability that was lost](Self::durability_lost) in
    /// an earlier session. The superblock is to forget it, by a checkpoint.
    pub fn loss_was_reported(&mut self) {
        self.loss_reported = self.superblock.superblock.durability_lost;
        self.work.checkpoint.wanted |= self.loss_reported;
    }

    /// Whether the superblock is known to say that durability was lost, in this session or an
    /// earlier one: see [`Superblock::durability_lost`](super::Superblock::durability_lost).
    #[must_use]
    pub fn durability_lost(&self) -> bool {
        self.superblock.says_lost()
    }

    /// Syncs the image while no checkpoint is under way. A failure is written down in the
    /// superblock.
    pub(super) fn sync_image(&mut self, media: &impl Media, reason: Reason) -> io::Result<()> {
        let synced = media.sync(File::Image, reason);
        synced.map_err(|error| self.superblock.lose_durability(media, self.rules, error))
    }

    /// Starts over with `superblock`, which is on disk and continues where this log ends. The log
    /// is empty.
    pub(super) fn go_on_with(&mut self, superblock: Loaded, cache_bytes: usize) {
        let regions = std::mem::replace(&mut self.regions, Regions::clean(&self.layout, 0));
        let before = (self.adoptable, std::mem::replace(&mut self.doubt, DoubtLimit::new(0)));
        *self = Self::new(superblock, self.mode, cache_bytes, self.rules);
        self.regions = regions.grown(&self.layout);
        (self.adoptable, self.doubt) = before;
    }

    /// The page that takes records.
    pub(super) fn next(&self) -> u64 {
        self.records.next()
    }

    /// The superblock as it is on disk.
    pub(super) fn superblock(&self) -> &Loaded {
        &self.superblock
    }

    /// Whether the regions of `intervals` are known, durably, to be dirty. Those that are not will
    /// be.
    fn is_marked(&mut self, intervals: &Range<u64>) -> bool {
        if self.mode == IntentMode::Block || !self.rules.contains(Rules::BIT_BEFORE_DATA) {
            return true;
        }
        self.regions.ask(self.layout.regions_of(intervals))
    }

    /// Whether the data of a change of `count` intervals has to wait until its record is durable.
    fn is_record_first(&self, count: u64) -> bool {
        match self.mode {
            IntentMode::Block => self.rules.contains(Rules::RECORD_BEFORE_DATA),
            // more than may ever be in doubt
            IntentMode::Region => self.rules.contains(Rules::BOUNDED_DOUBT) && self.doubt.is_less_than(count),
        }
    }

    /// The rules that are kept.
    pub(super) fn rules(&self) -> Rules {
        self.rules
    }

    /// Whether there is room for `pages` more, beside those that are kept free.
    fn has_room(&mut self, pages: u64) -> bool {
        let (used, ring) = (self.records.used(), self.layout.log_pages());
        let is_time = used > ring / 2 || self.cache.is_half_dirty() || self.records.are_too_many();
        self.work.checkpoint.wanted |= is_time && !self.work.checkpoint.failing;
        used + self.records.reserved() + pages <= ring || !self.rules.contains(Rules::NO_OVERTAKING)
    }

    /// The last page of the log up to which all data is written.
    fn complete_through(&self) -> u64 {
        if self.rules.contains(Rules::COMMIT_WHEN_COMPLETE) {
            self.records.complete_through()
        } else {
            self.records.next() - 1
        }
    }
}
