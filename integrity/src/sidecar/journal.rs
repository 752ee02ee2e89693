//! The tag intent log of a sidecar that is being served: who may change a block when, and what is known of each tuple.
//!
//! A change of blocks goes
//!
//! ```text
//! intend ... until Granted -> write the data -> complete
//! ```
//!
//! and before it is granted there is something durable that makes recovery look at these blocks: the dirty bit of their region, or
//! with [`IntentMode::Block`] the record itself. Records go into pages of the log; a page is written once, by a [`Commit`].
//! A [`Checkpoint`] brings what the log tells into the tuple array and forgets it.
//!
//! Everything here is state. What has to be done to the files is handed out as a [`Commit`] or a [`Checkpoint`], which one thread
//! runs beside the I/O, and comes back with its result.

use std::collections::VecDeque;
use std::io;
use std::ops::Range;

use super::array::{Change, TuplePage};
use super::cache::{Miss, TupleCache};
use super::checkpoint::{Checkpoint, Spoiled};
use super::commit::Commit;
use super::layout::Layout;
use super::log::{LogId, LogPage, OpenPage, pages_for};
use super::media::{File, Media, Reason};
use super::regions::Regions;
use super::rules::Rules;
use super::superblock::{IntentMode, Loaded};

/// For a failure that has no errno of its own.
const EIO: i32 = 5;

/// Pages that wait in memory before they are written without anyone asking for it: 1 MiB.
const VOLATILE_MAX: usize = 256;

/// Records without tuples after which a checkpoint is made. They are so short that a log could have
/// millions of them before it is half full; the number of the others is bounded by their tuples.
const SHORT_RECORDS_MAX: u64 = 1 << 16;

/// A change of some blocks, on its way.
#[derive(Debug)]
#[must_use = "what is logged must be completed"]
pub struct Intent {
    intervals: Range<u64>,
    logged: Option<Logged>,
    waits: Option<Waits>,
}

/// The pages of the log with an intent's record.
#[derive(Debug, Clone, Copy)]
struct Logged {
    first: u64,
    last: u64,
    /// Pages that are kept free for the record of what it has left if it fails.
    reserve: u64,
    /// The data has to wait until the record is durable.
    is_first: bool,
}

/// What somebody waits for, and since which attempt to do it.
#[derive(Debug, Clone, Copy)]
struct Waits {
    what: Task,
    since: u64,
}

/// What the log's thread does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Task {
    Commit,
    Checkpoint,
}

/// How a task stands.
#[derive(Debug, Default)]
struct Demand {
    /// Somebody wants it done.
    wanted: bool,
    /// The last attempt failed. It is tried again when somebody waits for it, and once a second; not for each write.
    failing: bool,
    /// The last attempt that failed, and the errno.
    failure: Option<(u64, i32)>,
}

/// Whether a change may be made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Admission {
    /// Write the data.
    Granted,
    /// Ask again when the log's thread has done something.
    Later,
}

/// A flush on its way.
#[derive(Debug)]
pub struct Flush {
    /// Records up to this page have their data written.
    complete: u64,
    /// The log must be durable up to this page.
    target: u64,
    waits: Option<Waits>,
}

/// The state of the log of one session.
#[derive(Debug)]
#[expect(clippy::struct_excessive_bools, reason = "facts that do not depend on each other")]
pub struct Journal {
    layout: Layout,
    id: LogId,
    superblock: Loaded,
    mode: IntentMode,
    rules: Rules,
    cache: TupleCache,
    regions: Regions,
    /// The oldest page that still counts.
    tail: u64,
    /// The page that takes records; it has number `next`.
    open: OpenPage,
    next: u64,
    /// The last pages before `next`, which no commit has in hand.
    volatile: VecDeque<LogPage>,
    durable: u64,
    doubt: Doubt,
    /// The next commit is to have the records of the open page too.
    seal_wanted: bool,
    committed: u64,
    /// For each page from `incomplete` to `next`: how many of the changes that begin in it have their data still to be written.
    in_flight: VecDeque<u32>,
    incomplete: u64,
    commit: Demand,
    checkpoint: Demand,
    /// The page up to which the log has to be durable for the checkpoint that is wanted; before
    /// `tail`: not known yet. Records that are made meanwhile do not put it off.
    goal: u64,
    /// A checkpoint is under way; true when what it has written may be lost.
    checkpointing: Option<Spoiled>,
    /// The newest page with a record of a failed write: before it is durable, the array must not get what that write was to be.
    settled: u64,
    /// Commits and checkpoints that were begun.
    attempts: u64,
    /// Whether there was an intent since the last [`Self::tick`].
    busy: bool,
    /// What some change has left is unknown and stays so: see [`Self::give_up`].
    given_up: bool,
    /// A sync of the image has failed, and the superblock does not say so yet.
    lost: bool,
    /// A flush of the guest's has failed for durability that was lost, and the superblock still
    /// says that it was.
    told: bool,
    /// Records without tuples since the last checkpoint began.
    short_records: u64,
    /// Pages that are kept free for changes on their way. So one that fails always finds room, and what follows never waits for it.
    reserved: u64,
}

impl Intent {
    /// To change the tuples of `intervals`, not none.
    pub fn new(intervals: Range<u64>) -> Self {
        Self { intervals, logged: None, waits: None }
    }

    /// The intervals.
    #[must_use]
    pub fn intervals(&self) -> &Range<u64> {
        &self.intervals
    }

    /// Whether there is a record of it, which must be completed or settled even if its data is never written.
    #[must_use]
    pub fn is_logged(&self) -> bool {
        self.logged.is_some()
    }
}

impl Journal {
    /// An empty log. `superblock` is on disk; its tail is the page to begin with.
    pub(super) fn new(superblock: Loaded, mode: IntentMode, cache_bytes: usize, rules: Rules) -> Self {
        let block = &superblock.superblock;
        let (layout, next) = (block.layout().clone(), block.tail);
        Self {
            id: LogId { uuid: block.uuid, epoch: block.epoch },
            cache: TupleCache::new(layout.clone(), cache_bytes, next - 1),
            regions: Regions::clean(&layout),
            tail: next,
            open: OpenPage::new(),
            next,
            volatile: VecDeque::new(),
            durable: next - 1,
            doubt: Doubt::new(block.doubt_max),
            seal_wanted: false,
            committed: next - 1,
            in_flight: VecDeque::from([0]),
            incomplete: next,
            commit: Demand::default(),
            checkpoint: Demand::default(),
            goal: 0,
            checkpointing: None,
            settled: 0,
            attempts: 0,
            busy: false,
            given_up: false,
            lost: false,
            told: false,
            short_records: 0,
            reserved: 0,
            superblock,
            layout,
            mode,
            rules,
        }
    }

    /// Of a sidecar that is only read: it has tuples, and takes no intent. Where the last session was cut off, `recovered` are the
    /// pages of the array as [`Recovery::run`](super::Recovery::run) finds that they should be.
    #[must_use]
    pub fn view(superblock: Loaded, cache_bytes: usize, recovered: Vec<TuplePage>) -> Self {
        let mut journal = Self::new(superblock, IntentMode::Region, cache_bytes, Rules::all());
        for page in recovered {
            journal.cache.keep(page);
        }
        journal
    }

    /// Where everything lies.
    #[must_use]
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// Asks for leave to make `change`, until it is granted. The caller holds the range lock of the intervals.
    ///
    /// Fails when what it waits for has failed. Then an intent that [is logged](Intent::is_logged) must be settled.
    pub fn intend(&mut self, intent: &mut Intent, change: Change<'_>) -> io::Result<Admission> {
        self.refuse_if_given_up()?;
        self.busy = true;
        let logged = if let Some(logged) = intent.logged {
            logged
        } else {
            if self.rules.contains(Rules::BIT_BEFORE_RECORD) && !self.is_marked(&intent.intervals) {
                return self.wait(&mut intent.waits, Task::Commit);
            }
            let (count, tuple_size) =
                (intent.intervals.end - intent.intervals.start, self.layout.profile().tuple_size());
            let is_first = self.is_record_first(count);
            if !is_first && self.rules.contains(Rules::BOUNDED_DOUBT) && !self.doubt.has_room(count) {
                return self.wait_for_records(&mut intent.waits);
            }
            let reserve = pages_for(count, Change::Written(&[]), tuple_size);
            if !self.has_room(pages_for(count, change, tuple_size) + reserve)
                || !self.cache.pin(&intent.intervals)
            {
                return self.wait(&mut intent.waits, Task::Checkpoint);
            }
            let logged = Logged { reserve, is_first, ..self.append(&intent.intervals, change) };
            if !is_first && self.doubt.add(logged.last, count) && !self.commit.failing {
                // well before anyone has to wait for it
                self.commit.wanted = true;
                self.seal_wanted = true;
            }
            self.reserved += reserve;
            self.in_flight[count_of(logged.first - self.incomplete)] += 1;
            intent.logged = Some(logged);
            logged
        };
        let marked = self.rules.contains(Rules::BIT_BEFORE_RECORD) || self.is_marked(&intent.intervals);
        if !marked {
            return self.wait(&mut intent.waits, Task::Commit);
        }
        if logged.is_first && logged.last > self.durable {
            return self.wait_for_records(&mut intent.waits);
        }
        Ok(Admission::Granted)
    }

    /// The data of a granted intent is written: reads are verified against its tuples from now on.
    pub fn complete(&mut self, intent: &Intent, change: Change<'_>) {
        if let Some(logged) = intent.logged {
            self.cache.change(&intent.intervals, change, logged.last);
            self.data_is_written(logged);
        }
    }

    /// The data of a logged intent was not written, or not all of it; the blocks hold what `change` says. Makes a record of that.
    pub fn settle(&mut self, intent: &Intent, change: Change<'_>) {
        let Some(logged) = intent.logged else {
            return;
        };
        let settled = if self.rules.contains(Rules::SETTLE_FAILED_WRITES) {
            self.append(&intent.intervals, change)
        } else {
            logged
        };
        self.settled = settled.last;
        self.cache.change(&intent.intervals, change, settled.last);
        self.data_is_written(logged);
    }

    /// The kernel still has a change, which may land at any time: nothing can be known of the blocks. From now on every intent and
    /// flush fails, the log does nothing more, and the sidecar stays open, so that it is recovered when it is opened the next time.
    pub fn give_up(&mut self) {
        self.given_up = true;
    }

    /// Fails when the log was [given up](Self::give_up).
    pub fn refuse_if_given_up(&self) -> io::Result<()> {
        if self.given_up { Err(io::Error::from_raw_os_error(EIO)) } else { Ok(()) }
    }

    /// Copies the tuples of `intervals`. Fails with a page to read first, to be given to [`Self::fill`], and so on.
    ///
    /// The caller holds the range lock of the intervals.
    pub fn tuples(&mut self, intervals: &Range<u64>, tuples: &mut [u8]) -> Result<(), Miss> {
        self.cache.copy(intervals, tuples)
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
                self.seal();
                self.next - 1
            }
        };
        self.commit.wanted |= target > self.durable;
        Flush { complete: self.complete_through(), target, waits: None }
    }

    /// The image was synced, from after the flush began.
    pub fn image_synced(&mut self, flush: &Flush) {
        self.committed = self.committed.max(flush.complete);
    }

    /// Whether the log is as durable as the flush promises. Fails when it cannot be made so.
    pub fn is_flushed(&mut self, flush: &mut Flush) -> io::Result<bool> {
        self.refuse_if_given_up()?;
        if flush.target <= self.durable {
            return Ok(true);
        }
        self.wait(&mut flush.waits, Task::Commit).map(|_| false)
    }

    /// What has to become durable now, for the log's thread.
    pub fn begin_commit(&mut self) -> Option<Commit> {
        if self.given_up {
            return None;
        }
        if !std::mem::take(&mut self.commit.wanted) && !self.is_overfull() {
            return None;
        }
        if std::mem::take(&mut self.seal_wanted) {
            self.seal();
        }
        let regions = self.regions.begin_marking();
        if self.volatile.is_empty() && !self.regions.has_changes() {
            return None;
        }
        self.attempts += 1;
        self.doubt.fresh = 0;
        let pages = std::mem::take(&mut self.volatile);
        let first = self.next - pages.len() as u64;
        Some(Commit {
            attempt: self.attempts,
            map: self.regions.take_changes(&self.layout),
            pages: (first..).map(|seq| self.layout.log_page_offset(seq)).zip(pages).collect(),
            through: self.next - 1,
            regions,
        })
    }

    /// A commit is over.
    pub fn end_commit(&mut self, commit: Commit, result: &io::Result<()>) {
        self.commit.end(commit.attempt, result);
        if result.is_ok() {
            self.durable = commit.through;
            self.doubt.is_durable(commit.through);
            self.regions.are_marked(commit.regions);
            return;
        }
        if let Some(checkpoint) = &self.checkpointing {
            // a sync that fails may give up all that was written to the file, tuples too, and the next one will not tell
            checkpoint.set();
        }
        // one that waits for the commit has failed with it, and is not to ask for it again and again
        self.checkpoint.failing |= std::mem::take(&mut self.checkpoint.wanted);
        self.regions.are_not_marked(&self.layout, &commit);
        for (_, page) in commit.pages.into_iter().rev() {
            self.volatile.push_front(page);
        }
    }

    /// What can go to the array now, for the log's thread.
    pub fn begin_checkpoint(&mut self) -> Option<Checkpoint> {
        if self.given_up || !self.checkpoint.wanted || self.checkpointing.is_some() {
            return None;
        }
        if self.goal < self.tail {
            self.seal();
            self.goal = self.complete_through();
        }
        if self.goal < self.tail && !self.told && !self.lost {
            // what is wanted can only be had when some change is complete
            self.checkpoint.wanted = !self.is_empty();
            return None;
        }
        if self.goal.max(self.settled) > self.durable {
            // The checkpoint reads the log from the medium. A failed write may have been settled in the
            // open page since, and then the commit has to close that.
            self.seal_wanted |= self.settled == self.next;
            self.commit.wanted = true;
            return None;
        }
        let through = self.complete_through().min(self.durable);
        self.attempts += 1;
        self.checkpoint.wanted = false;
        self.goal = 0;
        self.short_records = 0;
        let pages = self.tail..through + 1;
        let checkpoint =
            Checkpoint::new(self.attempts, self.id, self.superblock.clone(), pages, self.rules, self.told);
        self.checkpointing = Some(checkpoint.spoiled());
        Some(checkpoint)
    }

    /// A checkpoint is over.
    pub fn end_checkpoint(&mut self, checkpoint: Checkpoint, result: &io::Result<()>) {
        self.checkpointing = None;
        let (attempt, pages, superblock) = checkpoint.into_parts();
        self.superblock = superblock;
        self.checkpoint.end(attempt, result);
        self.lost &= !self.superblock.superblock.durability_lost;
        if result.is_err() {
            return;
        }
        self.told &= self.superblock.superblock.durability_lost;
        self.tail = pages.end;
        self.committed = self.committed.max(pages.end - 1);
        self.cache.checkpointed(pages.end - 1);
        self.clean_regions(pages.end);
    }

    /// Whether the log's thread has anything to do.
    #[must_use]
    pub fn has_work(&self) -> bool {
        if self.given_up {
            return false;
        }
        let open_is_complete = !self.open.is_empty() && self.in_flight == [0];
        let checkpoint_helps =
            self.told || self.lost || open_is_complete || self.complete_through() >= self.tail;
        self.commit.wanted
            || self.is_overfull()
            || (self.checkpoint.wanted && self.checkpointing.is_none() && checkpoint_helps)
    }

    /// To be called about once a second while the log [is not empty](Self::is_empty): a pause is the time for a checkpoint.
    pub fn tick(&mut self) {
        if !std::mem::take(&mut self.busy) || self.checkpoint.failing {
            self.want_checkpoint();
            self.commit.wanted |= self.regions.has_changes();
        }
    }

    /// Asks for a checkpoint of all that is complete.
    pub fn want_checkpoint(&mut self) {
        // regions that were marked for changes of which none was made
        self.clean_regions(self.tail);
        self.goal = 0;
        self.checkpoint.wanted = !self.is_empty();
    }

    /// Whether everything is in the array, and the superblock says nothing that is over.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        let is_written = self.tail == self.next && self.open.is_empty() && !self.regions.has_changes();
        is_written && !self.told && !self.given_up
    }

    /// A sync of the image has failed. The superblock is to say so, by a checkpoint, which fails for
    /// it: the process may end before it closes the sidecar.
    pub fn durability_was_lost(&mut self) {
        self.lost = !self.superblock.superblock.durability_lost;
        self.checkpoint.wanted |= self.lost;
    }

    /// A flush of the guest's has failed for [durability that was lost](Self::durability_lost) in
    /// an earlier session. The superblock is to forget it, by a checkpoint.
    pub fn loss_was_told(&mut self) {
        self.told = self.superblock.superblock.durability_lost;
        self.checkpoint.wanted |= self.told;
    }

    /// Whether the superblock says that [durability was lost](super::Superblock::durability_lost),
    /// in this session or an earlier one.
    #[must_use]
    pub fn durability_lost(&self) -> bool {
        self.superblock.superblock.durability_lost
    }

    /// Syncs the image while no checkpoint is under way. A failure is written down in the
    /// superblock.
    pub(super) fn sync_image(&mut self, media: &impl Media, reason: Reason) -> io::Result<()> {
        let synced = media.sync(File::Image, reason);
        synced.map_err(|error| self.superblock.lose_durability(media, self.rules, error))
    }

    /// Begins anew with `superblock`, which is on disk and goes on where this log ends. The log is empty.
    pub(super) fn go_on_with(&mut self, superblock: Loaded, cache_bytes: usize) {
        *self = Self::new(superblock, self.mode, cache_bytes, self.rules);
    }

    /// The page that takes records.
    pub(super) fn next(&self) -> u64 {
        self.next
    }

    /// The superblock as it is on disk.
    pub(super) fn superblock(&self) -> &Loaded {
        &self.superblock
    }

    /// Whether the regions of `intervals` are known, durably, to be dirty. Those that are not will be.
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
            IntentMode::Region => self.rules.contains(Rules::BOUNDED_DOUBT) && count > self.doubt.max,
        }
    }

    /// Asks for a commit of all records that there are.
    fn wait_for_records(&mut self, waits: &mut Option<Waits>) -> io::Result<Admission> {
        self.seal_wanted = true;
        self.wait(waits, Task::Commit)
    }

    /// The rules that are kept.
    pub(super) fn rules(&self) -> Rules {
        self.rules
    }

    /// Whether there is room for `pages` more, beside those that are kept free.
    fn has_room(&mut self, pages: u64) -> bool {
        let used = self.next + u64::from(!self.open.is_empty()) - self.tail;
        let ring = self.layout.log_pages();
        let is_time =
            used > ring / 2 || self.cache.is_half_dirty() || self.short_records >= SHORT_RECORDS_MAX;
        self.checkpoint.wanted |= is_time && !self.checkpoint.failing;
        used + self.reserved + pages <= ring || !self.rules.contains(Rules::NO_OVERTAKING)
    }

    /// Takes the dirty bits of regions of which no page from `tail` on has a record.
    fn clean_regions(&mut self, tail: u64) {
        let all = !self.rules.contains(Rules::CLEAN_WHEN_CHECKPOINTED);
        self.regions.clean_before(if all { u64::MAX } else { tail });
        // no one waits for these bits, but they are to be seen one day
        self.commit.wanted |= self.regions.has_changes();
    }

    fn append(&mut self, intervals: &Range<u64>, change: Change<'_>) -> Logged {
        let tuple_size = self.layout.profile().tuple_size();
        let mut rest = intervals.clone();
        let mut first = None;
        loop {
            let part = change.part(intervals, &rest, tuple_size);
            let count = self.open.append(&rest, part, tuple_size);
            self.short_records += u64::from(count > 0 && change == Change::Unwritten);
            if count > 0 && first.is_none() {
                first = Some(self.next);
            }
            rest.start += count;
            if rest.is_empty() {
                break;
            }
            self.turn_page();
        }
        let logged =
            Logged { first: first.unwrap_or(self.next), last: self.next, reserve: 0, is_first: false };
        self.regions.record(self.layout.regions_of(intervals), logged.last);
        logged
    }

    fn data_is_written(&mut self, logged: Logged) {
        self.in_flight[count_of(logged.first - self.incomplete)] -= 1;
        self.reserved -= logged.reserve;
        self.pass_complete();
    }

    /// Closes the open page, if there is anything in it.
    fn seal(&mut self) {
        if !self.open.is_empty() {
            self.turn_page();
            self.pass_complete();
        }
    }

    fn turn_page(&mut self) {
        let page = std::mem::replace(&mut self.open, OpenPage::new());
        self.volatile.push_back(page.seal(self.id, self.next, self.committed));
        self.next += 1;
        self.in_flight.push_back(0);
    }

    fn pass_complete(&mut self) {
        while self.incomplete < self.next && self.in_flight.front() == Some(&0) {
            self.in_flight.pop_front();
            self.incomplete += 1;
        }
    }

    /// The last page up to which all data is written.
    fn complete_through(&self) -> u64 {
        if self.rules.contains(Rules::COMMIT_WHEN_COMPLETE) { self.incomplete - 1 } else { self.next - 1 }
    }

    /// Whether pages should be written without anyone waiting for it.
    fn is_overfull(&self) -> bool {
        self.volatile.len() >= VOLATILE_MAX && !self.commit.failing
    }

    /// Asks for `what`. Fails when it has failed since the waiting began.
    fn wait(&mut self, waits: &mut Option<Waits>, what: Task) -> io::Result<Admission> {
        match what {
            Task::Commit => self.commit.wanted = true,
            Task::Checkpoint => self.checkpoint.wanted = true,
        }
        let since = match *waits {
            Some(waits) if waits.what == what => waits.since,
            _ => {
                *waits = Some(Waits { what, since: self.attempts });
                return Ok(Admission::Later);
            }
        };
        let failed = match what {
            Task::Commit => self.commit.failure_after(since),
            // a checkpoint begins with a commit
            Task::Checkpoint => {
                self.checkpoint.failure_after(since).or_else(|| self.commit.failure_after(since))
            }
        };
        failed.map_or(Ok(Admission::Later), Err)
    }
}

/// The intervals whose data may be written while their records are not durable: after a crash, all
/// that can match nothing without being named by the log.
#[derive(Debug)]
struct Doubt {
    max: u64,
    now: u64,
    /// How many there are since the last commit began.
    fresh: u64,
    /// How many there are for each page of the log that is not durable and ends the record of some.
    by_page: VecDeque<(u64, u64)>,
}

impl Doubt {
    fn new(max: u64) -> Self {
        Self { max, now: 0, fresh: 0, by_page: VecDeque::new() }
    }

    fn has_room(&self, count: u64) -> bool {
        self.now + count <= self.max
    }

    /// `count` more intervals have their record in page `page`, the newest. True when it is time to
    /// make that page durable.
    fn add(&mut self, page: u64, count: u64) -> bool {
        self.now += count;
        self.fresh += count;
        match self.by_page.back_mut() {
            Some((newest, counted)) if *newest == page => *counted += count,
            _ => self.by_page.push_back((page, count)),
        }
        self.fresh > self.max / 2
    }

    /// All pages up to `page` are durable.
    fn is_durable(&mut self, page: u64) {
        while let Some((_, count)) = self.by_page.front().copied().filter(|(first, _)| *first <= page) {
            self.by_page.pop_front();
            self.now -= count;
        }
    }
}

impl Demand {
    fn end(&mut self, attempt: u64, result: &io::Result<()>) {
        self.failing = result.is_err();
        if let Err(error) = result {
            self.failure = Some((attempt, error.raw_os_error().unwrap_or(EIO)));
        }
    }

    fn failure_after(&self, attempt: u64) -> Option<io::Error> {
        let (_, errno) = self.failure.filter(|(failed, _)| *failed > attempt)?;
        Some(io::Error::from_raw_os_error(errno))
    }
}

#[expect(clippy::cast_possible_truncation, reason = "pages of the log that are in memory")]
fn count_of(pages: u64) -> usize {
    pages as usize
}
