//! The host: requests of a guest, and the thread of the log, as the backend runs them; step by
//! step, in any order.

mod request;
mod steps;

use std::ops::Range;

use stableblk_integrity::sidecar::{self, File, Flush, Journal, Media, Opened, PAGE_SIZE};

pub(crate) use self::request::Command;

use self::request::{Request, Stage};
use crate::promise::{Promise, Version};
use crate::recorder::Recorder;
use crate::served::{self, Served};
use crate::setup::{Mutant, Setup};
use crate::violation::Violation;

/// Steps after which what is not done will never be.
const PATIENCE: usize = 1000;
/// Steps in which requests that can be granted at all are half written.
const HALVES: usize = 4;

/// A guest's flush on its way.
#[derive(Debug)]
struct GuestFlush {
    flush: Flush,
    /// For each block, the newest version that was complete when it began.
    complete: Vec<u64>,
    is_synced: bool,
}

/// Versions of a block are counted from its first.
#[derive(Debug, Default, Clone, Copy)]
struct Progress {
    dropped: u64,
    complete: u64,
}

#[derive(Debug)]
pub(crate) struct Host<'m> {
    setup: &'m Setup,
    served: Served<'m, Recorder>,
    requests: Vec<Request>,
    flushes: Vec<GuestFlush>,
    promise: Promise,
    progress: Vec<Progress>,
    /// Writes that there ever were: each has data of its own.
    writes: u64,
    /// Durability was lost in an earlier session: the next flush fails for it.
    owes_failure: bool,
}

impl<'m> Host<'m> {
    /// Serves a sidecar that was just opened, whose blocks are known to hold what `promise` says.
    pub(crate) fn new(
        setup: &'m Setup,
        media: &'m Recorder,
        opened: Opened,
        promise: Promise,
        writes: u64,
    ) -> Self {
        let progress = vec![Progress::default(); promise.len()];
        let (requests, flushes) = (Vec::new(), Vec::new());
        let owes_failure = opened.durability_lost;
        let host = Self {
            setup,
            served: Served::new(media, opened.journal),
            requests,
            flushes,
            promise,
            progress,
            writes,
            owes_failure,
        };
        host.publish();
        host
    }

    pub(crate) fn writes(&self) -> u64 {
        self.writes
    }

    pub(crate) fn promised(&self) -> &Promise {
        &self.promise
    }

    /// Whether the image is large enough for `blocks`.
    pub(crate) fn has(&self, blocks: &Range<usize>) -> bool {
        self.setup.lbas[blocks.end - 1] < self.served.journal.layout().intervals()
    }

    pub(crate) fn has_requests(&self) -> bool {
        !self.requests.is_empty()
    }

    pub(crate) fn has_flushes(&self) -> bool {
        !self.flushes.is_empty()
    }

    pub(crate) fn has_checkpoint(&self) -> bool {
        self.served.is_checkpointing()
    }

    pub(crate) fn has_grown_to(&self, size: u64) -> bool {
        self.served.journal.layout().image_size() >= size
    }

    pub(crate) fn is_busy(&self, blocks: &Range<usize>) -> bool {
        let overlaps =
            |request: &Request| request.blocks.start < blocks.end && blocks.start < request.blocks.end;
        self.requests.iter().any(overlaps)
    }

    /// A request arrives, whose blocks no other has. It only asks for permission.
    pub(crate) fn submit(&mut self, command: Command, blocks: Range<usize>) {
        assert!(!self.is_busy(&blocks), "the range lock keeps these apart");
        self.writes += 1;
        for block in &mut self.promise[blocks.clone()] {
            (block.in_flight, block.quiet) = (true, false);
        }
        self.publish();
        self.requests.push(Request::new(self.setup, command, blocks, self.writes));
        let last = self.requests.len() - 1;
        self.advance(last);
    }

    /// All requests that wait for permission ask again.
    pub(crate) fn ask(&mut self) {
        for index in (0..self.requests.len()).rev() {
            if self.requests[index].stage == Stage::Asking {
                self.advance(index);
            }
        }
    }

    /// Each request takes a step.
    pub(crate) fn go_on(&mut self) {
        for index in (0..self.requests.len()).rev() {
            self.advance(index);
        }
    }

    /// Requests are granted and write half of their data, as far as they need not wait for the
    /// other half of others.
    pub(crate) fn write_halves(&mut self) {
        for _ in 0..HALVES {
            for index in (0..self.requests.len()).rev() {
                if matches!(self.requests[index].stage, Stage::Asking | Stage::Granted) {
                    self.advance(index);
                }
            }
            self.work(false);
        }
    }

    /// Until no request is left.
    pub(crate) fn finish_requests(&mut self) -> Result<(), Violation> {
        self.drive(|host| {
            host.go_on();
            host.requests.is_empty()
        })
    }

    /// Until the request for `blocks` is done; others only take steps when it waits for them.
    pub(crate) fn finish(&mut self, blocks: &Range<usize>) -> Result<(), Violation> {
        let mut rounds = 0;
        self.drive(|host| {
            rounds += 1;
            if rounds > PATIENCE / 2 {
                host.go_on();
            }
            for index in (0..host.requests.len()).rev() {
                if host.requests[index].blocks == *blocks {
                    host.advance(index);
                }
            }
            !host.is_busy(blocks)
        })
    }

    pub(crate) fn begin_flush(&mut self) {
        let complete = self.progress.iter().map(|progress| progress.complete).collect();
        let flush = self.served.journal.begin_flush();
        self.flushes.push(GuestFlush { flush, complete, is_synced: false });
    }

    /// Until no flush is left.
    pub(crate) fn finish_flushes(&mut self) -> Result<(), Violation> {
        self.drive(|host| {
            host.go_on_flushing();
            host.flushes.is_empty()
        })
    }

    fn go_on_flushing(&mut self) {
        for mut flush in std::mem::take(&mut self.flushes) {
            if !flush.is_synced {
                let synced = match self.setup.mutant {
                    Mutant::FlushWithoutData => Ok(()),
                    _ => self.served.media.sync_data(),
                };
                if synced.is_err() {
                    continue;
                }
                self.served.journal.image_synced(&flush.flush);
                flush.is_synced = true;
            }
            match self.served.journal.is_flushed(&mut flush.flush) {
                Ok(true) if self.owes_failure => self.loss_is_reported(),
                Ok(true) => self.flushed(&flush.complete),
                Ok(false) => self.flushes.push(flush),
                Err(_) => {}
            }
        }
    }

    /// A flush has failed because durability was lost in an earlier session.
    fn loss_is_reported(&mut self) {
        self.owes_failure = false;
        self.served.journal.loss_was_reported();
        self.promise.owed = false;
        self.publish();
    }

    /// The log's thread does one thing. In the midst of a commit requests ask again if `meddling`.
    pub(crate) fn work(&mut self, meddling: bool) -> bool {
        self.commit(meddling) || self.sync_data() || self.step_checkpoint()
    }

    fn sync_data(&mut self) -> bool {
        let Some(sync) = self.served.journal.begin_data_sync() else {
            return false;
        };
        let result = sync.run(self.served.media);
        self.served.journal.end_data_sync(&sync, &result);
        true
    }

    pub(crate) fn commit(&mut self, meddling: bool) -> bool {
        let Some(commit) = self.served.journal.begin_commit() else {
            return false;
        };
        if meddling {
            self.ask();
        }
        let result = commit.run(self.served.media);
        self.served.journal.end_commit(commit, &result);
        true
    }

    pub(crate) fn want_checkpoint(&mut self) {
        self.served.journal.want_checkpoint();
    }

    pub(crate) fn step_checkpoint(&mut self) -> bool {
        let Some(step) = self.served.step_checkpoint() else {
            return false;
        };
        if !matches!(step, Ok(false)) {
            let is_written_down = self.served.journal.durability_lost();
            self.promise.owed |= self.served.media.durability_lost() && is_written_down;
            self.publish();
        }
        self.note_quiet();
        true
    }

    /// Brings everything that is complete into the array.
    pub(crate) fn checkpoint_all(&mut self) -> Result<(), Violation> {
        self.served.journal.want_checkpoint();
        self.drive(|host| !host.served.journal.has_work() && !host.served.is_checkpointing())
    }

    pub(crate) fn tick(&mut self) {
        self.served.journal.tick();
    }

    /// Ends the session, in which all that was complete becomes durable. False when the medium
    /// fails.
    pub(crate) fn close(&mut self) -> Result<bool, Violation> {
        self.finish_requests()?;
        self.finish_flushes()?;
        self.drive(|host| !host.served.is_checkpointing())?;
        let closed = sidecar::close(&mut self.served.journal, self.served.media);
        if closed.is_err() && (self.served.journal.durability_lost() || !self.served.media.owes()) {
            self.promise.owed |= self.served.media.owes();
            self.publish();
            return Ok(false);
        }
        if self.served.media.durability_lost() {
            return Err(Violation::LossForgotten);
        }
        let complete: Vec<_> = self.progress.iter().map(|progress| progress.complete).collect();
        self.flushed(&complete);
        for block in &mut *self.promise {
            block.quiet = true;
        }
        self.publish();
        Ok(true)
    }

    /// Reads all blocks, as a guest does.
    pub(crate) fn read_all(&mut self) -> Result<(), Violation> {
        for block in 0..self.promise.len() {
            if self.has(&(block..block + 1)) && !self.promise[block].in_flight {
                self.read(block)?;
            }
        }
        Ok(())
    }

    fn read(&mut self, block: usize) -> Result<(), Violation> {
        let held = read_block(self.setup, self.served.media, self.setup.lbas[block]);
        let lba = self.setup.lbas[block];
        let tuple = self.tuples_of(&(lba..lba + 1));
        let profile = self.setup.profile();
        sidecar::verify(&profile, lba, &held, &tuple).map_err(|_| Violation::FalseError)?;
        let promise = &self.promise[block];
        let newest = &promise.versions[promise.versions.len() - 1];
        if Version::of(&held).sectors == newest.sectors { Ok(()) } else { Err(Violation::WrongData) }
    }

    fn tuples_of(&mut self, intervals: &Range<u64>) -> Vec<u8> {
        self.served.tuples(intervals).expect("reads do not fail")
    }

    /// Until `done`, with the log's thread at work.
    fn drive(&mut self, mut done: impl FnMut(&mut Self) -> bool) -> Result<(), Violation> {
        for _ in 0..PATIENCE {
            if done(self) {
                return Ok(());
            }
            self.work(false);
        }
        Err(Violation::Stuck)
    }

    /// Blocks may hold `data` from now on, in which each has its place. A discard may have other
    /// blocks between them.
    fn may_hold(&mut self, blocks: &Range<usize>, data: &[u8]) {
        let interval = self.setup.interval as usize;
        let lbas = &self.setup.lbas[blocks.clone()];
        for (block, &lba) in self.promise[blocks.clone()].iter_mut().zip(lbas) {
            let at = usize::try_from(lba - lbas[0]).expect("few intervals") * interval;
            block.versions.push(Version::of(&data[at..at + interval]));
        }
        self.publish();
    }

    /// A request is over: what its blocks may hold, they do hold.
    fn over(&mut self, blocks: &Range<usize>) {
        for index in blocks.clone() {
            self.promise[index].in_flight = false;
            let progress = &mut self.progress[index];
            progress.complete = progress.dropped + self.promise[index].versions.len() as u64 - 1;
        }
        self.publish();
    }

    /// For each block, nothing older than the version that was complete can be there.
    fn flushed(&mut self, complete: &[u64]) {
        for ((block, progress), &complete) in self.promise.iter_mut().zip(&mut self.progress).zip(complete) {
            let Ok(older) = usize::try_from(complete.saturating_sub(progress.dropped)) else {
                continue;
            };
            block.versions.drain(..older);
            progress.dropped += older as u64;
        }
        self.publish();
    }

    fn note_quiet(&mut self) {
        if self.served.journal.is_empty() && self.requests.is_empty() {
            for block in &mut *self.promise {
                block.quiet = true;
            }
            self.publish();
        }
    }

    fn publish(&self) {
        self.served.media.promise(&self.promise);
    }
}

/// Opens what is on the medium, as a session does.
pub(crate) fn open(setup: &Setup, media: &Recorder) -> Result<Opened, sidecar::LoadError> {
    let cache_bytes = setup.cache_pages * PAGE_SIZE;
    sidecar::open_and_verify(media, setup.mode, cache_bytes, setup.verify, setup.rules())
}

/// Verifies all regions that a crash has left in doubt, and adds the findings to those of recovery.
pub(crate) fn verify(media: &Recorder, opened: &mut Opened) {
    while let Some(check) = opened.journal.begin_verification() {
        let checked = check.run(media);
        let found = opened.journal.end_verification(&check, checked).expect("there is room");
        if let Some(recovered) = &mut opened.recovered {
            recovered.adoptions.extend(found.recovery.adoptions);
        }
    }
}

/// The tuples of `intervals`, as a read gets them.
pub(crate) fn tuples_of(journal: &mut Journal, media: &Recorder, intervals: &Range<u64>) -> Vec<u8> {
    served::tuples_of(journal, media, intervals).expect("reads do not fail")
}

pub(crate) fn read_block(setup: &Setup, media: &Recorder, lba: u64) -> Vec<u8> {
    let mut data = vec![0; setup.interval as usize];
    media.read(File::Image, lba * u64::from(setup.interval), &mut data).expect("reads do not fail");
    data
}
