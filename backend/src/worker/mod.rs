//! The path of a request, and nothing else. One worker a queue, one thread a worker.
//!
//! ```text
//! write  pop -> parse -> lock range -> take folio -> copy_to -> generate -> submit ~ring~ reap -> complete -> used ring
//! read   pop -> parse -> lock range -> take folio -> submit ~ring~ reap -> verify -> copy_from -> complete -> used ring
//! ```
//!
//! Guest data is read once, into the folio; PI covers that copy and that copy goes to the device. What is read is verified in
//! the folio before any of it goes to the guest. Every popped chain is returned once, whatever failed.

mod batch;
mod clock;
mod completion;
pub mod disk;
pub mod extent;
mod failure;
mod finished_request;
mod intake;
mod launch;
pub mod message;
pub mod poller;
pub mod range_lock;
pub mod request;
mod transfer_buffers;
mod transfer_data;
pub mod wake_up_cost;
pub mod watch;

use std::collections::VecDeque;
use std::sync::Arc;
use std::{fmt, io};

use slab::Slab;
use virtio::{DiskLimits, SplitRing};

use self::batch::Batch;
use self::clock::BatchClock;
use self::finished_request::Done;
use self::transfer_buffers::Buffers;
use self::transfer_data::DataPath;
use crate::device::bounce::{Arena, FolioPool};
use crate::device::operation::DeviceOperation;
use crate::device::{BlockDevice, DeviceInfo, DeviceQueue, Event, EventSources};
use crate::guest::dirty_log::UsedRingLog;
use crate::guest::eventfd::{CallFd, KickFd};
use crate::guest::inflight_region::InflightQueue;
use crate::guest::memory_table::{self, GuestMemory};
use crate::guest::sigbus;
use crate::metrics::QueueMetrics;
use crate::worker::disk::{Bounce, Disk};
use crate::worker::message::WorkerMessage;
use crate::worker::poller::{Poller, Wait};
use crate::worker::range_lock::Ticket;
use crate::worker::request::Active;

/// Transfers in flight a worker has at most, where folios do not limit them.
const TRANSFERS_MAX: usize = 1024;
/// Requests launched in one turn, in bytes, give or take the last: large ones are a turn's work sooner.
const TURN_SIZE: u64 = 256 << 10;

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
    /// The ring was found broken: nothing more is taken from it, whoever serves the queue, until it is set up anew.
    pub retired: bool,
    /// Memory that the front-end shares was lost, which is why the worker has ended by itself.
    pub memory_lost: bool,
}

/// What the driver's notifications have led to, until the first chain was popped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kicks {
    /// There was none since the ring was last looked at.
    None,
    /// There was one, and the ring is to be looked at.
    Pending,
    /// A chain was popped.
    Served,
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
    done: Vec<FinishedRequest>,
    transfers: usize,
    /// How many chains to pop in a turn.
    intake: Batch,
    /// How many events to take from the device in a turn.
    reaping: Batch,
    starved: bool,
    /// A request of which more is begun as soon as its pieces so far were looked at.
    cutting: Option<usize>,
    stopping: bool,
    /// What the driver's notifications have led to so far.
    kicks: Kicks,
    /// Mappings that had been lost before this queue was served.
    losses: u64,
}

impl<B: BlockDevice> QueueWorker<B> {
    /// Sets up a worker on the calling thread, which must be the one that runs it.
    pub fn new(disk: Arc<Disk<B>>, memory: Arc<GuestMemory>, vring: Vring) -> io::Result<Self> {
        let info = disk.device.info().clone();
        let limits = disk.limits();
        let arena = Arena::reserve(info.protection.map_or(0, |protection| protection.metadata_per_page()))?;
        let sources = EventSources { kick: vring.kick.as_fd(), wake: disk.inboxes[vring.index].wake_fd() };
        let device = disk.device.open_queue(&arena, sources)?;
        // after it was taken: what was open before may have lost it
        let info = DeviceInfo { durability: disk.device.durability(), ..info };
        disk.metrics[vring.index].flushes_fail.set(info.durability.flushes_fail().into());
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
            intake: Batch::default(),
            reaping: Batch::default(),
            starved: false,
            cutting: None,
            stopping: false,
            kicks: Kicks::None,
            losses: sigbus::losses(),
        })
    }

    /// Serves the queue; returns it, with nothing in flight, after [`WorkerMessage::Stop`] or when memory was lost.
    ///
    /// Fails only when io_uring does: then what was popped is lost to the driver, but no other queue waits for it.
    pub fn run(mut self) -> io::Result<Vring> {
        self.metrics().awake.set(1);
        let served = self.serve();
        self.metrics().awake.set(0);
        match served {
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
            self.metrics().turns.add(1);
            let accepted = self.accept();
            self.note_kick(accepted);
            if accepted > 0 {
                // now, not after what follows from it, which takes its time too
                self.poller.worked();
            }
            self.launch()?;
            self.settle();
            if (self.finds_memory_lost() || self.stopping) && self.requests.is_empty() {
                debug_assert!(self.buffers.is_whole(), "a folio was not put back");
                return Ok(());
            }
            let more = self.intake.is_full(accepted) || self.reaping.is_full(reaped);
            let sleep = !more && !self.can_launch() && !self.poller.poll_again(self.wait()) && self.arm();
            self.enter(sleep)?;
            reaped = self.reap();
            if reaped > 0 {
                self.poller.worked();
            }
            self.settle();
            self.intake.had(accepted);
            self.reaping.had(reaped);
            if accepted + reaped == 0 && self.transfers > 0 {
                self.begin_small();
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
            self.disk.watch.notify();
        }
        if self.done.is_empty() {
            return;
        }
        let now = self.clock.read();
        for done in self.done.drain(..) {
            done.count(metrics, now);
        }
    }

    /// Whether a release has made a request of this queue ready that no want of folios holds up.
    fn can_launch(&self) -> bool {
        !self.starved && !self.ready.is_empty()
    }

    /// Counts kicks for nothing of a ring that never had anything: the driver may see another ring than we do.
    fn note_kick(&mut self, popped: usize) {
        if self.vring.retired {
            // nothing is popped, whatever is there
            return;
        }
        let metrics = self.metrics();
        match (self.kicks, popped) {
            (Kicks::Served, _) | (Kicks::None, 0) => {}
            (Kicks::Pending, 0) => {
                metrics.empty_kicks.set(metrics.empty_kicks.get() + 1);
                self.disk.watch.notify();
                self.kicks = Kicks::None;
            }
            (Kicks::None | Kicks::Pending, _) => {
                metrics.empty_kicks.set(0);
                metrics.ring_trouble.set(0);
                self.kicks = Kicks::Served;
            }
        }
    }

    /// What the worker waits for when there is nothing to do.
    fn wait(&self) -> Wait {
        if self.requests.is_empty() { Wait::Driver } else { Wait::Device }
    }

    /// Lets the driver signal again. True when the worker may sleep: nothing was made available meanwhile.
    fn arm(&mut self) -> bool {
        if self.stopping || self.vring.retired || self.starved {
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
        self.metrics().awake.set(0);
        let entered = self.device.enter(true);
        self.metrics().awake.set(1);
        entered?;
        self.begin_small();
        self.vring.ring.disable_notifications(&*self.memory);
        self.mark_used_ring();
        Ok(())
    }

    /// The device was waited for.
    fn begin_small(&mut self) {
        self.intake = Batch::FIRST;
        self.reaping = Batch::FIRST;
    }

    /// `reap -> verify -> copy_from -> complete`. How many events were taken.
    fn reap(&mut self) -> usize {
        let mut reaped = 0;
        while !self.reaping.is_full(reaped)
            && let Some(event) = self.device.reap()
        {
            reaped += 1;
            match event {
                Event::Kick if self.kicks == Kicks::None => self.kicks = Kicks::Pending,
                Event::Kick => {}
                Event::Wake => self.read_messages(),
                Event::Done(DeviceOperation::Transfer(transfer), result) => self.arrive(transfer, result),
                Event::Done(DeviceOperation::Zero { request, .. }, result) => {
                    self.end_plain(request, "zeroing", result);
                }
                Event::Done(DeviceOperation::Flush { request }, result) => {
                    self.metrics().flushes_fail.set(self.info.durability.flushes_fail().into());
                    self.end_plain(request, "flush", result);
                }
            }
        }
        reaped
    }

    fn read_messages(&mut self) {
        for message in self.disk.inboxes[self.vring.index].take() {
            match message {
                WorkerMessage::Granted(id) => self.ready.push_back(id),
                WorkerMessage::Call(call) => self.vring.call = call,
                WorkerMessage::Memory(memory, _) => self.take_over_memory(memory),
                WorkerMessage::LogOldest => self.log_oldest(),
                WorkerMessage::Stop => self.stopping = true,
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
    fn log_oldest(&self) {
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
                if let Some(call) = &mut self.vring.call {
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
        self.disk.metrics[self.vring.index].in_flight.set(0);
        self.released.extend(self.requests.drain().filter_map(|active| {
            active.request.reply.abandon();
            active.ticket
        }));
        // this queue's own requests are gone
        self.disk.release(self.vring.index, self.released.drain(..), |_| {});
    }

    /// Whether memory that the front-end shares was lost since the queue was started. Then the queue is retired, and the worker ends.
    fn finds_memory_lost(&mut self) -> bool {
        if !self.vring.memory_lost && sigbus::losses() != self.losses {
            let inflight_lost = self.vring.inflight.as_ref().is_some_and(InflightQueue::is_lost);
            self.vring.memory_lost = inflight_lost || memory_table::is_any_lost(&self.memory);
            if self.vring.memory_lost {
                self.retire(&"memory that the front-end shares is lost");
            }
        }
        self.vring.memory_lost
    }

    /// Nothing more can be believed of this queue, until it is set up anew. What was popped is still finished.
    fn retire(&mut self, reason: &dyn fmt::Display) {
        if !self.vring.retired {
            self.vring.retired = true;
            self.metrics().retired.add(1);
            if self.finds_memory_lost() {
                // a ring in lost memory looks broken
                tracing::error!(
                    queue = self.vring.index,
                    "queue retired: memory that the front-end shares is lost"
                );
            } else {
                tracing::error!(queue = self.vring.index, "queue retired: {reason}");
            }
            if let Some(error) = &mut self.vring.error {
                error.signal();
            }
        }
    }

    fn metrics(&self) -> &QueueMetrics {
        &self.disk.metrics[self.vring.index]
    }
}
