//! The path of a request. Each queue has one worker, and each worker a thread of its own.
//!
//! ```text
//! write  pop -> parse -> lock range -> take folio -> copy_to -> generate -> submit
//!        ~ring~ reap -> complete -> used ring
//! read   pop -> parse -> lock range -> take folio -> submit
//!        ~ring~ reap -> verify -> copy_from -> complete -> used ring
//! ```
//!
//! Guest data is read once, into the folio. PI covers that copy, and that copy goes to the device.
//! Data read from the device is verified in the folio before any of it reaches the guest. Every
//! popped chain is returned once, whatever failed.

mod batch;
pub mod beside;
mod clock;
mod completion;
mod damage;
pub mod disk;
mod extent;
mod failure;
mod finished_request;
mod intake;
mod launch;
pub mod limits;
mod memory;
pub mod message;
mod pacing;
pub mod poller;
pub mod range_lock;
mod request;
mod request_table;
mod rewrites;
mod ring_side;
mod sampler;
mod slow;
mod stages;
mod throttle;
mod transfer_buffers;
mod transfer_data;
mod vring;
pub mod wake_up_cost;
pub mod watch;
mod within_limits;

use std::sync::Arc;
use std::time::Duration;
use std::{fmt, io};

use virtio::DiskLimits;

use self::memory::WorkerMemory;
use self::pacing::Pacing;
use self::request_table::RequestTable;
use self::ring_side::RingSide;
use self::sampler::Sampler;
use self::throttle::Throttle;
use self::transfer_buffers::TransferBuffers;
use self::transfer_data::DataPath;
pub use self::vring::Vring;
use crate::device::bounce::FolioPool;
use crate::device::operation::DeviceOperation;
use crate::device::{BlockDevice, DeviceInfo, DeviceQueue, Event, EventSources};
use crate::guest::memory_table::GuestMemory;
use crate::metrics::QueueMetrics;
use crate::storage::blocking::NeverBlocks;
use crate::worker::disk::{Bounce, Disk};
use crate::worker::message::WorkerMessage;
use crate::worker::poller::Wait;

/// Serves one queue on its own thread until a message stops it.
#[derive(Debug)]
pub struct QueueWorker<B: BlockDevice> {
    disk: Arc<Disk<B>>,
    /// The properties of the device when its queue was opened.
    info: DeviceInfo,
    limits: DiskLimits,
    memory: WorkerMemory,
    device: B::Queue,
    ring: RingSide,
    buffers: TransferBuffers,
    requests: RequestTable,
    pacing: Pacing,
    throttle: Throttle,
    sampler: Sampler,
    /// The time after which a request is slow, as of this turn; none: requests are not timed.
    slow: Option<Duration>,
    /// No folio is free for the request whose turn it is.
    starved: bool,
    stopping: bool,
}

impl<B: BlockDevice> QueueWorker<B> {
    /// Sets up a worker on the calling thread, which must be the one that runs it.
    pub fn new(disk: Arc<Disk<B>>, memory: &GuestMemory, vring: Vring) -> io::Result<Self> {
        let info = disk.device.info().clone();
        let limits = disk.limits();
        let pool = FolioPool::reserve(info.metadata_per_page())?;
        let wake = disk.inboxes[vring.index].shared_wake_fd();
        let sources = EventSources { kick: vring.kick.shared(), wake };
        let device = disk.device.open_queue(pool.arena(), sources)?;
        // after the storage was taken over: an earlier owner may have lost durability
        let (durability, damage) = (disk.device.durability(), disk.device.damage());
        let info = DeviceInfo { durability, damage, ..info };
        disk.metrics[vring.index].flushes_fail.set(info.durability.flushes_fail().into());
        // A process that dies in a zero-copy read leaves a kernel that writes to guest memory until
        // the read ends. The lock of the image keeps a successor from serving until then, but the
        // lock of a read-only disk is shared.
        let bounce = match vring.inflight {
            Some(_) if disk.limits.read_only => Bounce::Always,
            _ => disk.bounce,
        };
        Ok(Self {
            memory: WorkerMemory::new(memory),
            device,
            ring: RingSide::new(vring),
            buffers: TransferBuffers::new(pool, bounce, &info),
            requests: RequestTable::default(),
            pacing: Pacing::new(disk.poll),
            throttle: Throttle::default(),
            sampler: Sampler::new(disk.events.rewrites.one_in()),
            slow: None,
            starved: false,
            stopping: false,
            disk,
            info,
            limits,
        })
    }

    /// Serves the queue. Returns it, with nothing in flight, after [`WorkerMessage::Stop`] or when
    /// memory was lost.
    ///
    /// Fails only when io_uring does. Then the requests that were popped are lost to the driver,
    /// but their ranges are released to other queues.
    pub fn run(mut self) -> io::Result<Vring> {
        self.metrics().awake.set(1);
        let served = self.serve();
        self.metrics().awake.set(0);
        self.disk.limiter.leave(self.ring.vring.index);
        match served {
            Ok(()) => Ok(self.ring.vring),
            Err(error) => {
                self.abandon();
                Err(error)
            }
        }
    }

    /// One turn after the other: accept, launch, settle, enter, reap, settle.
    fn serve(&mut self) -> io::Result<()> {
        let _marked = NeverBlocks::mark();
        self.resume();
        let mut reaped = 0;
        loop {
            self.metrics().turns.add(1);
            self.look_for_slow();
            let accepted = self.accept();
            if accepted > 0 {
                // before the work that follows from it, which takes time too
                self.pacing.poller.worked(&self.disk.metrics[self.ring.vring.index].waits);
            }
            self.launch()?;
            self.settle();
            let ends = self.finds_memory_lost() || self.stopping;
            if ends && self.requests.active.is_empty() && self.throttle.is_empty() {
                debug_assert!(self.buffers.is_whole(), "a folio was not put back");
                return Ok(());
            }
            let sleep = !self.pacing.has_more(accepted, reaped)
                && !self.can_launch()
                && !self.polls_again()
                && self.arm();
            self.enter(sleep)?;
            reaped = self.reap();
            if reaped > 0 {
                self.pacing.poller.worked(&self.disk.metrics[self.ring.vring.index].waits);
            }
            self.settle();
            self.pacing.had(accepted, reaped);
            if accepted + reaped == 0 && self.buffers.in_use() > 0 {
                self.pacing.begin_small();
            }
        }
    }

    /// Counts, publishes and releases all that was finished: neither the driver nor another queue
    /// may have to wait for it while the worker sleeps.
    fn settle(&mut self) {
        self.requests.count(&self.disk.metrics[self.ring.vring.index], &mut self.pacing.clock);
        if !self.requests.active.is_empty() {
            self.disk.watch.notify();
        }
        if let Err(error) = self.ring.publish(&self.memory) {
            self.retire(&error);
        }
        self.requests.release(&self.disk, self.ring.vring.index);
    }

    /// The only blocking call.
    fn enter(&mut self, sleep: bool) -> io::Result<()> {
        self.pacing.clock.expire();
        if !sleep {
            if self.device.has_work() {
                return self.device.enter(false);
            }
            std::hint::spin_loop();
            return Ok(());
        }
        self.metrics().awake.set(0);
        self.metrics().waits.sleeps.add(1);
        let entered = match self.throttle.rest() {
            None => self.device.enter(true),
            Some(rest) => self.device.enter_for(rest),
        };
        self.metrics().awake.set(1);
        entered?;
        self.pacing.begin_small();
        self.ring.disarm(&self.memory);
        Ok(())
    }

    /// `reap -> verify -> copy_from -> complete`. Returns how many events were taken.
    fn reap(&mut self) -> usize {
        self.take_grants();
        let mut reaped = 0;
        while !self.pacing.reaping.is_full(reaped)
            && let Some(event) = self.device.reap()
        {
            reaped += 1;
            match event {
                Event::Kick => self.ring.kicked(),
                Event::Wake => self.read_messages(),
                Event::Done(DeviceOperation::Transfer(transfer), result) => self.arrive(transfer, result),
                Event::Done(DeviceOperation::Zero { request, offset, len, .. }, result) => {
                    if result.is_ok() {
                        self.clear_damage(offset, len);
                    }
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
        for message in self.disk.inboxes[self.ring.vring.index].take() {
            match message {
                WorkerMessage::Granted(id) => self.requests.ready.push_back(id),
                WorkerMessage::Call(call) => self.ring.vring.call = call,
                WorkerMessage::Memory(memory, _) => self.memory.replace(&memory),
                WorkerMessage::LimitsChanged => {}
                WorkerMessage::LogOldest => self.log_oldest(),
                WorkerMessage::Stop => self.stopping = true,
            }
        }
    }

    /// Logs the request that was popped first, for the watchdog.
    fn log_oldest(&self) {
        let Some((_, oldest)) = self.requests.active.iter().min_by_key(|(_, active)| active.popped) else {
            return;
        };
        tracing::error!(
            queue = self.ring.vring.index,
            work = ?oldest.work,
            start = oldest.start,
            len = oldest.len,
            ms = self.pacing.clock.elapsed(oldest.popped).as_millis(),
            operations = oldest.operations(),
            waiting = oldest.is_waiting(),
            "oldest request"
        );
    }

    /// Whether a release has made a request of this queue ready that does not wait for a folio.
    fn can_launch(&self) -> bool {
        !self.starved && !self.requests.ready.is_empty()
    }

    /// Whether to look for work again rather than sleep.
    fn polls_again(&mut self) -> bool {
        if self.throttle.is_waiting() {
            return false;
        }
        let wait = self.wait();
        self.pacing.poller.poll_again(wait, &self.disk.metrics[self.ring.vring.index].waits)
    }

    /// The side that the worker waits for when there is nothing to do.
    fn wait(&self) -> Wait {
        if self.requests.active.is_empty() { Wait::Driver } else { Wait::Device }
    }

    /// Lets the driver signal again. True when the worker may sleep: nothing was made available
    /// meanwhile.
    fn arm(&mut self) -> bool {
        if self.stopping || self.ring.is_retired() || self.starved || self.throttle.is_waiting() {
            return true;
        }
        self.ring.arm(&self.memory).unwrap_or_else(|error| {
            self.retire(&error);
            true
        })
    }

    /// Gives up with io_uring: the chains are left in the driver's ring, which is dead, and the
    /// ranges are released to other queues.
    fn abandon(mut self) {
        // first, because it waits for everything in flight
        drop(self.device);
        self.disk.metrics[self.ring.vring.index].in_flight.set(0);
        self.throttle.take_held().into_iter().for_each(|held| held.request.reply.abandon());
        let RequestTable { active, released, .. } = &mut self.requests;
        released.extend(active.drain().filter_map(|active| {
            active.request.reply.abandon();
            active.ticket
        }));
        // this queue's own requests are gone
        self.disk.release(self.ring.vring.index, released.drain(..), |_| {});
    }

    /// Whether memory that the front-end shares was lost since the queue was started. Then the
    /// queue is retired, and the worker ends.
    fn finds_memory_lost(&mut self) -> bool {
        let metrics = &self.disk.metrics[self.ring.vring.index];
        self.ring.finds_memory_lost(&self.memory, metrics)
    }

    /// Gives the queue up until it is set up again. Requests that were popped are still finished.
    fn retire(&mut self, reason: &dyn fmt::Display) {
        let metrics = &self.disk.metrics[self.ring.vring.index];
        self.ring.retire(&self.memory, metrics, reason);
    }

    fn data_path(&self) -> DataPath<'_> {
        DataPath { memory: &self.memory, protection: self.info.protection.as_ref() }
    }

    fn metrics(&self) -> &QueueMetrics {
        &self.disk.metrics[self.ring.vring.index]
    }
}
