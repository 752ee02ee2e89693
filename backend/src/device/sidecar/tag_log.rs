//! The tag intent log of a disk that is being served: its state, which all queues and the log's
//! thread share.

mod run;

use std::io;
use std::ops::Range;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, SyncSender};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::thread::{self, JoinHandle};

use integrity::sidecar::{self, Growth, Journal, REGION_SIZE, TuplePage};

use super::doubt::Doubt;
use super::fetches::CarefulRead;
use super::kept_damage::KeptDamage;
use super::report::{Findings, report_unfinished};
use crate::device::{CrashDoubt, DoubtfulBytes};
use crate::metrics::TagLogMetrics;
use crate::storage::sidecar_media::SidecarMedia;

/// The log, which all queues of a disk and its log thread share.
#[derive(Debug)]
pub(super) struct TagLog {
    media: SidecarMedia,
    shared: Mutex<TagLogState>,
    /// Notified when there is work for the thread.
    work: Condvar,
    askers: Mutex<Vec<Weak<Asker>>>,
    metrics: Arc<TagLogMetrics>,
    /// The thread sets it.
    doubt: CrashDoubt,
    /// The thread writes it.
    damage: Mutex<KeptDamage>,
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
        let metrics = Arc::new(TagLogMetrics::default());
        note_usage(&journal, &metrics);
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
                findings: Findings::default(),
            }),
            work: Condvar::new(),
            askers: Mutex::default(),
            metrics,
            doubt: CrashDoubt::default(),
            damage: Mutex::default(),
        })
    }

    /// The counters of the log.
    pub(super) fn metrics(&self) -> &Arc<TagLogMetrics> {
        &self.metrics
    }

    /// The part of the image that a crash leaves in doubt.
    pub(super) fn doubt(&self) -> &CrashDoubt {
        &self.doubt
    }

    /// Has the thread keep the damage list.
    pub(super) fn keep(&self, damage: KeptDamage) {
        *self.damage() = damage;
    }

    /// Wakes the thread, since the damage list is to be written soon.
    pub(super) fn damage_has_changed(&self) {
        let mut shared = self.lock();
        let wake = std::mem::take(&mut shared.sleeping);
        drop(shared);
        if wake {
            self.work.notify_one();
        }
    }

    fn damage(&self) -> MutexGuard<'_, KeptDamage> {
        self.damage.lock().unwrap_or_else(PoisonError::into_inner)
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
        note_usage(&shared.journal, &self.metrics);
        shared.sleeping &= !wake;
        drop(shared);
        if wake {
            self.work.notify_one();
        }
    }

    /// Copies the tuples of `intervals`, from memory or from the array. The caller holds their
    /// range.
    fn tuples(&self, intervals: &Range<u64>, tuples: &mut [u8]) -> io::Result<()> {
        let layout = self.lock().journal.layout().clone();
        let mut rest = tuples;
        for part in layout.parts(intervals) {
            let len = part.clone().count() * layout.profile().tuple_size();
            let (of_part, others) = rest.split_at_mut(len);
            self.tuples_of_page(&part, of_part)?;
            rest = others;
        }
        Ok(())
    }

    /// As [`Self::tuples`], of intervals whose tuples are in one page.
    fn tuples_of_page(&self, intervals: &Range<u64>, tuples: &mut [u8]) -> io::Result<()> {
        loop {
            let missing = self.lock().journal.tuples(intervals, tuples);
            let Err(miss) = missing else { return Ok(()) };
            let fetched = self.fetch(miss.page);
            self.lock().journal.fill(&miss, None);
            fetched?;
        }
    }

    /// Reads page `number` of the array to memory, which a read keeps there.
    fn fetch(&self, number: u64) -> io::Result<()> {
        let layout = self.lock().journal.layout().clone();
        let page = TuplePage::read(&layout, &self.media, number)?;
        let mut shared = self.lock();
        shared.journal.supply(&page);
        for lost in page.lost {
            if self.metrics.damaged_sectors.add_logged() {
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

    /// Finds out what the blocks of a change that has failed hold.
    pub(super) fn settle(&self, doubt: Doubt) {
        let profile = *self.lock().journal.layout().profile();
        let tuples = doubt.look(&profile, &self.media, |intervals, old| self.tuples(intervals, old));
        let mut shared = self.lock();
        doubt.settle(&mut shared.journal, &tuples);
        self.unlock(shared);
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

/// Notes how much of the log and of the memory for tuples is used.
fn note_usage(journal: &Journal, metrics: &TagLogMetrics) {
    let usage = journal.usage();
    metrics.bytes.set(usage.log_bytes);
    metrics.used_bytes.set(usage.log_used);
    metrics.cache_bytes.set(usage.cache_bytes);
    metrics.cache_used_bytes.set(usage.cache_used);
}
