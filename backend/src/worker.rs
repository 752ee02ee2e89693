//! The path of a request, and nothing else. One worker a queue, one thread a worker.
//!
//! ```text
//! write  pop -> parse -> lock range -> take folio -> copy_to -> generate -> submit ~ring~ reap -> complete -> used ring
//! read   pop -> parse -> lock range -> take folio -> submit ~ring~ reap -> verify -> copy_from -> complete -> used ring
//! ```
//!
//! Guest data is read once, into the folio; PI covers that copy and that copy goes to the device. What is read is verified in
//! the folio before any of it goes to the guest. Every popped chain is returned once, whatever failed.

mod buffers;
mod data;
mod failure;

use std::collections::VecDeque;
use std::sync::Arc;
use std::{fmt, io};

use slab::Slab;
use virtio::{DiskLimits, Malformed, Request, SplitRing, Status};

use self::buffers::Buffers;
use self::data::DataPath;
use self::failure::Failure;
use crate::active::{Active, Work, ZeroBy};
use crate::bounce::{Arena, FolioPool};
use crate::device::{BlockDevice, DeviceInfo, DeviceQueue, Event, EventSources};
use crate::dirty_log::UsedRingLog;
use crate::disk::{Bounce, Disk};
use crate::event::{CallFd, KickFd};
use crate::extent::{self, Extent};
use crate::inbox::Message;
use crate::inflight::{Direction, Operation, Piece, Transfer};
use crate::inflight_region::InflightQueue;
use crate::latency::BatchClock;
use crate::memory::GuestMemory;
use crate::metrics::QueueMetrics;
use crate::poller::{Poller, Wait};
use crate::range_lock::{Owner, Ticket};

/// Transfers in flight a worker has at most, where folios do not limit them.
const TRANSFERS_MAX: usize = 1024;
/// Chains popped, and events taken from the device, in one turn. Driver, worker and device go on with one batch while the next
/// is worked on; a larger one would leave two of them waiting for the third, a smaller one share its system calls with fewer.
const BATCH_MAX: usize = 16;

/// What the driver chose for the queue that a worker serves.
#[derive(Debug)]
pub struct Vring {
    /// Its index.
    pub index: usize,
    /// The rings, at the place where the last owner left them.
    pub ring: SplitRing,
    /// The driver's signal.
    pub kick: KickFd,
    /// Our signal; none when the driver polls.
    pub call: Option<CallFd>,
    /// Our signal that the queue cannot go on.
    pub error: Option<CallFd>,
    /// Where what is in flight is noted for a successor, when the front-end keeps such a region.
    pub inflight: Option<InflightQueue>,
    /// Writes are made stable before they complete (no flush was negotiated).
    pub writethrough: bool,
    /// Where writes to the used ring are marked besides its own place.
    pub used_log: Option<UsedRingLog>,
}

/// Whether a request could be launched whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Launch {
    Whole,
    /// No folio is free; the rest follows when one is.
    Starved,
}

/// A request that was done, to be counted.
#[derive(Debug)]
struct Done {
    work: Work,
    /// In bytes.
    len: u64,
    /// When, by the worker's clock.
    popped: u64,
}

/// Serves one queue on its own thread until it is told to stop.
#[derive(Debug)]
pub struct QueueWorker<B: BlockDevice> {
    disk: Arc<Disk<B>>,
    info: DeviceInfo,
    limits: DiskLimits,
    memory: Arc<GuestMemory>,
    // before the eventfds that it polls and the buffers: dropping it waits for what is in flight
    device: B::Queue,
    vring: Vring,
    buffers: Buffers,
    data: DataPath,
    poller: Poller,
    clock: BatchClock,
    requests: Slab<Active>,
    /// Popped since the last batch of locks.
    arrived: Vec<usize>,
    /// Hold their range and have transfers to begin, in order.
    ready: VecDeque<usize>,
    /// Finished, to be released as one batch.
    released: Vec<Ticket>,
    /// Finished well, to be counted as one batch.
    done: Vec<Done>,
    transfers: usize,
    starved: bool,
    /// A request of which more is begun as soon as its pieces so far were looked at.
    cutting: Option<usize>,
    stopping: bool,
    retired: bool,
}

impl<B: BlockDevice> QueueWorker<B> {
    /// Sets up a worker on the calling thread, which must be the one that runs it.
    pub fn new(disk: Arc<Disk<B>>, memory: Arc<GuestMemory>, vring: Vring) -> io::Result<Self> {
        let info = disk.device.info().clone();
        let limits = disk.limits();
        let arena = Arena::reserve(info.protection.map_or(0, |protection| protection.metadata_per_page()))?;
        let sources = EventSources { kick: vring.kick.as_fd(), wake: disk.inboxes[vring.index].wake_fd() };
        let device = disk.device.open_queue(&arena, sources)?;
        let poller = Poller::new(disk.poll);
        // Who dies in a zero-copy read leaves a kernel that writes to guest memory until the read ends. The lock of the image
        // keeps a successor from serving until then, but for a read-only disk it is shared.
        let bounce = match vring.inflight {
            Some(_) if disk.limits.read_only => Bounce::Always,
            _ => disk.bounce,
        };
        let buffers = Buffers::new(FolioPool::new(arena), memory.clone(), bounce, &info);
        let data = DataPath::new(memory.clone(), info.protection);
        Ok(Self {
            disk,
            info,
            limits,
            memory,
            device,
            vring,
            buffers,
            data,
            poller,
            clock: BatchClock::new(),
            requests: Slab::new(),
            arrived: Vec::new(),
            ready: VecDeque::new(),
            released: Vec::new(),
            done: Vec::new(),
            transfers: 0,
            starved: false,
            cutting: None,
            stopping: false,
            retired: false,
        })
    }

    /// Serves the queue; returns it, with nothing in flight, after [`Message::Stop`].
    ///
    /// Fails only when io_uring does: then what was popped is lost to the driver, but no other queue waits for it.
    pub fn run(mut self) -> io::Result<Vring> {
        match self.serve() {
            Ok(()) => Ok(self.vring),
            Err(error) => {
                self.abandon();
                Err(error)
            }
        }
    }

    fn serve(&mut self) -> io::Result<()> {
        self.resume();
        let mut reaped = 0;
        loop {
            let accepted = self.accept();
            self.launch()?;
            self.settle();
            if self.stopping && self.requests.is_empty() {
                debug_assert!(self.buffers.is_whole(), "a folio was not put back");
                return Ok(());
            }
            let more = accepted == BATCH_MAX || reaped == BATCH_MAX;
            let sleep = !more && !self.can_launch() && !self.poller.poll_again(self.wait()) && self.arm();
            self.enter(sleep)?;
            reaped = self.reap();
            self.settle();
            if accepted + reaped > 0 {
                self.poller.worked();
            }
        }
    }

    /// Lets go of all that was finished: nothing may be kept from driver or queues while the worker sleeps.
    fn settle(&mut self) {
        self.count();
        self.publish();
        self.release();
    }

    /// Counts what was done: before the driver sees it, and with one look at the clock.
    fn count(&mut self) {
        let metrics = &self.disk.metrics[self.vring.index];
        metrics.in_flight.set(self.requests.len() as u64);
        if !self.requests.is_empty() {
            self.disk.watch.tell();
        }
        if self.done.is_empty() {
            return;
        }
        let now = self.clock.read();
        for Done { work, len, popped } in self.done.drain(..) {
            metrics.count(work, len, now - popped);
        }
    }

    /// Whether a release has made a request of this queue ready that no want of folios holds up.
    fn can_launch(&self) -> bool {
        !self.starved && !self.ready.is_empty()
    }

    /// What the worker waits for when there is nothing to do.
    fn wait(&self) -> Wait {
        if self.requests.is_empty() { Wait::Driver } else { Wait::Device }
    }

    /// `pop -> parse -> lock range`. How many chains were popped.
    fn accept(&mut self) -> usize {
        if self.stopping || self.retired || self.starved {
            return 0;
        }
        let mut popped = 0;
        while popped < BATCH_MAX {
            match self.vring.ring.pop(&*self.memory) {
                Ok(None) => break,
                Ok(Some(chain)) => {
                    popped += 1;
                    if let Some(inflight) = &mut self.vring.inflight {
                        inflight.popped(chain.head());
                    }
                    let parsed = Request::parse(&*self.memory, chain);
                    if !self.take(parsed) {
                        break;
                    }
                }
                Err(error) => {
                    self.retire(&error);
                    break;
                }
            }
        }
        self.lock_ranges();
        popped
    }

    /// Takes up what a predecessor that died had popped and not returned, in that order. Its I/O has ended: until then it
    /// had the image locked.
    fn resume(&mut self) {
        let interrupted = self.vring.inflight.as_mut().map(InflightQueue::take_interrupted);
        for head in interrupted.unwrap_or_default() {
            match self.vring.ring.resume(&*self.memory, head) {
                Ok(chain) => {
                    let parsed = Request::parse(&*self.memory, chain);
                    self.take(parsed);
                }
                Err(error) => self.retire(&error),
            }
        }
        self.lock_ranges();
    }

    /// Takes a popped chain in. False when the queue was given up for it.
    fn take(&mut self, parsed: Result<Request, Malformed>) -> bool {
        match parsed {
            Ok(request) => {
                self.admit(request);
                true
            }
            Err(malformed) => self.refuse(malformed),
        }
    }

    /// Returns a chain that is no request. False when there was no place to say so: the driver cannot know what became of
    /// it, so the queue is given up.
    fn refuse(&mut self, malformed: Malformed) -> bool {
        if self.metrics().malformed.add_logged() {
            tracing::warn!(queue = self.vring.index, "malformed request: {}", malformed.reason());
        }
        let answerable = matches!(malformed, Malformed::Answerable { .. });
        let reason = malformed.reason();
        malformed.complete(&mut self.vring.ring, &*self.memory);
        if !answerable {
            self.retire(&reason);
        }
        answerable
    }

    /// Answers a request that needs no device, and takes in the others.
    fn admit(&mut self, request: Request) {
        if let Err(status) = request.check(&self.limits) {
            let metrics = self.metrics();
            let counter = if status == Status::Unsupp { &metrics.unsupported } else { &metrics.refused };
            if counter.add_logged() {
                let (queue, operation) = (self.vring.index, &request.operation);
                tracing::warn!(queue, ?operation, len = request.data.len(), ?status, "request refused");
            }
            return self.answer(request, status, 0);
        }
        match request.operation {
            virtio::Operation::GetId => {
                let len =
                    self.disk.serial.len().min(usize::try_from(request.data.len()).unwrap_or(usize::MAX));
                match request.data.copy_from(&*self.memory, 0, &self.disk.serial[..len]) {
                    Ok(()) => self.answer(request, Status::Ok, u32::try_from(len).unwrap_or(0)),
                    Err(_) => self.answer(request, Status::IoErr, 0),
                }
            }
            _ => match Active::new(request, self.clock.read(), self.info.zeroing) {
                Ok(active) => self.arrived.push(self.requests.insert(active)),
                // no bytes, nothing to do
                Err(request) => self.answer(request, Status::Ok, 0),
            },
        }
    }

    /// Takes the ranges of all that arrived; those that must wait become ready by [`Message::Granted`] or a release here.
    fn lock_ranges(&mut self) {
        if self.arrived.is_empty() {
            return;
        }
        if !self.needs_locks() {
            self.ready.extend(self.arrived.drain(..));
            return;
        }
        let shift = self.info.granule.ilog2();
        let mut table = self.disk.locks.table();
        for id in self.arrived.drain(..) {
            let Some(active) = self.requests.get_mut(id) else {
                continue;
            };
            let Some(access) = active.access() else {
                self.ready.push_back(id);
                continue;
            };
            let granules = active.start >> shift..((active.start + active.len - 1) >> shift) + 1;
            let (ticket, held) =
                table.acquire(granules, access, Owner { queue: self.vring.index, request: id });
            active.ticket = Some(ticket);
            if held {
                self.ready.push_back(id);
            }
        }
    }

    /// Data and tuples are two writes, and a partial write is a read and a write: both need the granule alone.
    fn needs_locks(&self) -> bool {
        self.info.protection.is_some() || self.info.granule > self.limits.block_size as usize
    }

    /// `take folio -> copy_to -> generate -> submit`, for as many requests as there are folios.
    fn launch(&mut self) -> io::Result<()> {
        while let Some(&id) = self.ready.front() {
            if self.launch_request(id)? == Launch::Starved {
                if !self.starved {
                    self.starved = true;
                    self.metrics().starved.add(1);
                }
                // the folios may be full of this read's own pieces, with none on its way that would bring us back here
                if self.requests.get(id).is_some_and(Active::is_deliverable) {
                    self.deliver(id);
                    continue;
                }
                return Ok(());
            }
            self.ready.pop_front();
            if let Some(active) = self.requests.get_mut(id) {
                active.launching = false;
            }
            self.finish_if_done(id);
        }
        self.starved = false;
        Ok(())
    }

    fn launch_request(&mut self, id: usize) -> io::Result<Launch> {
        if let Some(active) = self.requests.get_mut(id).filter(|active| active.work == Work::Flush) {
            active.in_flight += 1;
            self.device.submit(Operation::Flush { request: id });
        }
        while let Some(active) = self.requests.get_mut(id).filter(|active| !active.all_begun()) {
            let (from, to) = (active.start + active.begun, active.start + active.len);
            if self.transfers == TRANSFERS_MAX {
                return Ok(Launch::Starved);
            }
            if let Work::Zero(by @ (ZeroBy::PunchHole | ZeroBy::ZeroRange | ZeroBy::Deallocate)) = active.work
                && let Some(len) = extent::whole_granules(from, to, self.info.granule)
            {
                active.begun += len;
                active.in_flight += 1;
                self.device.submit(Operation::Zero { offset: from, len, by, request: id });
                continue;
            }
            let Some(mut transfer) = self.begin(id, from, to) else {
                return Ok(Launch::Starved);
            };
            let filled = match transfer.direction {
                Direction::Read => Ok(()),
                Direction::Write => self.data.fill(&self.requests[id], &mut transfer),
            };
            match filled {
                Ok(()) => self.device.submit(Operation::Transfer(transfer)),
                Err(failure) => self.end_transfer(transfer, Some(failure)),
            }
            if self.transfers == 1 && !self.requests[id].all_begun() {
                self.start_early(id)?;
            }
        }
        Ok(Launch::Whole)
    }

    /// Gives an idle device the piece of a request that is still being cut. One that is served at once, from memory, leaves its
    /// folio hot in the cache for the next piece; a device that takes its time works while the others are copied.
    fn start_early(&mut self, id: usize) -> io::Result<()> {
        self.cutting = Some(id);
        let entered = self.device.enter(false);
        self.reap();
        self.cutting = None;
        entered
    }

    /// Finds memory for the next part of a request, bytes `from..to` of the device being left. `None`: no folio is free.
    fn begin(&mut self, id: usize, from: u64, to: u64) -> Option<Transfer> {
        let active = self.requests.get_mut(id)?;
        let direction = if active.work == Work::Read { Direction::Read } else { Direction::Write };
        let extent = Extent::next(direction, from, to, self.info.granule);
        let (buffer, extent) = self.buffers.take(active, extent)?;
        let (data_offset, data_len) = (active.begun, extent.data_len());
        let merge = direction == Direction::Write && extent.is_partial();
        let piece = Piece { request: id, data_offset, data_len, lead: extent.lead, merge };
        let direction = if merge { Direction::Read } else { direction };
        active.begun += data_len as u64;
        active.in_flight += 1;
        self.transfers += 1;
        Some(Transfer { direction, offset: extent.device_offset, len: extent.device_len, buffer, piece })
    }

    /// Lets the driver signal again. True when the worker may sleep: nothing was made available meanwhile.
    fn arm(&mut self) -> bool {
        if self.stopping || self.retired || self.starved {
            return true;
        }
        let armed = self.vring.ring.enable_notifications(&*self.memory);
        self.mark_used_ring();
        match armed {
            Ok(more) => !more,
            Err(error) => {
                self.retire(&error);
                true
            }
        }
    }

    fn mark_used_ring(&self) {
        if let Some(log) = &self.vring.used_log {
            log.mark();
        }
    }

    /// The only blocking call.
    fn enter(&mut self, sleep: bool) -> io::Result<()> {
        self.clock.expire();
        if !sleep {
            if self.device.has_work() {
                return self.device.enter(false);
            }
            std::hint::spin_loop();
            return Ok(());
        }
        self.device.enter(true)?;
        self.vring.ring.disable_notifications(&*self.memory);
        self.mark_used_ring();
        Ok(())
    }

    /// `reap -> verify -> copy_from -> complete`. How many events were taken.
    fn reap(&mut self) -> usize {
        let mut reaped = 0;
        while reaped < BATCH_MAX
            && let Some(event) = self.device.reap()
        {
            reaped += 1;
            match event {
                Event::Kick => {}
                Event::Wake => self.read_messages(),
                Event::Done(Operation::Transfer(transfer), result) => self.arrive(transfer, result),
                Event::Done(Operation::Zero { request, .. }, result) => {
                    self.end_plain(request, "zeroing", result);
                }
                Event::Done(Operation::Flush { request }, result) => self.end_plain(request, "flush", result),
            }
        }
        reaped
    }

    fn read_messages(&mut self) {
        for message in self.disk.inboxes[self.vring.index].take() {
            match message {
                Message::Granted(id) => self.ready.push_back(id),
                Message::Call(call) => self.vring.call = call,
                Message::Memory(memory, _) => self.take_over_memory(memory),
                Message::TellOldest => self.tell_oldest(),
                Message::Stop => self.stopping = true,
            }
        }
    }

    /// Goes on with more memory, in which all that there was lies where it was.
    fn take_over_memory(&mut self, memory: Arc<GuestMemory>) {
        self.buffers.set_memory(memory.clone());
        self.data.set_memory(memory.clone());
        self.memory = memory;
    }

    /// For the watchdog.
    fn tell_oldest(&self) {
        let Some((_, active)) = self.requests.iter().min_by_key(|(_, active)| active.popped) else {
            return;
        };
        let Active { work, start, len, in_flight, popped, launching, .. } = active;
        let (queue, ms) = (self.vring.index, self.clock.elapsed(*popped).as_millis());
        tracing::error!(
            queue,
            ?work,
            start,
            len,
            ms,
            operations = in_flight,
            waiting = launching,
            "oldest request"
        );
    }

    fn arrive(&mut self, mut transfer: Transfer, result: io::Result<()>) {
        self.data.mark_written(&self.requests[transfer.piece.request], &transfer);
        if let Err(error) = result {
            return self.end_transfer(transfer, Some(error.into()));
        }
        let active = &self.requests[transfer.piece.request];
        let outcome = match (transfer.direction, transfer.piece.merge) {
            (Direction::Write, _) => Ok(()),
            (Direction::Read, false) => match self.data.verify(active, &mut transfer) {
                Ok(()) => return self.keep(transfer),
                Err(failure) => Err(failure),
            },
            (Direction::Read, true) => match self.data.merge(active, &mut transfer) {
                Ok(()) => return self.device.submit(Operation::Transfer(transfer)),
                Err(failure) => Err(failure),
            },
        };
        self.end_transfer(transfer, outcome.err());
    }

    /// Keeps a verified part of a read until the others are there too: the guest gets all or nothing, and gets it in the
    /// order of its segments, which may name the same page. Only a read that the free folios cannot hold is given in parts.
    fn keep(&mut self, transfer: Transfer) {
        let id = transfer.piece.request;
        if let Some(active) = self.requests.get_mut(id) {
            active.arrived.push(transfer);
        }
        self.finish_if_done(id);
    }

    /// `copy_from`, for all parts of a read that have arrived.
    fn deliver(&mut self, id: usize) {
        let Some(active) = self.requests.get_mut(id) else {
            return;
        };
        let mut arrived = std::mem::take(&mut active.arrived);
        arrived.sort_unstable_by_key(|transfer| transfer.piece.data_offset);
        for transfer in arrived {
            let active = &self.requests[id];
            // nothing more of a read of which a part has failed
            let copied = match active.status {
                Status::Ok => self.data.copy_from(active, &transfer),
                _ => Ok(()),
            };
            self.put_back(transfer, copied.err());
        }
    }

    fn end_transfer(&mut self, transfer: Transfer, failure: Option<Failure>) {
        let id = transfer.piece.request;
        self.put_back(transfer, failure);
        self.finish_if_done(id);
    }

    /// Takes leave of a transfer.
    fn put_back(&mut self, transfer: Transfer, failure: Option<Failure>) {
        let id = transfer.piece.request;
        self.transfers -= 1;
        if let Some(failure) = failure {
            let Transfer { direction, offset, len, .. } = transfer;
            self.fail(id, &failure, format_args!("{direction} of {len} bytes at byte {offset}"));
        }
        self.buffers.put(transfer.buffer);
        if let Some(active) = self.requests.get_mut(id) {
            active.in_flight -= 1;
        }
    }

    fn fail(&mut self, id: usize, failure: &Failure, what: fmt::Arguments<'_>) {
        let Some(active) = self.requests.get_mut(id) else {
            return;
        };
        active.status = Status::IoErr;
        let counter = failure.counter(self.metrics());
        if counter.add_logged() {
            tracing::error!(queue = self.vring.index, total = counter.get(), "{what} failed: {failure}");
        }
    }

    /// An operation without data has come back.
    fn end_plain(&mut self, id: usize, what: &str, result: io::Result<()>) {
        if let Err(error) = result {
            self.fail(id, &error.into(), format_args!("{what}"));
        }
        if let Some(active) = self.requests.get_mut(id) {
            active.in_flight -= 1;
        }
        self.finish_if_done(id);
    }

    /// `complete`: when nothing is in flight for the request and nothing is to come.
    fn finish_if_done(&mut self, id: usize) {
        if self.cutting != Some(id) && self.requests.get(id).is_some_and(Active::is_deliverable) {
            self.deliver(id);
        }
        let Some(active) = self.requests.get_mut(id) else {
            return;
        };
        if active.launching || active.in_flight > 0 {
            return;
        }
        let changed = matches!(active.work, Work::Write | Work::Zero(_));
        if changed && self.vring.writethrough && !active.flushed && active.status == Status::Ok {
            active.flushed = true;
            active.in_flight = 1;
            return self.device.submit(Operation::Flush { request: id });
        }
        let Some(Active { request, popped, work, len, ticket, status, .. }) = self.requests.try_remove(id)
        else {
            return;
        };
        self.released.extend(ticket);
        self.metrics().finished.add(1);
        if status == Status::Ok {
            self.done.push(Done { work, len, popped });
        }
        let data_written = match (work, status) {
            // a chain can name the same memory often enough to pass 4 GiB; the used length has 32 bits
            (Work::Read, Status::Ok) => u32::try_from(len).unwrap_or(u32::MAX - 1),
            _ => 0,
        };
        self.answer(request, status, data_written);
    }

    fn answer(&mut self, request: Request, status: Status, data_written: u32) {
        request.reply.complete(&mut self.vring.ring, &*self.memory, status, data_written);
    }

    /// Shows all completions to the driver at once, with at most one interrupt.
    fn publish(&mut self) {
        let Vring { ring, inflight, .. } = &mut self.vring;
        let used_idx = ring.next_used();
        if let Some(inflight) = inflight {
            inflight.publishing(ring.completed_heads());
        }
        let published = ring.publish(&*self.memory);
        if let Some(inflight) = inflight
            && ring.next_used() != used_idx
        {
            inflight.published(ring.next_used());
        }
        match published {
            Ok(true) => {
                if let Some(call) = &self.vring.call {
                    call.signal();
                }
            }
            Ok(false) => {}
            Err(error) => self.retire(&error),
        }
        self.mark_used_ring();
    }

    /// Gives the ranges of all that was finished back, and wakes those whose turn it is.
    fn release(&mut self) {
        let Self { disk, vring, released, ready, .. } = self;
        disk.release(vring.index, released.drain(..), |request| ready.push_back(request));
    }

    /// Gives up with io_uring: the chains stay with the driver's dead ring, the ranges go to those who wait.
    fn abandon(mut self) {
        // first: it waits for everything in flight
        drop(self.device);
        self.released.extend(self.requests.drain().filter_map(|active| {
            active.request.reply.abandon();
            active.ticket
        }));
        // this queue's own requests are gone
        self.disk.release(self.vring.index, self.released.drain(..), |_| {});
    }

    /// Nothing more can be believed of this queue, until the driver resets it. What was popped is still finished.
    fn retire(&mut self, reason: &dyn fmt::Display) {
        if !self.retired {
            self.retired = true;
            self.metrics().retired.add(1);
            tracing::error!(queue = self.vring.index, "queue retired: {reason}");
            if let Some(error) = &self.vring.error {
                error.signal();
            }
        }
    }

    fn metrics(&self) -> &QueueMetrics {
        &self.disk.metrics[self.vring.index]
    }
}
