//! A worker's io_uring: it submits in batches, reaps in batches, and is the only place where the
//! worker sleeps.
//!
//! The kick and the wake eventfd are polled through the ring (multishot), so `io_uring_enter` waits
//! for the driver, the session and the device at once. The eventfds are never read: a multishot
//! poll reports each new signal, and a worker looks at its ring and its messages after each report,
//! so the counter's value adds nothing.

#![expect(unsafe_code, reason = "submission queue entries carry raw pointers")]

mod flushes;
mod page_reads;
mod setup;
mod step;

use std::collections::VecDeque;
use std::mem::ManuallyDrop;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::sync::{Arc, Once};
use std::time::{Duration, Instant};
use std::{fmt, io, thread};

use io_uring::squeue::EntryMarker;
use io_uring::{IoUring, cqueue, opcode, types};
use slab::Slab;

use self::flushes::Flushes;
pub(super) use self::page_reads::PageRead;
use self::page_reads::{PAGE, PageReads};
use self::setup::build;
pub use self::setup::probe;
pub(super) use self::step::{RingStep, Step, transfer_entry, whole};
use super::EventSources;
use super::memory_file::MemoryFile;
use crate::device::bounce::Arena;
use crate::device::operation::DeviceOperation;
use crate::storage::durability::Durability;
use crate::storage::image::Image;

/// How often a full submission queue is submitted before the kernel is taken to be stuck.
const PUSH_TRIES: u32 = 10_000;

/// How long a ring that is dropped waits for the next operation of those in flight to come back.
pub(super) const DRAIN_LIMIT: Duration = Duration::from_secs(10);
/// How often it looks meanwhile, where the kernel does not let it sleep.
const DRAIN_INTERVAL: Duration = Duration::from_millis(100);

/// `user_data` of the poll of the kick eventfd. Operations have their slot there, which is smaller.
const KICK: u64 = u64::MAX;
/// `user_data` of the poll of the wake eventfd.
const WAKE: u64 = u64::MAX - 1;

/// All workers together log once that bounce memory is not registered.
static UNREGISTERED_LOGGED: Once = Once::new();

/// An event that a ring reports.
#[derive(Debug)]
pub(super) enum RingEvent<S> {
    /// The driver made buffers available.
    Kick,
    /// There is a message for the worker.
    Wake,
    /// A step of an operation has succeeded, with its whole length, or failed.
    Done(DeviceOperation, S, io::Result<()>),
}

/// The io_uring of one worker and, by `user_data`, the operations in flight on it.
pub(super) struct Ring<S: RingStep> {
    uring: IoUring<S::Submission, S::Completion>,
    in_flight: ManuallyDrop<Slab<(DeviceOperation, S)>>,
    pages: ManuallyDrop<PageReads>,
    fixed_buffer: bool,
    /// File 0, where it is better read and written without the ring.
    memory_file: Option<MemoryFile>,
    /// Operations done without the ring: their slots and results, as a completion has them.
    done: VecDeque<(usize, i32)>,
    /// Whether the next event is one of those, if there are others too.
    is_turn_of_done: bool,
    flushes: Flushes,
    /// Whether a flush that succeeds has made everything durable.
    durability: Durability,
    // shared, so that they are open for as long as the ring polls them
    kick: Arc<OwnedFd>,
    wake: Arc<OwnedFd>,
    /// The errno with which a submission could not be handed over.
    broken: Option<i32>,
    /// The operations in flight have not come back within the limit, and are left to the kernel.
    given_up: bool,
}

impl<S: RingStep> fmt::Debug for Ring<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ring").field("in_flight", &self.in_flight.len()).finish_non_exhaustive()
    }
}

impl<S: RingStep> Ring<S> {
    /// A ring over `files`. File 0 is read and written, and `durability` is that of its data. To be
    /// called on the thread that uses the ring.
    pub(super) fn new(
        arena: &Arena,
        files: &[BorrowedFd<'_>],
        durability: &Durability,
        sources: EventSources<'_>,
    ) -> io::Result<Self> {
        let uring = build::<S::Submission, S::Completion>()?;
        let raw: Vec<RawFd> = files.iter().map(AsRawFd::as_raw_fd).collect();
        uring.submitter().register_files(&raw)?;
        // SAFETY: the iovec is all of the arena's data mapping. Registration pins its pages, so the
        // kernel never accesses freed memory, even if the arena is unmapped before the ring is
        // dropped. Folios in flight hold the arena, so the addresses that their entries name stay
        // mapped.
        let fixed_buffer = match unsafe { uring.submitter().register_buffers(&[arena.as_iovec()]) } {
            Ok(()) => true,
            Err(error) if error.raw_os_error() == Some(libc::ENOMEM) => {
                UNREGISTERED_LOGGED.call_once(|| {
                    tracing::info!(
                        "RLIMIT_MEMLOCK is too small to register bounce memory with io_uring, 8 MiB a queue, \
                         512 MiB for 64: raise it for speed"
                    );
                });
                false
            }
            Err(error) => return Err(error),
        };
        let in_flight = ManuallyDrop::new(Slab::new());
        let pages = ManuallyDrop::new(PageReads::default());
        let (kick, wake) = (sources.kick.clone(), sources.wake.clone());
        let memory_file = files.first().map_or(Ok(None), |file| MemoryFile::of(*file))?;
        let mut ring = Self {
            uring,
            in_flight,
            pages,
            fixed_buffer,
            memory_file,
            done: VecDeque::new(),
            is_turn_of_done: false,
            flushes: Flushes::default(),
            durability: durability.clone(),
            kick,
            wake,
            broken: None,
            given_up: false,
        };
        ring.poll(KICK);
        ring.poll(WAKE);
        Ok(ring)
    }

    /// A ring that reads, writes and syncs `image`; see [`Self::new`].
    pub(super) fn over(image: &Image, arena: &Arena, sources: EventSources<'_>) -> io::Result<Self> {
        let for_sync = image.open_for_sync()?;
        Self::new(arena, &[image.file().as_fd(), for_sync.as_fd()], image.durability(), sources)
    }

    /// A ring over `image` that reads pages of the file `pages` too; see [`Self::over`].
    pub(super) fn over_with_pages(
        image: &Image,
        pages: BorrowedFd<'_>,
        arena: &Arena,
        sources: EventSources<'_>,
    ) -> io::Result<Self> {
        let for_sync = image.open_for_sync()?;
        let files = [image.file().as_fd(), for_sync.as_fd(), pages];
        Self::new(arena, &files, image.durability(), sources)
    }

    /// Begins to read the page at byte `offset` of file 2, which comes back with `number`. The next
    /// [`Self::enter`] submits the read to the kernel.
    pub(super) fn read_page(&mut self, number: u64, offset: u64) {
        let slot = self.pages.add(number, offset);
        self.push_page(slot);
    }

    /// A page that was read, or could not be, since the last [`Self::reap`].
    pub(super) fn take_page(&mut self) -> Option<(PageRead, io::Result<()>)> {
        self.pages.take()
    }

    /// The number of pages that are being read.
    #[cfg(test)]
    pub(super) fn pages_in_flight(&self) -> usize {
        self.pages.count_in_flight()
    }

    /// Takes `operation` in, for its next step. The next [`Self::enter`] submits it to the kernel.
    pub(super) fn submit(&mut self, mut operation: DeviceOperation, step: S) {
        let done = match (&mut operation, &self.memory_file) {
            (DeviceOperation::Transfer(transfer), Some(file)) if step.is_transfer() => {
                Some(file.transfer(transfer))
            }
            _ => None,
        };
        let is_flush = matches!(operation, DeviceOperation::Flush { .. });
        if is_flush {
            self.settle_reported_loss();
        }
        let slot = self.in_flight.insert((operation, step));
        match done {
            Some(result) => self.done.push_back((slot, result)),
            None if is_flush && !self.flushes.begin(slot) => {}
            None => self.push_slot(slot),
        }
    }

    /// Submits new entries to the kernel and, when `wait`, sleeps until there is an event. After an
    /// error every later call fails too.
    pub(super) fn enter(&mut self, wait: bool) -> io::Result<()> {
        self.enter_until(wait, None)
    }

    /// As [`Self::enter`], and sleeps until there is an event, but no longer than `limit`.
    pub(super) fn enter_for(&mut self, limit: Duration) -> io::Result<()> {
        self.enter_until(true, Some(limit))
    }

    fn enter_until(&mut self, wait: bool, limit: Option<Duration>) -> io::Result<()> {
        if let Some(errno) = self.broken {
            return Err(io::Error::from_raw_os_error(errno));
        }
        self.settle_reported_loss();
        let wait = wait && self.done.is_empty() && !self.pages.has_done();
        if !wait && !self.needs_enter() {
            return Ok(());
        }
        let entered = match limit.filter(|_| wait) {
            None => self.uring.submit_and_wait(usize::from(wait)),
            Some(limit) => {
                let limit = types::Timespec::from(limit);
                self.uring.submitter().submit_with_args(1, &types::SubmitArgs::new().timespec(&limit))
            }
        };
        match entered {
            // interrupted, or completions must be reaped first, which the caller does next in any
            // case; or the limit is over
            Err(error)
                if matches!(
                    error.raw_os_error(),
                    Some(libc::EINTR | libc::EBUSY | libc::EAGAIN | libc::ETIME)
                ) =>
            {
                Ok(())
            }
            other => other.map(drop),
        }
    }

    /// Whether [`Self::enter`] without waiting has anything to do, so that polling costs no system
    /// call.
    pub(super) fn has_work(&mut self) -> bool {
        let has_results = !self.done.is_empty() || self.pages.has_done();
        self.needs_enter() || has_results || !self.uring.completion().is_empty()
    }

    /// Whether the kernel has anything to take or to do, for a call that does not sleep.
    fn needs_enter(&mut self) -> bool {
        let reapable = !self.uring.completion().is_empty();
        let submissions = self.uring.submission();
        // present completions come first: the kernel's next ones can as well be run after them
        !submissions.is_empty() || !reapable && (submissions.taskrun() || submissions.cq_overflow())
    }

    /// The next event.
    pub(super) fn reap(&mut self) -> Option<RingEvent<S>> {
        loop {
            // by turns: a steady stream of one kind must not keep the worker from the other
            self.is_turn_of_done = !self.is_turn_of_done;
            if (self.is_turn_of_done || self.uring.completion().is_empty())
                && let Some((slot, result)) = self.done.pop_front()
            {
                match self.finish(slot, result) {
                    Some(event) => return Some(event),
                    None => continue,
                }
            }
            let entry: cqueue::Entry = self.uring.completion().next()?.into();
            match entry.user_data() {
                poll @ (KICK | WAKE) => {
                    if !cqueue::more(entry.flags()) {
                        self.poll(poll);
                    }
                    return Some(if poll == KICK { RingEvent::Kick } else { RingEvent::Wake });
                }
                page if page & PAGE != 0 => {
                    let slot = usize::try_from(page & !PAGE).expect("a slot, as it was submitted");
                    if !self.pages.finish(slot, entry.result()) {
                        self.push_page(slot);
                    }
                }
                user_data => {
                    let slot = usize::try_from(user_data).expect("a slot, as it was submitted");
                    if let Some(event) = self.finish(slot, entry.result()) {
                        return Some(event);
                    }
                }
            }
        }
    }

    /// The event for the result of an operation; `None` if the operation is done again.
    fn finish(&mut self, slot: usize, result: i32) -> Option<RingEvent<S>> {
        let (operation, step) = &self.in_flight[slot];
        if matches!(-result, libc::EAGAIN | libc::EINTR) && step.is_repeatable(operation) {
            self.push_slot(slot);
            return None;
        }
        if self.flushes.is_under_way(slot) {
            self.done.extend(self.flushes.take_together().map(|flush| (flush, result)));
            if let Some(next) = self.flushes.begin_next() {
                self.push_slot(next);
            }
        }
        let (operation, step) = self.in_flight.remove(slot);
        let outcome = step.outcome(&operation, result);
        let outcome = match operation {
            DeviceOperation::Flush { .. } => {
                let outcome = self.durability.flush_outcome(outcome);
                self.flushes.note(outcome.is_err());
                outcome
            }
            _ => outcome,
        };
        Some(RingEvent::Done(operation, step, outcome))
    }

    /// All that was reaped has been passed on. A failed flush among it has reported what was lost
    /// before, so later flushes do not fail for that.
    pub(super) fn settle_reported_loss(&mut self) {
        if self.flushes.take_failed() {
            self.durability.loss_was_reported();
        }
    }

    fn push_slot(&mut self, slot: usize) {
        let (operation, step) = &self.in_flight[slot];
        let entry = step.entry(operation, self.fixed_buffer);
        if let Err(errno) = self.push(entry, slot as u64) {
            // the kernel has not taken it
            self.done.push_back((slot, -errno));
        }
    }

    fn push_page(&mut self, slot: usize) {
        let entry = self.pages.entry(slot);
        if let Err(errno) = self.push(entry.into(), PAGE | slot as u64) {
            // the kernel has not taken it, and takes it never: the errno is not EAGAIN
            self.pages.finish(slot, -errno);
        }
    }

    fn poll(&mut self, user_data: u64) {
        let fd = if user_data == KICK { &self.kick } else { &self.wake };
        let events = u32::from(libc::POLLIN.unsigned_abs());
        // if it fails, the next enter fails
        let _ = self.push(
            opcode::PollAdd::new(types::Fd(fd.as_raw_fd()), events).multi(true).build().into(),
            user_data,
        );
    }

    /// Fails with an errno when the kernel takes no more submissions. It takes none later either.
    fn push(&mut self, mut entry: S::Submission, user_data: u64) -> Result<(), i32> {
        entry.set_user_data(user_data);
        for _ in 0..PUSH_TRIES {
            // SAFETY: by the contract of `RingStep`, every address and length of the entry is of
            // memory that the operation or the step in `in_flight` owns, or of the box of a page in
            // `pages`. All stay there until the completion is reaped; `drop` leaks them where none
            // comes. A poll has no memory.
            if unsafe { self.uring.submission().push(&entry) }.is_ok() {
                return Ok(());
            }
            // the queue is full: submit the batch
            if let Err(error) = self.enter(false) {
                self.broken = Some(error.raw_os_error().unwrap_or(libc::EIO));
                break;
            }
        }
        // never EAGAIN, after which an operation is done again
        Err(*self.broken.get_or_insert(libc::EBUSY))
    }

    /// Waits for the operations in flight and gives each to `each`, when the worker no longer does
    /// so. False when none has come back for `limit`: then the rest is left to the kernel.
    pub(super) fn drain(&mut self, limit: Duration, mut each: impl FnMut(RingEvent<S>)) -> bool {
        let mut deadline = Instant::now() + limit;
        while !self.given_up && self.count_in_flight() > 0 {
            let before = self.count_in_flight();
            while let Some(event) = self.reap() {
                each(event);
            }
            let now = Instant::now();
            if self.count_in_flight() < before {
                deadline = now + limit;
            } else if now >= deadline {
                let left = self.count_in_flight();
                tracing::error!(
                    "{left} operations have not come back from the kernel within {} s: their memory is given up",
                    limit.as_secs()
                );
                self.given_up = true;
            } else {
                self.wait_at_most(DRAIN_INTERVAL.min(deadline - now));
            }
        }
        !self.given_up
    }

    fn count_in_flight(&self) -> usize {
        self.in_flight.len() + self.pages.count_in_flight()
    }

    /// Sleeps until there is an event, but not longer than `limit`, whatever the kernel says.
    fn wait_at_most(&mut self, limit: Duration) {
        let timeout = types::Timespec::from(limit);
        let arguments = types::SubmitArgs::new().timespec(&timeout);
        match self.uring.submitter().submit_with_args(1, &arguments) {
            Ok(_) => {}
            Err(error) if error.raw_os_error() == Some(libc::ETIME) => {}
            // this once, or always
            Err(_) => thread::sleep(limit),
        }
    }
}

impl<S: RingStep> Drop for Ring<S> {
    fn drop(&mut self) {
        if !self.drain(DRAIN_LIMIT, drop) {
            // the kernel may still write to these buffers, so they are leaked
            return;
        }
        // now, and not whenever the kernel frees the ring: the last reference to the image unlocks
        // it
        let _ = self.uring.submitter().unregister_files();
        // SAFETY: `in_flight` is dropped once, here, and not used afterwards. It is empty, since
        // `drain` has taken out every operation, so no buffer in it is known to the kernel.
        unsafe { ManuallyDrop::drop(&mut self.in_flight) };
        // SAFETY: `pages` is dropped once, here, and has as little in flight as `in_flight`.
        unsafe { ManuallyDrop::drop(&mut self.pages) };
    }
}

#[cfg(test)]
mod tests;
