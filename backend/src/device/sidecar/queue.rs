//! A worker's access to image and sidecar: asks the tag intent log, and lets the ring do the I/O.

use std::collections::VecDeque;
use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use integrity::sidecar::{Flush, Intent, Journal, KeptPages, Layout, Permission};

use super::device::SidecarDevice;
use super::doubt::{Doubt, FailedChanges};
use super::grants::Grants;
use super::reading::Reading;
use super::tag_log::Asker;
use crate::device::bounce::Arena;
use crate::device::operation::{DeviceOperation, TransferDirection};
use crate::device::plain::first_step;
use crate::device::uring::{self, Ring, RingEvent, Step};
use crate::device::{DeviceQueue, Event, EventSources};

/// The log's record of an operation.
#[derive(Debug)]
enum LogRecord {
    /// None, since a read changes nothing. It has its tuples, or needs pages of them.
    Read(Option<KeptPages>),
    Change(Intent),
    Flush(Flush),
}

/// A question to the log, on behalf of an operation.
#[derive(Debug)]
enum Asking {
    /// Whether blocks may be changed.
    Intend(DeviceOperation, Intent),
    /// Whether a flush may begin, which is always granted.
    BeginFlush(DeviceOperation),
    /// Whether a flush is done, after the image was synced.
    IsFlushed(DeviceOperation, Flush),
}

/// A worker's access to image and sidecar.
#[derive(Debug)]
pub struct SidecarQueue {
    device: Arc<SidecarDevice>,
    ring: Ring<(Step, LogRecord)>,
    asker: Arc<Asker>,
    layout: Layout,
    asking: Vec<Asking>,
    reading: Reading,
    failed: FailedChanges,
    /// Changes that the log has allowed in this batch.
    granted: Vec<(DeviceOperation, Intent)>,
    grants: Grants,
    /// Whether to ask: there is a new question, or the log's thread has made progress.
    ask_again: bool,
    /// Operations that came back from the ring in this batch.
    done: Vec<(DeviceOperation, LogRecord, io::Result<()>)>,
    events: VecDeque<Event>,
}

impl SidecarQueue {
    pub(super) fn open(
        device: Arc<SidecarDevice>,
        arena: &Arena,
        sources: EventSources<'_>,
    ) -> io::Result<Self> {
        let layout = device.log.lock().journal.layout().clone();
        Ok(Self {
            ring: Ring::over_with_pages(&device.image, device.log.media().sidecar().as_fd(), arena, sources)?,
            asker: device.log.asker(sources.wake.clone()),
            layout,
            device,
            asking: Vec::new(),
            reading: Reading::default(),
            failed: FailedChanges::default(),
            granted: Vec::new(),
            grants: Grants::default(),
            ask_again: false,
            done: Vec::new(),
            events: VecDeque::new(),
        })
    }

    /// Asks the log all questions at once, and submits what it grants to the ring.
    fn ask(&mut self) {
        if !std::mem::take(&mut self.ask_again) {
            return;
        }
        let device = self.device.clone();
        let mut log = device.log.lock();
        let mut in_doubt = Vec::new();
        for asking in std::mem::take(&mut self.asking) {
            if let Some(failed) = self.ask_for(asking, &mut log.journal) {
                in_doubt.push(failed);
            }
        }
        let mut new = std::mem::take(&mut self.reading.new);
        for (mut operation, mut waits) in new.drain(..) {
            let (intervals, _) = self.device.tuples_of(&mut operation);
            match log.journal.is_verified(&intervals, &mut waits) {
                Ok(true) => match self.look_up(&mut operation, &mut log.journal) {
                    Ok(kept) => {
                        let metrics = device.log.metrics();
                        let counter =
                            if kept.is_none() { &metrics.cache_hits } else { &metrics.cache_misses };
                        counter.add(1);
                        self.reading.looked_up.push((operation, kept));
                    }
                    Err(error) => self.finish(operation, Err(error)),
                },
                Ok(false) => self.reading.unverified.push((operation, waits)),
                Err(error) => self.finish(operation, Err(error)),
            }
        }
        std::mem::swap(&mut self.reading.unverified, &mut new);
        self.reading.new = new;
        if self.awaits_log() {
            self.asker.ask();
        }
        device.log.unlock(log);
        self.begin_fetches();
        // not under the log's lock: a file in memory is read and written by these calls
        for (operation, kept) in self.reading.looked_up.drain(..) {
            self.ring.submit(operation, (Step::Transfer, LogRecord::Read(kept)));
        }
        self.grants.note(&self.granted);
        for (operation, intent) in self.granted.drain(..) {
            let step = first_step(&operation);
            self.ring.submit(operation, (step, LogRecord::Change(intent)));
        }
        self.look_into(in_doubt);
    }

    /// Whether there are questions that only progress of the log's thread can change.
    fn awaits_log(&self) -> bool {
        !self.asking.is_empty() || !self.reading.new.is_empty()
    }

    /// Asks one question. Returns a change that may have been made in part, and now fails.
    fn ask_for(
        &mut self,
        asking: Asking,
        journal: &mut Journal,
    ) -> Option<(DeviceOperation, Intent, io::Error)> {
        match asking {
            Asking::Intend(operation, mut intent) => {
                match journal.intend(&mut intent, self.device.change(&operation)) {
                    Ok(Permission::Granted) => self.granted.push((operation, intent)),
                    Ok(Permission::Later) => self.asking.push(Asking::Intend(operation, intent)),
                    Err(error) if intent.is_logged() => return Some((operation, intent, error)),
                    Err(error) => self.finish(operation, Err(error)),
                }
            }
            Asking::BeginFlush(operation) => {
                let logged = LogRecord::Flush(journal.begin_flush());
                self.ring.submit(operation, (Step::Sync, logged));
            }
            Asking::IsFlushed(operation, mut flush) => match journal.is_flushed(&mut flush) {
                Ok(false) => self.asking.push(Asking::IsFlushed(operation, flush)),
                flushed => self.finish(operation, flushed.map(drop)),
            },
        }
        None
    }

    /// Gets the tuples of a read, or the pages that must be read for them.
    fn look_up(
        &mut self,
        operation: &mut DeviceOperation,
        journal: &mut Journal,
    ) -> io::Result<Option<KeptPages>> {
        journal.refuse_if_given_up()?;
        let (intervals, tuples) = self.device.tuples_of(operation);
        let kept = journal.tuples_or_pages(&intervals, tuples).err();
        self.reading.fetches.add(kept.as_ref().map_or(&[], KeptPages::missing));
        Ok(kept)
    }

    fn begin_fetches(&mut self) {
        for page in self.reading.fetches.take_new() {
            self.ring.read_page(page, self.layout.page_offset(page));
        }
    }

    fn finish(&mut self, operation: DeviceOperation, result: io::Result<()>) {
        self.events.push_back(Event::Done(operation, result));
    }

    /// Takes all events of the ring.
    fn collect(&mut self) {
        while let Some(event) = self.ring.reap() {
            match event {
                RingEvent::Kick => self.events.push_back(Event::Kick),
                RingEvent::Wake => {
                    self.ask_again |= self.awaits_log();
                    self.reading.look_again |= self.reading.fetches.awaits_log_thread();
                    self.finish_failed();
                    self.events.push_back(Event::Wake);
                }
                RingEvent::Done(operation, (_, LogRecord::Read(kept)), result) => {
                    self.read_is_done(operation, kept, result);
                }
                RingEvent::Done(operation, (_, logged), result) => {
                    self.done.push((operation, logged, result));
                }
            }
        }
        self.account();
        while let Some(page) = self.ring.take_page() {
            self.reading.arrived.push(page);
            self.reading.look_again = true;
        }
        self.complete_reads();
    }

    /// The data of a read has arrived, or could not be read.
    fn read_is_done(&mut self, operation: DeviceOperation, kept: Option<KeptPages>, result: io::Result<()>) {
        match kept {
            None => return self.finish(operation, result),
            Some(kept) if result.is_ok() => self.reading.fetches.wait(operation, kept),
            Some(kept) => {
                self.finish(operation, result);
                self.reading.unneeded.push(kept);
            }
        }
        self.reading.look_again = true;
    }

    /// Takes pages of tuples that have arrived, and completes the reads that have all of theirs.
    fn complete_reads(&mut self) {
        if !std::mem::take(&mut self.reading.look_again) {
            return;
        }
        let device = self.device.clone();
        let mut log = device.log.lock();
        for (page, result) in std::mem::take(&mut self.reading.arrived) {
            let careful = self.reading.fetches.arrive(&page, &result, &self.layout, &mut log.journal);
            log.careful.extend(careful);
        }
        for ((operation, kept), error) in self.reading.fetches.take_careful() {
            self.finish(operation, Err(error));
            log.journal.release(kept);
        }
        for (mut operation, kept) in self.reading.fetches.take_ready() {
            match self.look_up(&mut operation, &mut log.journal) {
                Ok(None) => self.finish(operation, Ok(())),
                // the log's thread could not read a page for another read
                Ok(Some(missing)) => self.reading.fetches.wait(operation, missing),
                Err(error) => self.finish(operation, Err(error)),
            }
            log.journal.release(kept);
        }
        for kept in self.reading.unneeded.drain(..) {
            log.journal.release(kept);
        }
        if self.reading.fetches.awaits_log_thread() {
            self.asker.ask();
        }
        device.log.unlock(log);
        self.begin_fetches();
    }

    /// Gives the log the results of all operations that came back.
    fn account(&mut self) {
        if self.done.is_empty() {
            return;
        }
        let device = &*self.device;
        let mut in_doubt = Vec::new();
        let mut log = device.log.lock();
        for (operation, logged, result) in self.done.drain(..) {
            match (logged, result) {
                (LogRecord::Change(intent), Ok(())) => {
                    log.journal.complete(&intent, device.change(&operation));
                    // others may have waited for the room in the log that it kept free
                    let frees_much = matches!(operation, DeviceOperation::Zero { .. });
                    self.ask_again |= frees_much && !self.asking.is_empty();
                    self.events.push_back(Event::Done(operation, Ok(())));
                }
                (LogRecord::Change(intent), Err(error)) => in_doubt.push((operation, intent, error)),
                (LogRecord::Flush(flush), Ok(())) => {
                    log.journal.image_synced(&flush);
                    self.asking.push(Asking::IsFlushed(operation, flush));
                    self.ask_again = true;
                }
                (LogRecord::Flush(_), Err(error)) => {
                    // it may not have been the sync that failed, but what was lost before
                    if self.device.info.durability.is_lost() {
                        log.journal.durability_was_lost();
                    }
                    self.events.push_back(Event::Done(operation, Err(error)));
                }
                (LogRecord::Read(kept), result) => {
                    self.reading.unneeded.extend(kept);
                    self.events.push_back(Event::Done(operation, result));
                }
            }
        }
        device.log.unlock(log);
        self.look_into(in_doubt);
    }

    /// Lets the log's thread find out what failed changes have left.
    fn look_into(&mut self, in_doubt: Vec<(DeviceOperation, Intent, io::Error)>) {
        if in_doubt.is_empty() {
            return;
        }
        let device = &*self.device;
        let mut log = device.log.lock();
        for (operation, intent, error) in in_doubt {
            let doubt = Doubt::new(intent, device.change(&operation));
            self.failed.wait_for(&doubt, operation, error);
            log.in_doubt.push(doubt);
        }
        self.asker.ask();
        device.log.unlock(log);
    }

    /// Finishes the failed changes whose blocks the log knows again.
    fn finish_failed(&mut self) {
        if self.failed.is_empty() {
            return;
        }
        let device = self.device.clone();
        let log = device.log.lock();
        for (operation, error) in self.failed.take_settled() {
            self.finish(operation, Err(error));
        }
        if !self.failed.is_empty() {
            self.asker.ask();
        }
        device.log.unlock(log);
    }
}

#[cfg(test)]
impl SidecarQueue {
    /// The number of pages of tuples that are being read.
    pub(super) fn pages_in_flight(&self) -> usize {
        self.ring.pages_in_flight()
    }

    /// A change that was granted comes back with an error.
    pub(super) fn fail_change(&mut self, operation: DeviceOperation, intent: Intent, error: io::Error) {
        self.done.push((operation, LogRecord::Change(intent), Err(error)));
        self.account();
    }
}

impl Drop for SidecarQueue {
    /// A queue that was stopped has nothing left. When a worker has died, the log must still learn
    /// the outcome of each change that it has a record of. Else blocks would be read with the
    /// tuples of another write, and the page of the log would never be freed.
    fn drop(&mut self) {
        let mut back = Vec::new();
        let is_drained = self.ring.drain(uring::DRAIN_LIMIT, |event| {
            if let RingEvent::Done(operation, (_, logged), result) = event {
                back.push((operation, logged, result));
            }
        });
        if !is_drained {
            return self.device.log.give_up();
        }
        self.done.append(&mut back);
        self.account();
        let waiting = self.reading.fetches.abandon().into_iter().map(|(_, kept)| kept);
        for kept in waiting.chain(self.reading.unneeded.drain(..)) {
            self.device.log.lock().journal.release(kept);
        }
        let asked = std::mem::take(&mut self.asking).into_iter().filter_map(|asking| match asking {
            Asking::Intend(operation, intent) if intent.is_logged() => Some((operation, intent)),
            _ => None,
        });
        // their data was not written
        let unwritten = asked.chain(self.granted.drain(..));
        for (operation, intent) in unwritten {
            self.device.log.settle(Doubt::new(intent, self.device.change(&operation)));
        }
    }
}

impl DeviceQueue for SidecarQueue {
    fn submit(&mut self, operation: DeviceOperation) {
        let intervals = match &operation {
            DeviceOperation::Transfer(transfer) if transfer.direction() == TransferDirection::Read => {
                self.ask_again = true;
                return self.reading.new.push((operation, None));
            }
            DeviceOperation::Transfer(transfer) => {
                self.device.intervals(transfer.offset(), transfer.len() as u64)
            }
            DeviceOperation::Zero { offset, len, .. } => self.device.intervals(*offset, *len),
            DeviceOperation::Flush { .. } => {
                self.ask_again = true;
                return self.asking.push(Asking::BeginFlush(operation));
            }
        };
        self.ask_again = true;
        self.asking.push(Asking::Intend(operation, Intent::new(intervals)));
    }

    fn enter(&mut self, wait: bool) -> io::Result<()> {
        // before the log is locked below: this may lock it
        self.ring.settle_reported_loss();
        self.ask();
        self.ring.enter(wait && self.events.is_empty() && !self.ask_again)
    }

    fn enter_for(&mut self, limit: Duration) -> io::Result<()> {
        self.ring.settle_reported_loss();
        self.ask();
        if self.events.is_empty() && !self.ask_again {
            return self.ring.enter_for(limit);
        }
        self.ring.enter(false)
    }

    fn note_grants(&mut self, on: bool) {
        self.grants.switch(on);
    }

    fn take_grants(&mut self) -> Vec<(usize, Instant)> {
        self.grants.take()
    }

    fn has_work(&mut self) -> bool {
        self.ask_again || !self.events.is_empty() || self.ring.has_work()
    }

    fn reap(&mut self) -> Option<Event> {
        if self.events.is_empty() {
            self.collect();
        }
        self.events.pop_front()
    }
}
