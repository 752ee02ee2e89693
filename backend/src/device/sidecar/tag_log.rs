//! The tag intent log of a disk that is being served: its state, which all queues share, and the
//! thread that does the work which the state asks for.

use std::io;
use std::ops::Range;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, SyncSender};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use integrity::sidecar::{self, Checkpoint, Growth, Journal, REGION_SIZE, TuplePage};

use super::doubt::Doubt;
use super::fetches::CarefulRead;
use super::pauses::Pauses;
use super::report::{Findings, report_unfinished};
use crate::device::{CrashDoubt, DoubtfulBytes};
use crate::metrics::Counter;
use crate::storage::sidecar_media::SidecarMedia;

/// How long the log may rest before its tuples are brought to the tuple array.
const PAUSE: Duration = Duration::from_secs(1);

/// How long the disk may rest before no region is marked any more: then a crash leaves nothing in
/// doubt.
const LONG_PAUSE: Duration = Duration::from_secs(300);

/// Regions that are verified one after the other, at most, before anything else is done.
const VERIFIED_AT_ONCE: usize = 8;

/// The log, which all queues of a disk and its log thread share.
#[derive(Debug)]
pub(super) struct TagLog {
    media: SidecarMedia,
    shared: Mutex<TagLogState>,
    /// Notified when there is work for the thread.
    work: Condvar,
    askers: Mutex<Vec<Weak<Asker>>>,
    /// Counts failures of the thread.
    failures: Counter,
    /// The thread sets it.
    doubt: CrashDoubt,
}

#[derive(Debug)]
pub(super) struct TagLogState {
    pub(super) journal: Journal,
    /// Whether the thread has to be woken.
    sleeping: bool,
    /// Whether it sleeps without a limit, because the log is empty.
    resting: bool,
    stopping: bool,
    growing: Option<Growing>,
    /// Pages of the array that queues could not read whole.
    pub(super) careful: Vec<CarefulRead>,
    /// Changes that have failed, whose blocks are to be read.
    pub(super) in_doubt: Vec<Doubt>,
    /// Counts sectors of the array that were found damaged.
    lost_sectors: Counter,
    /// The findings of the verification after a crash.
    findings: Findings,
}

/// A growth that the thread is to make when no change is under way, and the channel for its result.
#[derive(Debug)]
struct Growing {
    growth: Growth,
    cache_bytes: usize,
    done: SyncSender<io::Result<()>>,
}

/// A queue that may have a question to the log which was not granted yet.
#[derive(Debug)]
pub(super) struct Asker {
    asking: AtomicBool,
    wake: Arc<OwnedFd>,
}

impl TagLogState {
    /// Whether the thread has something to do now.
    fn has_work(&self) -> bool {
        let is_any_asked = !self.careful.is_empty() || !self.in_doubt.is_empty();
        is_any_asked || self.journal.is_verification_wanted() || self.journal.has_work()
    }
}

impl Asker {
    /// Asks to be woken when the thread has made progress. Called with the log locked, so that no
    /// progress is missed.
    pub(super) fn ask(&self) {
        self.asking.store(true, Ordering::Relaxed);
    }
}

impl TagLog {
    pub(super) fn new(media: SidecarMedia, journal: Journal) -> Arc<Self> {
        Arc::new(Self {
            media,
            shared: Mutex::new(TagLogState {
                journal,
                sleeping: false,
                resting: false,
                stopping: false,
                growing: None,
                careful: Vec::new(),
                in_doubt: Vec::new(),
                lost_sectors: Counter::default(),
                findings: Findings::default(),
            }),
            work: Condvar::new(),
            askers: Mutex::default(),
            failures: Counter::default(),
            doubt: CrashDoubt::default(),
        })
    }

    /// The part of the image that a crash leaves in doubt.
    pub(super) fn doubt(&self) -> &CrashDoubt {
        &self.doubt
    }

    /// Notes what a crash now would leave in doubt.
    fn note_doubt(&self, journal: &Journal) {
        let (marks, verification) = (journal.marks(), journal.verification());
        self.doubt.set(DoubtfulBytes {
            marked: marks.dirty * REGION_SIZE,
            limit: marks.limit * REGION_SIZE,
            unverified: verification.left * REGION_SIZE,
            left_by_crash: verification.total * REGION_SIZE,
        });
    }

    pub(super) fn media(&self) -> &SidecarMedia {
        &self.media
    }

    /// A queue whose worker is woken by `wake`.
    pub(super) fn asker(&self, wake: Arc<OwnedFd>) -> Arc<Asker> {
        let asker = Arc::new(Asker { asking: AtomicBool::new(false), wake });
        let mut askers = self.askers.lock().unwrap_or_else(PoisonError::into_inner);
        askers.retain(|asker| asker.strong_count() > 0);
        askers.push(Arc::downgrade(&asker));
        asker
    }

    /// Locks the state, until [`Self::unlock`].
    pub(super) fn lock(&self) -> MutexGuard<'_, TagLogState> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Unlocks the state, and wakes the thread if there is work for it now or after a pause.
    pub(super) fn unlock(&self, mut shared: MutexGuard<'_, TagLogState>) {
        let has_work = shared.has_work() || shared.resting && !shared.journal.is_empty();
        let wake = shared.sleeping && has_work;
        shared.sleeping &= !wake;
        drop(shared);
        if wake {
            self.work.notify_one();
        }
    }

    /// Copies the tuples of `intervals`, from memory or from the array. The caller holds their
    /// range.
    fn tuples(&self, intervals: &Range<u64>, tuples: &mut [u8]) -> io::Result<()> {
        loop {
            let missing = self.lock().journal.tuples(intervals, tuples);
            match missing {
                Ok(()) => return Ok(()),
                Err(miss) => {
                    let fetched = self.fetch(miss.page);
                    self.lock().journal.fill(&miss, None);
                    fetched?;
                }
            }
        }
    }

    /// Reads page `number` of the array to memory, which a read keeps there.
    fn fetch(&self, number: u64) -> io::Result<()> {
        let layout = self.lock().journal.layout().clone();
        let page = TuplePage::read(&layout, &self.media, number)?;
        let mut shared = self.lock();
        shared.journal.supply(&page);
        for lost in page.lost {
            if shared.lost_sectors.add_logged() {
                let (first, last) = (lost.start, lost.end.saturating_sub(1));
                tracing::error!(
                    "the sidecar is damaged: LBA {first} to {last} cannot be read until they are written again"
                );
            }
        }
        Ok(())
    }

    /// A flush has failed for durability that was lost in an earlier session, so the superblock
    /// need not note it any more.
    pub(super) fn loss_was_reported(&self) {
        let mut shared = self.lock();
        shared.journal.loss_was_reported();
        self.unlock(shared);
    }

    /// Starts the thread.
    pub(super) fn start(self: &Arc<Self>) -> io::Result<JoinHandle<()>> {
        let log = self.clone();
        thread::Builder::new().name("tag log".to_owned()).spawn(move || log.run())
    }

    /// Ends the thread.
    pub(super) fn stop(&self, thread: JoinHandle<()>) {
        self.lock().stopping = true;
        self.work.notify_one();
        // it does not panic, and there would be nothing left to do if it did
        let _ = thread.join();
    }

    /// Brings all tuples to the array. To be called when the thread has ended.
    pub(super) fn close(&self) -> io::Result<()> {
        let closed = sidecar::close(&mut self.lock().journal, &self.media);
        report_unfinished(self.lock().journal.verification());
        // a flush beside the queues may wait for what is durable now
        self.wake_askers();
        closed
    }

    /// Lets the thread grow the sidecar to that of a larger image. No queue is open.
    pub(super) fn grow(&self, growth: Growth, cache_bytes: usize) -> io::Result<()> {
        let (done, grown) = mpsc::sync_channel(1);
        self.lock().growing = Some(Growing { growth, cache_bytes, done });
        self.work.notify_one();
        grown.recv().unwrap_or_else(|_| Err(io::ErrorKind::Interrupted.into()))
    }

    /// Gives the log up, because operations in flight have not come back: the contents of their
    /// blocks are unknown.
    pub(super) fn give_up(&self) {
        tracing::error!(
            "the disk fails from now on: what a worker had in flight is lost; start again to recover it"
        );
        self.lock().journal.give_up();
        self.wake_askers();
    }

    fn run(&self) {
        let mut checkpoint = None;
        let mut pauses = Pauses::begin();
        while self.sleep(checkpoint.is_some(), &mut pauses) {
            self.read_carefully();
            self.settle_doubts();
            self.verify(&mut pauses);
            self.commit();
            self.advance(&mut checkpoint);
            if checkpoint.is_none() {
                self.grow_if_asked();
            }
        }
        // of a queue that was dropped
        self.settle_doubts();
        // a checkpoint that was begun can be done again after the sidecar is opened
        if let Some(checkpoint) = checkpoint {
            self.lock().journal.end_checkpoint(checkpoint, &Err(io::ErrorKind::Interrupted.into()));
        }
    }

    /// Sleeps until there is work, or the log has rested for a while. False when the thread is to
    /// end.
    fn sleep(&self, checkpointing: bool, pauses: &mut Pauses) -> bool {
        let mut shared = self.lock();
        self.note_doubt(&shared.journal);
        while !shared.stopping && !checkpointing && shared.growing.is_none() && !shared.has_work() {
            let journal = &shared.journal;
            let is_verifying = journal.is_unverified();
            if is_verifying && pauses.is_verification_due() {
                break;
            }
            let pause = match (journal.is_empty(), journal.has_marks()) {
                (false, _) => Some(PAUSE),
                (true, true) => Some(LONG_PAUSE),
                (true, false) => None,
            };
            shared.resting = journal.is_empty();
            shared.sleeping = true;
            let limit = if is_verifying { Some(pauses.until_verification()) } else { pause };
            shared = match limit {
                None => self.work.wait(shared).unwrap_or_else(PoisonError::into_inner),
                Some(limit) => {
                    self.work.wait_timeout(shared, limit).unwrap_or_else(PoisonError::into_inner).0
                }
            };
            shared.sleeping = false;
            if pause.is_some_and(|pause| pauses.is_over(pause)) {
                if shared.journal.is_empty() {
                    shared.journal.rest();
                } else {
                    shared.journal.tick();
                }
            }
        }
        !shared.stopping
    }

    /// Verifies the regions that requests wait for, some of them, or else one region if it is time
    /// for that.
    fn verify(&self, pauses: &mut Pauses) {
        for _ in 0..VERIFIED_AT_ONCE {
            let mut shared = self.lock();
            if !shared.journal.is_verification_wanted() && !pauses.is_verification_due() {
                return;
            }
            let Some(check) = shared.journal.begin_verification() else {
                return;
            };
            drop(shared);
            let begun = Instant::now();
            let checked = check.run(&self.media);
            if let Err(error) = &checked
                && self.failures.add_logged()
            {
                tracing::error!("cannot verify what the crash has left: {error}");
            }
            let mut shared = self.lock();
            let found = shared.journal.end_verification(&check, checked);
            if let Some(found) = &found {
                let progress = shared.journal.verification();
                shared.findings.add(found, progress);
            }
            drop(shared);
            self.wake_askers();
            // one that failed, or for which there is no room yet, is not tried again at once
            pauses.verified_for(if found.is_some() { begun.elapsed() } else { PAUSE });
        }
    }

    /// Reads pages that queues could not read whole.
    fn read_carefully(&self) {
        let reads = std::mem::take(&mut self.lock().careful);
        if reads.is_empty() {
            return;
        }
        let results: Vec<_> =
            reads.into_iter().map(|CarefulRead { page, result }| (result, self.fetch(page))).collect();
        // under the lock, in which a queue looks for results and asks: it misses none
        let shared = self.lock();
        for (place, result) in results {
            let _ = place.set(result);
        }
        drop(shared);
        self.wake_askers();
    }

    /// Reads the blocks of changes that have failed.
    fn settle_doubts(&self) {
        let in_doubt = std::mem::take(&mut self.lock().in_doubt);
        if in_doubt.is_empty() {
            return;
        }
        for doubt in in_doubt {
            self.settle(doubt);
        }
        self.wake_askers();
    }

    /// Finds out what the blocks of a change that has failed hold.
    pub(super) fn settle(&self, doubt: Doubt) {
        let profile = *self.lock().journal.layout().profile();
        let tuples = doubt.look(&profile, &self.media, |intervals, old| self.tuples(intervals, old));
        let mut shared = self.lock();
        doubt.settle(&mut shared.journal, &tuples);
        self.unlock(shared);
    }

    fn grow_if_asked(&self) {
        let mut shared = self.lock();
        if let Some(Growing { growth, cache_bytes, done }) = shared.growing.take() {
            // under the lock, which no other thread needs while no queue is open
            let grown = sidecar::grow(&mut shared.journal, &self.media, &growth, cache_bytes);
            drop(shared);
            // a flush beside the queues may wait for what is durable now
            self.wake_askers();
            let _ = done.send(grown);
        }
    }

    fn commit(&self) {
        let Some(commit) = self.lock().journal.begin_commit() else {
            return;
        };
        let result = commit.run(&self.media);
        if let Err(error) = &result
            && self.failures.add_logged()
        {
            tracing::error!("cannot make intents durable: {error}");
        }
        self.lock().journal.end_commit(commit, &result);
        self.wake_askers();
    }

    /// Takes one step of a checkpoint, so that a commit never waits for more than one.
    fn advance(&self, checkpoint: &mut Option<Checkpoint>) {
        if checkpoint.is_none() {
            *checkpoint = self.lock().journal.begin_checkpoint();
        }
        let Some(mut running) = checkpoint.take() else {
            return;
        };
        let result = match running.step(&self.media) {
            Ok(false) => {
                *checkpoint = Some(running);
                return;
            }
            last => last.map(drop),
        };
        if let Err(error) = &result
            && self.failures.add_logged()
        {
            tracing::error!("cannot bring tuples from the log to the array: {error}");
        }
        self.lock().journal.end_checkpoint(running, &result);
        self.wake_askers();
    }

    fn wake_askers(&self) {
        let askers = self.askers.lock().unwrap_or_else(PoisonError::into_inner);
        for asker in askers.iter().filter_map(Weak::upgrade) {
            if asker.asking.swap(false, Ordering::Relaxed) {
                // fails only when the counter is full, and then the worker has been woken
                let _ = rustix::io::write(&asker.wake, &1u64.to_ne_bytes());
            }
        }
    }
}
