//! One io_uring: submits in batches, reaps in batches, and is the only place a worker sleeps.
//!
//! The kick and the wake eventfd are polled through the ring (multishot), so `io_uring_enter` waits for the driver, the
//! session and the device at once. The eventfds are never read: a multishot poll reports each new signal, and a worker
//! looks at the ring and its messages whenever it is told, so the counter's value says nothing more.

#![expect(unsafe_code, reason = "submission queue entries carry raw pointers")]

use std::collections::VecDeque;
use std::mem::ManuallyDrop;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::sync::{Arc, Once};
use std::time::{Duration, Instant};
use std::{fmt, io, mem, thread};

use io_uring::squeue::EntryMarker;
use io_uring::{IoUring, Probe, cqueue, opcode, squeue, types};
use rustix::process::{Resource, getrlimit};
use slab::Slab;

use super::EventSources;
use super::memory_file::MemoryFile;
use crate::device::bounce::Arena;
use crate::device::operation::{DeviceOperation, Transfer, TransferBuffer, TransferDirection, ZeroBy};
use crate::storage::durability::Durability;
use crate::storage::image::Image;

/// Entries of the submission queue. A larger batch costs one more system call, nothing else.
const SUBMISSIONS: u32 = 256;
/// Entries of the completion queue: as many as can be in flight, so that it never overflows in practice.
const COMPLETIONS: u32 = 4096;

/// How often a full submission queue is handed over before the kernel is taken to be stuck.
const PUSH_TRIES: u32 = 10_000;

/// How long the kernel may keep what is in flight of a worker that died without giving any of it back.
pub(super) const DRAIN_LIMIT: Duration = Duration::from_secs(10);
/// How often to look meanwhile, where the kernel does not let us sleep.
const DRAIN_INTERVAL: Duration = Duration::from_millis(100);
/// Memory that a ring locks besides its entries, rounded up to pages.
const RING_HEADER: usize = 8 << 10;

/// `user_data` of the polls; operations have their slot, which is smaller.
const KICK: u64 = u64::MAX;
const WAKE: u64 = u64::MAX - 1;

/// One line for all workers.
static SAY_UNREGISTERED: Once = Once::new();

/// What is read and written, by its place in the list given to [`Ring::new`].
const IMAGE: types::Fixed = types::Fixed(0);
/// Another open file description of it, by which this ring alone syncs it.
const IMAGE_FOR_SYNC: types::Fixed = types::Fixed(1);

/// What the ring does for an operation: one submission queue entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    /// Reads or writes file 0 as the operation's transfer says.
    Transfer,
    /// `fallocate` of part of file 0, in bytes.
    Fallocate { offset: u64, len: u64, by: ZeroBy },
    /// `fdatasync` by file 1.
    Sync,
}

/// What a ring does for operations, one submission queue entry at a time.
///
/// # Safety
/// The pointers of [`Self::entry`] lead into what the operation, or the step, owns, at addresses that do not change when
/// those are moved.
pub(super) unsafe trait RingStep: fmt::Debug {
    /// The format of its submission queue entries.
    type Submission: squeue::EntryMarker;
    /// The format of its completion queue entries.
    type Completion: cqueue::EntryMarker + Into<cqueue::Entry>;

    /// The entry that does this step of `operation`. Folios lie in fixed buffer 0 when `fixed_buffer`.
    ///
    /// Panics when an operation of its kind has no such step: an operation without an entry would never come back.
    fn entry(&self, operation: &DeviceOperation, fixed_buffer: bool) -> Self::Submission;

    /// What the result of a completion says of the step.
    fn outcome(&self, operation: &DeviceOperation, result: i32) -> io::Result<()>;

    /// Whether it is a plain read or write of file 0, as the operation's transfer says.
    fn is_transfer(&self) -> bool {
        false
    }

    /// Whether it can be done again as it is, when the kernel asks for that.
    fn is_repeatable(&self, _operation: &DeviceOperation) -> bool {
        true
    }
}

// SAFETY: a transfer owns its folio, or its vectors of guest memory that they keep mapped; neither is moved with it.
unsafe impl RingStep for Step {
    type Submission = squeue::Entry;
    type Completion = cqueue::Entry;

    fn entry(&self, operation: &DeviceOperation, fixed_buffer: bool) -> squeue::Entry {
        match (operation, self) {
            (DeviceOperation::Transfer(transfer), Self::Transfer) => transfer_entry(transfer, fixed_buffer),
            (_, Self::Fallocate { offset, len, by }) => {
                let mode = match by {
                    ZeroBy::PunchHole | ZeroBy::Deallocate => libc::FALLOC_FL_PUNCH_HOLE,
                    ZeroBy::ZeroRange | ZeroBy::Writing => libc::FALLOC_FL_ZERO_RANGE,
                };
                let entry = opcode::Fallocate::new(IMAGE, *len).offset(*offset);
                entry.mode(mode | libc::FALLOC_FL_KEEP_SIZE).build()
            }
            (_, Self::Sync) => opcode::Fsync::new(IMAGE_FOR_SYNC).flags(types::FsyncFlags::DATASYNC).build(),
            (_, Self::Transfer) => panic!("{operation:?} is no transfer"),
        }
    }

    fn outcome(&self, operation: &DeviceOperation, result: i32) -> io::Result<()> {
        whole(operation, result)
    }

    fn is_transfer(&self) -> bool {
        *self == Self::Transfer
    }
}

/// A step, and what its device wants to know when it is done.
// SAFETY: the entry is that of `Step`.
unsafe impl<T: fmt::Debug> RingStep for (Step, T) {
    type Submission = squeue::Entry;
    type Completion = cqueue::Entry;

    fn entry(&self, operation: &DeviceOperation, fixed_buffer: bool) -> squeue::Entry {
        self.0.entry(operation, fixed_buffer)
    }

    fn outcome(&self, operation: &DeviceOperation, result: i32) -> io::Result<()> {
        self.0.outcome(operation, result)
    }

    fn is_transfer(&self) -> bool {
        self.0.is_transfer()
    }
}

/// Success for a result that is the operation's whole length, in bytes.
pub(super) fn whole(operation: &DeviceOperation, result: i32) -> io::Result<()> {
    let expected = match operation {
        DeviceOperation::Transfer(transfer) => transfer.len(),
        DeviceOperation::Zero { .. } | DeviceOperation::Flush { .. } => 0,
    };
    match usize::try_from(result) {
        Ok(done) if done == expected => Ok(()),
        // A recycled folio holds someone else's data behind a short read, so short is never success.
        Ok(done) => Err(io::Error::new(
            io::ErrorKind::UnexpectedEof,
            format!("short transfer: {done} of {expected} bytes"),
        )),
        Err(_) => Err(io::Error::from_raw_os_error(-result)),
    }
}

/// What a worker learns from the ring.
#[derive(Debug)]
pub(super) enum RingEvent<S> {
    /// The driver made buffers available.
    Kick,
    /// The session, or another worker, has something to say.
    Wake,
    /// A step of an operation is done, with its whole length, or failed.
    Done(DeviceOperation, S, io::Result<()>),
}

/// The flushes of a ring, by their slots. One is under way at a time, since only one would be told of data that is lost; who asks for
/// one meanwhile waits for the next, which does it for all of them.
#[derive(Debug, Default)]
struct Flushes {
    /// The one that is under way.
    begun: Option<usize>,
    /// Those that are done when it is.
    together: Vec<usize>,
    /// Those that were asked for since it began.
    waiting: Vec<usize>,
    /// A flush has failed that settles what was lost before. Whoever asked for it has seen that by
    /// the time that the ring is used again.
    is_telling: bool,
}

impl Flushes {
    /// Takes in the flush in `slot`: whether it begins now, and does not wait.
    fn begins(&mut self, slot: usize) -> bool {
        if self.begun.is_some() {
            self.waiting.push(slot);
            return false;
        }
        self.begun = Some(slot);
        true
    }

    /// The next that is to begin, for all that wait.
    fn begin_next(&mut self) -> Option<usize> {
        self.begun = self.waiting.pop();
        mem::swap(&mut self.together, &mut self.waiting);
        self.begun
    }
}

/// The io_uring of one worker and, by `user_data`, what is in flight on it.
pub(super) struct Ring<S: RingStep> {
    uring: IoUring<S::Submission, S::Completion>,
    in_flight: ManuallyDrop<Slab<(DeviceOperation, S)>>,
    fixed_buffer: bool,
    /// File 0, where it is better read and written without the ring.
    memory_file: Option<MemoryFile>,
    /// What was done without the ring: slots and results, as a completion has them.
    done: VecDeque<(usize, i32)>,
    /// Whether the next event is one of those, if there are others too.
    is_turn_of_done: bool,
    flushes: Flushes,
    /// A flush is believed while it is not lost.
    durability: Durability,
    // shared, so that they are open for as long as the ring polls them
    kick: Arc<OwnedFd>,
    wake: Arc<OwnedFd>,
    /// The errno with which a submission could not be handed over.
    broken: Option<i32>,
    /// What is in flight was waited for to no end, and is left to the kernel.
    given_up: bool,
}

impl<S: RingStep> fmt::Debug for Ring<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ring").field("in_flight", &self.in_flight.len()).finish_non_exhaustive()
    }
}

/// Whether this process may use io_uring at all, with what it needs.
pub fn probe() -> io::Result<()> {
    let uring = build::<squeue::Entry, cqueue::Entry>()?;
    let mut probe = Probe::new();
    uring.submitter().register_probe(&mut probe)?;
    let needed = [opcode::ReadFixed::CODE, opcode::Writev::CODE, opcode::Fsync::CODE, opcode::PollAdd::CODE];
    if needed.into_iter().all(|code| probe.is_supported(code)) {
        Ok(())
    } else {
        Err(io::Error::new(
            io::ErrorKind::Unsupported,
            "the kernel's io_uring lacks fixed buffers or polling",
        ))
    }
}

fn build<S: squeue::EntryMarker, C: cqueue::EntryMarker>() -> io::Result<IoUring<S, C>> {
    // Deferred task work (6.1) runs completions when we ask for them, in one batch, not by interrupting us.
    let deferred = IoUring::<S, C>::builder()
        .setup_cqsize(COMPLETIONS)
        .setup_single_issuer()
        .setup_defer_taskrun()
        .setup_taskrun_flag()
        .build(SUBMISSIONS);
    match deferred {
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {
            IoUring::<S, C>::builder().setup_cqsize(COMPLETIONS).build(SUBMISSIONS)
        }
        other => other,
    }
    .map_err(explain::<S, C>)
}

/// Names the limit that a ring did not fit into.
fn explain<S, C>(error: io::Error) -> io::Error {
    if error.raw_os_error() != Some(libc::ENOMEM) {
        return error;
    }
    let Some(limit) = getrlimit(Resource::Memlock).current else {
        let reason = "Cannot allocate memory for io_uring's rings: free some memory";
        return io::Error::new(io::ErrorKind::OutOfMemory, reason);
    };
    let limit = format!("{} KiB", limit >> 10);
    let entries = SUBMISSIONS as usize * mem::size_of::<S>() + COMPLETIONS as usize * mem::size_of::<C>();
    let ring = (entries + RING_HEADER) >> 10;
    let reason = format!(
        "Cannot allocate memory: RLIMIT_MEMLOCK ({limit}) is too small for the rings of all processes of this user; \
         each queue that is used locks {ring} KiB, 64 queues {} MiB, and 8 MiB more each where there is room: raise \
         it (`ulimit -l`, LimitMEMLOCK= in a systemd unit), or use fewer queues",
        (64 * ring).div_ceil(1 << 10)
    );
    io::Error::new(io::ErrorKind::OutOfMemory, reason)
}

impl<S: RingStep> Ring<S> {
    /// A ring over `files`; file 0 is the one that is read and written, and `durability` is that of what is flushed. Call on the thread
    /// that will use it.
    pub(super) fn new(
        arena: &Arena,
        files: &[BorrowedFd<'_>],
        durability: &Durability,
        sources: EventSources<'_>,
    ) -> io::Result<Self> {
        let uring = build::<S::Submission, S::Completion>()?;
        let raw: Vec<RawFd> = files.iter().map(AsRawFd::as_raw_fd).collect();
        uring.submitter().register_files(&raw)?;
        // SAFETY: registration pins the pages themselves; a mapping that goes away before the ring would leave the ring
        // with pages nobody else sees. Folios in flight hold the arena, so it outlives every transfer.
        let fixed_buffer = match unsafe { uring.submitter().register_buffers(&[arena.as_iovec()]) } {
            Ok(()) => true,
            Err(error) if error.raw_os_error() == Some(libc::ENOMEM) => {
                SAY_UNREGISTERED.call_once(|| {
                    tracing::info!("RLIMIT_MEMLOCK is too small to register bounce memory with io_uring, 8 MiB a queue, 512 MiB for 64: raise it for speed");
                });
                false
            }
            Err(error) => return Err(error),
        };
        let in_flight = ManuallyDrop::new(Slab::new());
        let (kick, wake) = (sources.kick.clone(), sources.wake.clone());
        let memory_file = files.first().map_or(Ok(None), |file| MemoryFile::of(*file))?;
        let mut ring = Self {
            uring,
            in_flight,
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

    /// A ring that reads, writes and syncs `image`. As [`Self::new`].
    pub(super) fn over(image: &Image, arena: &Arena, sources: EventSources<'_>) -> io::Result<Self> {
        let for_sync = image.open_for_sync()?;
        Self::new(arena, &[image.file().as_fd(), for_sync.as_fd()], image.durability(), sources)
    }

    /// Takes `operation` in, for its next step; the next [`Self::enter`] hands it to the kernel.
    pub(super) fn submit(&mut self, mut operation: DeviceOperation, step: S) {
        let done = match (&mut operation, &self.memory_file) {
            (DeviceOperation::Transfer(transfer), Some(file)) if step.is_transfer() => {
                Some(file.transfer(transfer))
            }
            _ => None,
        };
        let is_flush = matches!(operation, DeviceOperation::Flush { .. });
        if is_flush {
            self.tell();
        }
        let slot = self.in_flight.insert((operation, step));
        match done {
            Some(result) => self.done.push_back((slot, result)),
            None if is_flush && !self.flushes.begins(slot) => {}
            None => self.push_slot(slot),
        }
    }

    /// Hands new submissions to the kernel and, when `wait`, sleeps until there is an event. An error is for good.
    pub(super) fn enter(&mut self, wait: bool) -> io::Result<()> {
        if let Some(errno) = self.broken {
            return Err(io::Error::from_raw_os_error(errno));
        }
        self.tell();
        let wait = wait && self.done.is_empty();
        if !wait && !self.needs_enter() {
            return Ok(());
        }
        match self.uring.submit_and_wait(usize::from(wait)) {
            // interrupted, or completions must be reaped first: the caller does that next in any case
            Err(error) if matches!(error.raw_os_error(), Some(libc::EINTR | libc::EBUSY | libc::EAGAIN)) => {
                Ok(())
            }
            other => other.map(drop),
        }
    }

    /// Whether [`Self::enter`] without waiting has anything to do, so that polling costs no system call.
    pub(super) fn has_work(&mut self) -> bool {
        self.needs_enter() || !self.done.is_empty() || !self.uring.completion().is_empty()
    }

    /// Whether the kernel has anything to take or to do, if it is not to be slept in.
    fn needs_enter(&mut self) -> bool {
        let reapable = !self.uring.completion().is_empty();
        let submissions = self.uring.submission();
        // what can be reaped comes first: the kernel's next completions are as soon done after it
        !submissions.is_empty() || !reapable && (submissions.taskrun() || submissions.cq_overflow())
    }

    /// The next event.
    pub(super) fn reap(&mut self) -> Option<RingEvent<S>> {
        loop {
            // by turns: whoever keeps one of the two full must not keep the worker from the other
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
                user_data => {
                    let slot = usize::try_from(user_data).expect("a slot, as it was submitted");
                    if let Some(event) = self.finish(slot, entry.result()) {
                        return Some(event);
                    }
                }
            }
        }
    }

    /// What the result of an operation is worth; none if it is done again.
    fn finish(&mut self, slot: usize, result: i32) -> Option<RingEvent<S>> {
        let (operation, step) = &self.in_flight[slot];
        if matches!(-result, libc::EAGAIN | libc::EINTR) && step.is_repeatable(operation) {
            self.push_slot(slot);
            return None;
        }
        if self.flushes.begun == Some(slot) {
            self.done.extend(self.flushes.together.drain(..).map(|flush| (flush, result)));
            if let Some(next) = self.flushes.begin_next() {
                self.push_slot(next);
            }
        }
        let (operation, step) = self.in_flight.remove(slot);
        let outcome = step.outcome(&operation, result);
        let outcome = match operation {
            DeviceOperation::Flush { .. } => {
                let outcome = self.durability.flush_outcome(outcome);
                self.flushes.is_telling |= outcome.is_err();
                outcome
            }
            _ => outcome,
        };
        Some(RingEvent::Done(operation, step, outcome))
    }

    /// What was reaped has been passed on: a flush that failed among it settles what was lost
    /// before.
    pub(super) fn tell(&mut self) {
        if mem::take(&mut self.flushes.is_telling) {
            self.durability.was_told();
        }
    }

    fn push_slot(&mut self, slot: usize) {
        let (operation, step) = &self.in_flight[slot];
        let entry = step.entry(operation, self.fixed_buffer);
        if let Err(errno) = self.push(entry, slot as u64) {
            // the kernel never had it
            self.done.push_back((slot, -errno));
        }
    }

    fn poll(&mut self, user_data: u64) {
        let fd = if user_data == KICK { &self.kick } else { &self.wake };
        let events = u32::from(libc::POLLIN.unsigned_abs());
        // where it fails, the next enter does
        let _ = self.push(
            opcode::PollAdd::new(types::Fd(fd.as_raw_fd()), events).multi(true).build().into(),
            user_data,
        );
    }

    /// Fails with an errno when the kernel takes no more submissions, which is for good.
    fn push(&mut self, mut entry: S::Submission, user_data: u64) -> Result<(), i32> {
        entry.set_user_data(user_data);
        for _ in 0..PUSH_TRIES {
            // SAFETY: the entry's pointers lead, by `RingStep`, into what the submission in `in_flight` owns; it stays there
            // until its completion is reaped.
            if unsafe { self.uring.submission().push(&entry) }.is_ok() {
                return Ok(());
            }
            // full: hand the batch over
            if let Err(error) = self.enter(false) {
                self.broken = Some(error.raw_os_error().unwrap_or(libc::EIO));
                break;
            }
        }
        // never EAGAIN, with which an operation would be tried again
        Err(*self.broken.get_or_insert(libc::EBUSY))
    }

    /// Waits for what is in flight, and gives it to `each`, where no worker is left to do so. False when nothing has come back
    /// for `limit`: what is left then is still the kernel's, and stays so.
    pub(super) fn drain(&mut self, limit: Duration, mut each: impl FnMut(RingEvent<S>)) -> bool {
        let mut deadline = Instant::now() + limit;
        while !self.given_up && !self.in_flight.is_empty() {
            let before = self.in_flight.len();
            while let Some(event) = self.reap() {
                each(event);
            }
            let now = Instant::now();
            if self.in_flight.len() < before {
                deadline = now + limit;
            } else if now >= deadline {
                let left = self.in_flight.len();
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

    /// Sleeps until there is an event, but not longer than `limit`, whatever the kernel says.
    fn wait_at_most(&mut self, limit: Duration) {
        let timeout = types::Timespec::from(limit);
        let arguments = types::SubmitArgs::new().timespec(&timeout);
        match self.uring.submitter().submit_with_args(1, &arguments) {
            Ok(_) => {}
            Err(error) if error.raw_os_error() == Some(libc::ETIME) => {}
            // for the moment, or for good
            Err(_) => thread::sleep(limit),
        }
    }
}

pub(super) fn transfer_entry(transfer: &Transfer, fixed_buffer: bool) -> squeue::Entry {
    let (file, offset) = (IMAGE, transfer.offset());
    let len = u32::try_from(transfer.len()).expect("a transfer is at most a folio");
    match (transfer.buffer(), transfer.direction()) {
        (TransferBuffer::Bounce(folio), TransferDirection::Read) if fixed_buffer => {
            opcode::ReadFixed::new(file, folio.as_ptr(), len, 0).offset(offset).build()
        }
        (TransferBuffer::Bounce(folio), TransferDirection::Write) if fixed_buffer => {
            opcode::WriteFixed::new(file, folio.as_ptr(), len, 0).offset(offset).build()
        }
        (TransferBuffer::Bounce(folio), TransferDirection::Read) => {
            opcode::Read::new(file, folio.as_ptr(), len).offset(offset).build()
        }
        (TransferBuffer::Bounce(folio), TransferDirection::Write) => {
            opcode::Write::new(file, folio.as_ptr(), len).offset(offset).build()
        }
        (TransferBuffer::Guest(guest, _), direction) => {
            let vectors = guest.as_slice();
            if let [libc::iovec { iov_base, .. }] = vectors {
                return match direction {
                    TransferDirection::Read => {
                        opcode::Read::new(file, iov_base.cast(), len).offset(offset).build()
                    }
                    TransferDirection::Write => {
                        opcode::Write::new(file, iov_base.cast(), len).offset(offset).build()
                    }
                };
            }
            let count = u32::try_from(vectors.len()).expect("at most UIO_MAXIOV");
            match direction {
                TransferDirection::Read => {
                    opcode::Readv::new(file, vectors.as_ptr(), count).offset(offset).build()
                }
                TransferDirection::Write => {
                    opcode::Writev::new(file, vectors.as_ptr(), count).offset(offset).build()
                }
            }
        }
    }
}

impl<S: RingStep> Drop for Ring<S> {
    fn drop(&mut self) {
        if !self.drain(DRAIN_LIMIT, drop) {
            // The kernel may still write to these buffers: leak them rather than free them.
            return;
        }
        // Now, and not when the kernel comes to it: the image is unlocked with the last reference to it.
        let _ = self.uring.submitter().unregister_files();
        // SAFETY: dropped once, here, and nothing is in flight, so the kernel has let go of every buffer.
        unsafe { ManuallyDrop::drop(&mut self.in_flight) };
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::os::unix::fs::FileExt;

    use super::*;
    use crate::device::OwnEvents;
    use crate::device::bounce::FolioPool;
    use crate::device::operation::Piece;
    use crate::storage::image::{Access, DirectIo};
    use crate::storage::thin_device::ThinDevice;

    #[test]
    fn after_a_flush_that_failed_none_is_believed() {
        let pool = FolioPool::reserve(0).unwrap();
        let events = OwnEvents::new().unwrap();
        let file = tempfile::tempfile().unwrap();
        let durability = Durability::default();
        let ring = |for_sync| {
            Ring::<Step>::new(pool.arena(), &[file.as_fd(), for_sync], &durability, events.sources()).unwrap()
        };
        // an eventfd cannot be synced
        let (mut good, mut bad) = (ring(file.as_fd()), ring(events.sources().wake.as_fd()));
        let flush = |ring: &mut Ring<Step>| {
            ring.submit(DeviceOperation::Flush { request: 0 }, Step::Sync);
            ring.enter(true).unwrap();
            match ring.reap() {
                Some(RingEvent::Done(_, _, result)) => result.map_err(|error| error.raw_os_error()),
                other => panic!("{other:?}"),
            }
        };
        assert_eq!(flush(&mut good), Ok(()));
        assert_eq!(flush(&mut bad), Err(Some(libc::EINVAL)));
        assert_eq!(flush(&mut good), Err(Some(libc::EIO)));
        assert!(durability.is_lost());
    }

    /// A worker that died must not wait for ever, nor free what the kernel may still write to.
    #[test]
    fn what_never_comes_back_is_left_to_the_kernel() {
        let (mut pool, events) = (FolioPool::reserve(0).unwrap(), OwnEvents::new().unwrap());
        let (empty, _writer) = rustix::pipe::pipe().unwrap();
        let (file, durability) = (tempfile::tempfile().unwrap(), Durability::default());
        let mut ring =
            Ring::<Step>::new(pool.arena(), &[empty.as_fd(), file.as_fd()], &durability, events.sources())
                .unwrap();
        let piece = Piece { request: 0, data_offset: 0, data_len: 4096, lead: 0, merge: false };
        let buffer = TransferBuffer::Bounce(pool.take(4096, 4096).unwrap());
        // the offset of a pipe
        let transfer = Transfer::new(TransferDirection::Read, u64::MAX, 4096, buffer, piece);
        ring.submit(DeviceOperation::Transfer(transfer), Step::Transfer);
        ring.submit(DeviceOperation::Flush { request: 1 }, Step::Sync);
        let mut drained = Vec::new();
        assert!(!ring.drain(Duration::from_millis(200), |event| drained.push(event)));
        assert!(
            matches!(&drained[..], [RingEvent::Done(DeviceOperation::Flush { .. }, _, Ok(()))]),
            "{drained:?}"
        );
        // at once, the second time
        assert!(!ring.drain(Duration::from_secs(3600), drop));
    }

    /// As when of two syncs at the same time only the other one is told of it.
    #[test]
    fn what_another_sync_was_told_is_told_to_a_flush_too() {
        let Some(thin) = ThinDevice::attach() else { return };
        let image = Image::open(thin.path(), Access::Inspect, DirectIo::Never).unwrap();
        let (pool, events) = (FolioPool::reserve(0).unwrap(), OwnEvents::new().unwrap());
        let mut ring = Ring::<Step>::over(&image, pool.arena(), events.sources()).unwrap();
        let written = File::options().write(true).open(thin.path()).unwrap();
        written.write_all_at(&vec![1; 4 << 20], 2 << 20).unwrap();
        // not by way of what remembers it for all
        image.file().sync_data().unwrap_err();
        ring.submit(DeviceOperation::Flush { request: 0 }, Step::Sync);
        ring.enter(true).unwrap();
        let Some(RingEvent::Done(_, _, result)) = ring.reap() else { panic!("nothing is done") };
        result.unwrap_err();
    }

    #[test]
    fn flushes_asked_for_during_one_are_done_together_by_the_next() {
        let pool = FolioPool::reserve(0).unwrap();
        let events = OwnEvents::new().unwrap();
        let file = tempfile::tempfile().unwrap();
        let mut ring = Ring::<Step>::new(
            pool.arena(),
            &[file.as_fd(), file.as_fd()],
            &Durability::default(),
            events.sources(),
        )
        .unwrap();
        ring.enter(false).unwrap();
        let flush = |ring: &mut Ring<Step>, request| {
            ring.submit(DeviceOperation::Flush { request }, Step::Sync);
        };
        (0..4).for_each(|request| flush(&mut ring, request));
        let mut submitted = Vec::new();
        let mut done = Vec::new();
        while done.len() < 6 {
            submitted.push(ring.uring.submission().len());
            ring.enter(true).unwrap();
            while let Some(event) = ring.reap() {
                let RingEvent::Done(DeviceOperation::Flush { request }, _, Ok(())) = event else {
                    panic!("{event:?}")
                };
                done.push(request);
                if done.len() == 1 {
                    (4..6).for_each(|request| flush(&mut ring, request));
                }
            }
        }
        done[1..4].sort_unstable();
        done[4..].sort_unstable();
        assert_eq!((done, submitted), (vec![0, 1, 2, 3, 4, 5], vec![1, 1, 1]));
    }

    #[test]
    fn transfers_done_at_once_do_not_keep_completions_waiting() {
        let mut pool = FolioPool::reserve(0).unwrap();
        let file = tempfile::tempfile_in("/dev/shm").unwrap();
        file.set_len(1 << 20).unwrap();
        let events = OwnEvents::new().unwrap();
        let mut ring = Ring::<Step>::new(
            pool.arena(),
            &[file.as_fd(), file.as_fd()],
            &Durability::default(),
            events.sources(),
        )
        .unwrap();
        ring.submit(DeviceOperation::Flush { request: 0 }, Step::Sync);
        ring.enter(true).unwrap();
        for request in 1..9 {
            let piece = Piece { request, data_offset: 0, data_len: 4096, lead: 0, merge: false };
            let buffer = TransferBuffer::Bounce(pool.take(4096, 4096).unwrap());
            let transfer = Transfer::new(TransferDirection::Read, 0, 4096, buffer, piece);
            ring.submit(DeviceOperation::Transfer(transfer), Step::Transfer);
        }
        let first_two = [ring.reap(), ring.reap()];
        let is_flush = |event: &Option<RingEvent<Step>>| {
            matches!(event, Some(RingEvent::Done(DeviceOperation::Flush { .. }, _, Ok(()))))
        };
        assert!(first_two.iter().any(is_flush), "{first_two:?}");
        assert_eq!(std::iter::from_fn(|| ring.reap()).count(), 7, "the others");
    }
}
