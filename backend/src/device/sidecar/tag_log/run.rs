//! The log's thread, which does the work that the state of the log asks for.

use std::io;
use std::sync::PoisonError;
use std::time::{Duration, Instant};

use integrity::sidecar::{self, Checkpoint};

use super::{Growing, TagLog, note_usage};
use crate::device::sidecar::fetches::CarefulRead;
use crate::device::sidecar::pauses::Pauses;

/// How long the log may rest before its tuples are brought to the tuple array.
const PAUSE: Duration = Duration::from_secs(1);

/// How long the disk may rest before no region is marked any more: then a crash leaves nothing in
/// doubt.
const LONG_PAUSE: Duration = Duration::from_secs(300);

/// Regions that are verified one after the other, at most, before anything else is done.
const VERIFIED_AT_ONCE: usize = 8;

/// A checkpoint that is under way.
#[derive(Debug)]
struct Running {
    checkpoint: Checkpoint,
    begun: Instant,
}

fn nanoseconds_since(begun: Instant) -> u64 {
    u64::try_from(begun.elapsed().as_nanos()).unwrap_or(u64::MAX)
}

impl TagLog {
    /// Works until [`TagLog::stop`].
    pub(super) fn run(&self) {
        let mut checkpoint: Option<Running> = None;
        let mut pauses = Pauses::begin();
        while self.sleep(checkpoint.is_some(), &mut pauses) {
            self.read_carefully();
            self.settle_doubts();
            self.verify(&mut pauses);
            self.commit();
            self.sync_data();
            self.advance(&mut checkpoint);
            self.damage().write_if_due(&self.media);
            if checkpoint.is_none() {
                self.grow_if_asked();
            }
        }
        // of a queue that was dropped
        self.settle_doubts();
        self.damage().write(&self.media);
        // a checkpoint that was begun can be done again after the sidecar is opened
        if let Some(checkpoint) = checkpoint {
            let interrupted = Err(io::ErrorKind::Interrupted.into());
            self.lock().journal.end_checkpoint(checkpoint.checkpoint, &interrupted);
        }
    }

    /// Sleeps until there is work, or the log has rested for a while. False when the thread is to
    /// end.
    fn sleep(&self, checkpointing: bool, pauses: &mut Pauses) -> bool {
        let mut shared = self.lock();
        self.note_doubt(&shared.journal);
        note_usage(&shared.journal, &self.metrics);
        while !shared.stopping && !checkpointing && shared.growing.is_none() && !shared.has_work() {
            let journal = &shared.journal;
            let is_verifying = journal.is_unverified();
            let until_damage = self.damage().rest();
            if is_verifying && pauses.is_verification_due() || until_damage.is_some_and(|it| it.is_zero()) {
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
            let limit = limit.into_iter().chain(until_damage).min();
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
                && self.metrics.failures.add_logged()
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
        let begun = Instant::now();
        let result = commit.run(&self.media);
        if result.is_ok() {
            self.metrics.commits.add(nanoseconds_since(begun));
        }
        if let Err(error) = &result
            && self.metrics.failures.add_logged()
        {
            tracing::error!("cannot make intents durable: {error}");
        }
        self.lock().journal.end_commit(commit, &result);
        self.wake_askers();
    }

    /// Makes data durable that no flush has made so for long.
    fn sync_data(&self) {
        let Some(sync) = self.lock().journal.begin_data_sync() else {
            return;
        };
        let result = sync.run(&self.media);
        if let Err(error) = &result
            && self.metrics.failures.add_logged()
        {
            tracing::error!("cannot sync the image: {error}");
        }
        self.lock().journal.end_data_sync(&sync, &result);
    }

    /// Takes one step of a checkpoint, so that a commit never waits for more than one.
    fn advance(&self, running: &mut Option<Running>) {
        if running.is_none() {
            let checkpoint = self.lock().journal.begin_checkpoint();
            *running = checkpoint.map(|checkpoint| Running { checkpoint, begun: Instant::now() });
        }
        let Some(Running { mut checkpoint, begun }) = running.take() else {
            return;
        };
        let result = match checkpoint.step(&self.media) {
            Ok(false) => {
                *running = Some(Running { checkpoint, begun });
                return;
            }
            last => last.map(drop),
        };
        if result.is_ok() {
            self.metrics.checkpoints.add(nanoseconds_since(begun));
        }
        if let Err(error) = &result
            && self.metrics.failures.add_logged()
        {
            tracing::error!("cannot bring tuples from the log to the array: {error}");
        }
        self.lock().journal.end_checkpoint(checkpoint, &result);
        self.wake_askers();
    }
}
