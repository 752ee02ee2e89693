//! Starting a queue: from its settings by the front-end to a worker that runs.

use std::io;
use std::sync::Arc;
use std::sync::mpsc::{self, Sender, SyncSender};
use std::thread;

use vhost::vhost_user::message::VhostUserVirtioFeatures;
use virtio::{RingAddresses, SplitRing};

use super::error::{SessionResult, queue_failed, refuse};
use super::notice::Notice;
use super::queue::{FrontendAddresses, Worker};
use super::state::Session;
use super::wait::wait;
use crate::device::BlockDevice;
use crate::guest::dirty_log::UsedRingLog;
use crate::guest::inflight_region::InflightQueue;
use crate::guest::memory_table::GuestMemory;
use crate::inbox::Inbox;
use crate::metrics::QueueState;
use crate::worker::disk::Disk;
use crate::worker::{QueueWorker, Vring};

impl<B: BlockDevice> Session<B> {
    /// Starts the queue's worker if everything it needs is there.
    pub(super) fn start_if_ready(&mut self, index: usize) -> SessionResult<()> {
        let Some(addresses) = self.should_run(index) else {
            return Ok(());
        };
        let Some(addresses) = self.translate(addresses) else {
            // Regions come and go one message at a time: the one with the rings may be on its way.
            return Ok(());
        };
        match self.make_vring(index, addresses)? {
            Some(vring) => self.start_worker(vring),
            None => Ok(()),
        }
    }

    /// The addresses of the ring of a queue that is to run and does not, if the front-end has set
    /// up everything else.
    pub(super) fn should_run(&self, index: usize) -> Option<FrontendAddresses> {
        let queue = &self.queues[index];
        // Without the protocol features no message enables a ring: it is enabled by its kick.
        let enabled = queue.enabled || self.acked & VhostUserVirtioFeatures::PROTOCOL_FEATURES.bits() == 0;
        let ready = enabled && queue.worker.is_none() && queue.kick.is_some() && queue.size > 0;
        // the control thread starts all queues when it has thawed the disk
        queue.addresses.filter(|_| ready && !self.disk.device.is_frozen())
    }

    /// The addresses as the guest has them; `None` when they are not in any region.
    pub(super) fn translate(&self, addresses: FrontendAddresses) -> Option<RingAddresses> {
        Some(RingAddresses {
            descriptor_table: self.memory.guest_address(addresses.descriptor)?,
            available_ring: self.memory.guest_address(addresses.available)?,
            used_ring: self.memory.guest_address(addresses.used)?,
        })
    }

    /// The ring of queue `index` and the descriptors that belong to it, for a worker; none without
    /// a kick.
    fn make_vring(&mut self, index: usize, addresses: RingAddresses) -> SessionResult<Option<Vring>> {
        let mut ring = self.ring(index, addresses)?;
        let inflight = self.take_over(index, &mut ring)?;
        let used_log = self.used_log(index, &ring);
        let writethrough = !self.is_writeback();
        let queue = &mut self.queues[index];
        let Some(kick) = queue.kick.take() else {
            return Ok(None);
        };
        Ok(Some(Vring {
            index,
            ring,
            kick,
            call: queue.call.take(),
            error: queue.error.take(),
            inflight,
            writethrough,
            used_log,
            retired: queue.retired,
            memory_lost: false,
        }))
    }

    fn ring(&self, index: usize, addresses: RingAddresses) -> SessionResult<SplitRing> {
        let queue = &self.queues[index];
        SplitRing::new(&**self.memory.memory(), queue.size, addresses, self.acked(), queue.next_avail)
            .map_err(|error| refuse(format!("the ring of queue {index}: {error}")))
    }

    /// The queue's part of the in-flight region, if there is one; `ring` is set to the place that
    /// the region has for it.
    fn take_over(&self, index: usize, ring: &mut SplitRing) -> SessionResult<Option<InflightQueue>> {
        let Some(region) = &self.inflight else {
            return Ok(None);
        };
        let queue = InflightQueue::take_over(region, index, ring.size(), ring.next_used())
            .map_err(|error| refuse(error.to_string()))?;
        if let Some(count) = queue.as_ref().and_then(InflightQueue::interrupted) {
            if count > 0 {
                tracing::info!(queue = index, count, "requests were in flight: doing them again");
            }
            // the region is right, because the front-end saw only the rings of the back-end that
            // died
            ring.start_behind(count);
        }
        Ok(queue)
    }

    fn used_log(&self, index: usize, ring: &SplitRing) -> Option<UsedRingLog> {
        let start = self.queues[index].addresses?.used_log?;
        Some(UsedRingLog::new(self.memory.dirty_log().clone(), start, ring.used_ring_len()))
    }

    /// Starts a thread that serves `vring`, and waits until it has opened its device.
    fn start_worker(&mut self, vring: Vring) -> SessionResult<()> {
        let index = vring.index;
        let started = self.try_start_worker(vring);
        if started.is_err() {
            self.disk.metrics[index].ring.set_state(QueueState::Stopped);
        }
        started
    }

    fn try_start_worker(&mut self, vring: Vring) -> SessionResult<()> {
        let index = vring.index;
        // messages to an earlier worker
        self.disk.inboxes[index].take();
        let size = self.queues[index].size;
        let ring = &self.disk.metrics[index].ring;
        ring.forget_trouble();
        ring.size.set(size.into());
        // before the worker, which may retire it
        ring.set_state(if vring.retired { QueueState::Retired } else { QueueState::Running });
        let (started, outcome) = mpsc::sync_channel(1);
        let (running, ended) = mpsc::channel();
        let start = WorkerStart {
            disk: self.disk.clone(),
            memory: self.memory.memory().clone(),
            inbox: self.inbox.clone(),
            started,
            running,
        };
        let thread = thread::Builder::new().name(format!("queue{index}")).spawn(move || start.run(vring));
        let thread = thread.map_err(|error| queue_failed("cannot start a worker thread", index, &error))?;
        let queue = &mut self.queues[index];
        if let Some(Ok(())) = wait(&outcome, || format!("queue {index} has not opened its device")) {
            tracing::debug!(queue = index, size, next_avail = queue.next_avail, "queue started");
            queue.worker = Some(Worker { thread, ended });
            return Ok(());
        }
        let error = thread.join().ok().and_then(Result::err);
        let error = error.unwrap_or_else(|| io::Error::other("the worker panicked"));
        Err(queue_failed("cannot start the worker", index, &error))
    }
}

/// The parts of a worker's thread besides its ring.
struct WorkerStart<B> {
    disk: Arc<Disk<B>>,
    memory: Arc<GuestMemory>,
    /// Where the end of the worker is posted.
    inbox: Arc<Inbox<Notice>>,
    /// Gets whether the device was opened.
    started: SyncSender<Result<(), ()>>,
    /// Dropped at the end of the thread.
    running: Sender<()>,
}

impl<B: BlockDevice> WorkerStart<B> {
    /// The thread's work. It makes the worker too, because the worker's io_uring belongs to the
    /// thread that makes it.
    fn run(self, vring: Vring) -> io::Result<Vring> {
        let Self { disk, memory, inbox, started, running: _running } = self;
        let index = vring.index;
        let worker = match QueueWorker::new(disk, &memory, vring) {
            Ok(worker) => worker,
            Err(error) => {
                let _ = started.send(Err(()));
                return Err(error);
            }
        };
        let _ = started.send(Ok(()));
        let ended = worker.run();
        if let Err(error) = &ended {
            tracing::error!(queue = index, "worker died: {error}");
        }
        if ended.as_ref().map_or(true, |vring| vring.memory_lost) {
            // this ends the session: the front-end can connect again
            inbox.post(Notice::WorkerEnded);
        }
        ended
    }
}
