//! The host: requests of a guest, and the thread of the log, as the backend runs them; step by step, in any order.

use std::ops::Range;

use stableblk_integrity::sidecar::{
    self, Admission, Candidates, Change, Checkpoint, File, Flush, Intent, Journal, Media, Opened, PAGE_SIZE,
    SECTOR_SIZE, TuplePage,
};

use crate::promise::{Promise, Version};
use crate::recorder::Recorder;
use crate::setup::{Mutant, Setup};
use crate::violation::Violation;

/// Steps after which what is not done will never be.
const PATIENCE: usize = 1000;
/// Steps in which requests that can be granted at all are half written.
const HALVES: usize = 4;

/// What a request does to its blocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Command {
    Write,
    Discard,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// For leave to write.
    Asking,
    Granted,
    HalfWritten,
    /// The data, or some of it, was not written.
    Settling,
}

#[derive(Debug)]
struct Request {
    blocks: Range<usize>,
    command: Command,
    data: Vec<u8>,
    tuples: Vec<u8>,
    intent: Intent,
    stage: Stage,
}

/// A guest's flush on its way.
#[derive(Debug)]
struct GuestFlush {
    flush: Flush,
    /// For each block, the newest version that was complete when it began.
    complete: Vec<u64>,
    is_synced: bool,
}

/// Where a request stands after a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    Waits,
    Moved,
    Done,
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
    media: &'m Recorder,
    journal: Journal,
    checkpoint: Option<Checkpoint>,
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
            media,
            journal: opened.journal,
            checkpoint: None,
            requests,
            flushes,
            promise,
            progress,
            writes,
            owes_failure,
        };
        host.media.promise(&host.promise);
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
        self.setup.lbas[blocks.end - 1] < self.journal.layout().intervals()
    }

    pub(crate) fn has_requests(&self) -> bool {
        !self.requests.is_empty()
    }

    pub(crate) fn has_flushes(&self) -> bool {
        !self.flushes.is_empty()
    }

    pub(crate) fn has_checkpoint(&self) -> bool {
        self.checkpoint.is_some()
    }

    pub(crate) fn has_grown_to(&self, size: u64) -> bool {
        self.journal.layout().image_size() >= size
    }

    pub(crate) fn is_busy(&self, blocks: &Range<usize>) -> bool {
        let overlaps =
            |request: &Request| request.blocks.start < blocks.end && blocks.start < request.blocks.end;
        self.requests.iter().any(overlaps)
    }

    /// A request arrives, whose blocks no other has. It only asks for leave.
    pub(crate) fn submit(&mut self, command: Command, blocks: Range<usize>) {
        assert!(!self.is_busy(&blocks), "the range lock keeps these apart");
        let lbas = &self.setup.lbas;
        let intervals = lbas[blocks.start]..lbas[blocks.end - 1] + 1;
        let len = blocks.len() * self.setup.interval as usize;
        assert_eq!(intervals.end - intervals.start, blocks.len() as u64, "a request's blocks are neighbours");
        self.writes += 1;
        let (mut data, mut tuples) = (vec![0; len], vec![0; blocks.len() * 16]);
        if command == Command::Write {
            stamp(&mut data, intervals.start, self.writes);
            sidecar::generate(&self.setup.profile(), intervals.start, &data, &mut tuples)
                .expect("a tuple for each block");
        }
        for block in &mut self.promise[blocks.clone()] {
            (block.in_flight, block.quiet) = (true, false);
        }
        self.publish();
        let intent = Intent::new(intervals);
        self.requests.push(Request { blocks, command, data, tuples, intent, stage: Stage::Asking });
        let last = self.requests.len() - 1;
        self.advance(last);
    }

    /// All requests that wait for leave ask again.
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

    /// Requests are granted and write half of their data, as far as they need not wait for the other half of others.
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

    /// Until the request for `blocks` is done; others only go on when it waits for them.
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
        let flush = self.journal.begin_flush();
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
                    _ => self.media.sync_data(),
                };
                if synced.is_err() {
                    continue;
                }
                self.journal.image_synced(&flush.flush);
                flush.is_synced = true;
            }
            match self.journal.is_flushed(&mut flush.flush) {
                Ok(true) if self.owes_failure => self.loss_is_told(),
                Ok(true) => self.flushed(&flush.complete),
                Ok(false) => self.flushes.push(flush),
                Err(_) => {}
            }
        }
    }

    /// A flush has failed because durability was lost in an earlier session.
    fn loss_is_told(&mut self) {
        self.owes_failure = false;
        self.journal.loss_was_told();
        self.promise.owed = false;
        self.publish();
    }

    /// The log's thread does one thing. In the midst of a commit requests ask again if `meddling`.
    pub(crate) fn work(&mut self, meddling: bool) -> bool {
        self.commit(meddling) || self.step_checkpoint()
    }

    pub(crate) fn commit(&mut self, meddling: bool) -> bool {
        let Some(commit) = self.journal.begin_commit() else {
            return false;
        };
        if meddling {
            self.ask();
        }
        let result = commit.run(self.media);
        self.journal.end_commit(commit, &result);
        true
    }

    pub(crate) fn want_checkpoint(&mut self) {
        self.journal.want_checkpoint();
    }

    pub(crate) fn step_checkpoint(&mut self) -> bool {
        let begun = self.checkpoint.take().or_else(|| self.journal.begin_checkpoint());
        let Some(mut checkpoint) = begun else {
            return false;
        };
        match checkpoint.step(self.media) {
            Ok(false) => self.checkpoint = Some(checkpoint),
            last => {
                self.journal.end_checkpoint(checkpoint, &last.map(drop));
                self.promise.owed |= self.media.durability_lost() && self.journal.durability_lost();
                self.publish();
            }
        }
        self.note_quiet();
        true
    }

    /// Brings everything that is complete into the array.
    pub(crate) fn checkpoint_all(&mut self) -> Result<(), Violation> {
        self.journal.want_checkpoint();
        self.drive(|host| !host.journal.has_work() && host.checkpoint.is_none())
    }

    pub(crate) fn tick(&mut self) {
        self.journal.tick();
    }

    /// Ends the session, in which all that was complete becomes durable. False when the medium fails.
    pub(crate) fn close(&mut self) -> Result<bool, Violation> {
        self.finish_requests()?;
        self.finish_flushes()?;
        self.drive(|host| host.checkpoint.is_none())?;
        let closed = sidecar::close(&mut self.journal, self.media);
        if closed.is_err() && (self.journal.durability_lost() || !self.media.owes()) {
            self.promise.owed |= self.media.owes();
            self.publish();
            return Ok(false);
        }
        if self.media.durability_lost() {
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

    /// What a guest that reads blocks now gets.
    pub(crate) fn read_all(&mut self) -> Result<(), Violation> {
        for block in 0..self.promise.len() {
            if self.has(&(block..block + 1)) && !self.promise[block].in_flight {
                self.read(block)?;
            }
        }
        Ok(())
    }

    fn read(&mut self, block: usize) -> Result<(), Violation> {
        let held = read_block(self.setup, self.media, self.setup.lbas[block]);
        let lba = self.setup.lbas[block];
        let tuple = self.tuples_of(&(lba..lba + 1));
        let profile = self.setup.profile();
        sidecar::verify(&profile, lba, &held, &tuple).map_err(|_| Violation::FalseError)?;
        let promise = &self.promise[block];
        let newest = &promise.versions[promise.versions.len() - 1];
        if Version::of(&held).sectors == newest.sectors { Ok(()) } else { Err(Violation::WrongData) }
    }

    fn tuples_of(&mut self, intervals: &Range<u64>) -> Vec<u8> {
        tuples_of(&mut self.journal, self.media, intervals)
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

    /// Takes the next step of a request.
    fn advance(&mut self, index: usize) {
        let mut request = self.requests.remove(index);
        if self.step(&mut request) != Step::Done {
            self.requests.insert(index, request);
        }
    }

    fn step(&mut self, request: &mut Request) -> Step {
        match request.stage {
            Stage::Asking => self.step_asking(request),
            Stage::Granted | Stage::HalfWritten => self.step_writing(request),
            Stage::Settling => self.step_settling(request),
        }
    }

    fn step_asking(&mut self, request: &mut Request) -> Step {
        match self.journal.intend(&mut request.intent, change_of(request.command, &request.tuples)) {
            Ok(Admission::Later) => Step::Waits,
            Ok(Admission::Granted) => {
                request.stage = Stage::Granted;
                self.may_hold(&request.blocks, &request.data);
                Step::Moved
            }
            Err(_) if request.intent.is_logged() => {
                request.stage = Stage::Settling;
                Step::Moved
            }
            Err(_) => {
                self.over(&request.blocks);
                Step::Done
            }
        }
    }

    fn step_writing(&mut self, request: &mut Request) -> Step {
        let interval = self.setup.interval as usize;
        let half = (interval / 2).next_multiple_of(SECTOR_SIZE).min(request.data.len());
        let part = if request.stage == Stage::Granted { 0..half } else { half..request.data.len() };
        let offset = request.intent.intervals().start * interval as u64 + part.start as u64;
        if self.media.write_data(offset, &request.data[part]).is_err() {
            request.stage = Stage::Settling;
            return Step::Moved;
        }
        if request.stage == Stage::Granted {
            request.stage = Stage::HalfWritten;
            return Step::Moved;
        }
        self.journal.complete(&request.intent, change_of(request.command, &request.tuples));
        self.over(&request.blocks);
        Step::Done
    }

    fn step_settling(&mut self, request: &mut Request) -> Step {
        let (profile, interval) = (self.setup.profile(), self.setup.interval as usize);
        let intervals = request.intent.intervals().clone();
        let mut held = vec![0; request.data.len()];
        let offset = intervals.start * interval as u64;
        self.media.read(File::Image, offset, &mut held).expect("reads do not fail");
        let old = self.tuples_of(&intervals);
        let (mut tuples, mut adopted) = (Vec::new(), Vec::new());
        let (new, old) = (request.tuples.chunks_exact(16), old.chunks_exact(16));
        for ((lba, data), (new, old)) in intervals.zip(held.chunks_exact(interval)).zip(new.zip(old)) {
            let mut candidates = Candidates::default();
            candidates.push(new);
            candidates.push(old);
            let verdict = candidates.judge(&profile, lba, data);
            tuples.extend_from_slice(verdict.tuple());
            adopted.push(sidecar::is_adopted(&profile, verdict.tuple()));
        }
        self.journal.settle(&request.intent, Change::Written(&tuples));
        self.may_hold(&request.blocks, &held);
        for (block, is_adopted) in self.promise[request.blocks.clone()].iter_mut().zip(adopted) {
            block.versions.last_mut().expect("one was just pushed").is_adopted = is_adopted;
        }
        self.over(&request.blocks);
        Step::Done
    }

    /// Blocks may hold `data` from now on.
    fn may_hold(&mut self, blocks: &Range<usize>, data: &[u8]) {
        let data = data.chunks_exact(self.setup.interval as usize);
        for (block, data) in self.promise[blocks.clone()].iter_mut().zip(data) {
            block.versions.push(Version::of(data));
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
        if self.journal.is_empty() && self.requests.is_empty() {
            for block in &mut *self.promise {
                block.quiet = true;
            }
            self.publish();
        }
    }

    fn publish(&self) {
        self.media.promise(&self.promise);
    }
}

/// Opens what is on the medium, as a session does.
pub(crate) fn open(setup: &Setup, media: &Recorder) -> Result<Opened, sidecar::LoadError> {
    sidecar::open(media, setup.mode, setup.cache_pages * PAGE_SIZE, setup.rules())
}

/// The tuples of `intervals`, as a read gets them.
pub(crate) fn tuples_of(journal: &mut Journal, media: &Recorder, intervals: &Range<u64>) -> Vec<u8> {
    let count = usize::try_from(intervals.end - intervals.start).expect("few");
    let mut tuples = vec![0; count * 16];
    while let Err(miss) = journal.tuples(intervals, &mut tuples) {
        let page = TuplePage::read(journal.layout(), media, miss.page).ok();
        journal.fill(&miss, page.as_ref());
    }
    tuples
}

pub(crate) fn read_block(setup: &Setup, media: &Recorder, lba: u64) -> Vec<u8> {
    let mut data = vec![0; setup.interval as usize];
    media.read(File::Image, lba * u64::from(setup.interval), &mut data).expect("reads do not fail");
    data
}

fn change_of(command: Command, tuples: &[u8]) -> Change<'_> {
    match command {
        Command::Write => Change::Written(tuples),
        Command::Discard => Change::Unwritten,
    }
}

/// Data that no other write has.
fn stamp(data: &mut [u8], lba: u64, write: u64) {
    for (sector, bytes) in (0_u64..).zip(data.as_chunks_mut::<SECTOR_SIZE>().0) {
        for (word, bytes) in (0_u64..).zip(bytes.as_chunks_mut::<8>().0) {
            *bytes = (write << 40 | lba << 20 | sector << 8 | word).to_be_bytes();
        }
    }
}
