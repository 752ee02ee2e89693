//! What a session knows, and its queues: started, stopped and changed.
//!
//! The session owns every queue that is stopped; a worker owns its queue while it runs and gives it back. So the session
//! never waits for a lock that a busy worker holds, and memory is taken away only while nobody uses it.

use std::sync::mpsc::RecvTimeoutError;
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};
use std::{io, thread};

use vhost::vhost_user::message::{VhostUserProtocolFeatures, VhostUserVirtioFeatures};
use vhost::vhost_user::{Error as VhostError, Result as VhostResult};
use virtio::{ConfigSpace, Features, RingAddresses, SplitRing};

use super::backend_channel::BackendChannel;
use super::notice::Notice;
use super::offer::{FRONTEND_FEATURES, Offer};
use super::patience;
use super::queue::{FrontendAddresses, Queue, Worker};
use super::refusal::refuse;
use crate::device::BlockDevice;
use crate::guest::dirty_log::UsedRingLog;
use crate::guest::inflight_region::{InflightLimits, InflightQueue, InflightRegion};
use crate::guest::memory_table::{MemoryError, MemoryTable};
use crate::guest::sigbus::{self, Loss};
use crate::inbox::Inbox;
use crate::metrics::RingTrouble;
use crate::worker::disk::Disk;
use crate::worker::message::WorkerMessage;
use crate::worker::{QueueWorker, Vring};

/// How often to look whether a worker that does not answer has died.
const DEAD_WORKER_INTERVAL: Duration = Duration::from_millis(100);

/// How long a worker may take to use memory that was added.
const MEMORY_LIMIT: Duration = Duration::from_secs(30);

/// How long a ring may lie in no shared memory before that is said: regions come one message at a time.
const UNSHARED_LIMIT: Duration = Duration::from_secs(2);

#[derive(Debug)]
pub(super) struct Session<B> {
    pub(super) disk: Arc<Disk<B>>,
    pub(super) offer: Offer,
    /// For those that this session starts.
    pub(super) inbox: Arc<Inbox<Notice>>,
    pub(super) owned: bool,
    pub(super) acked: u64,
    /// `VHOST_F_LOG_ALL` was acknowledged.
    pub(super) migrating: bool,
    pub(super) protocol_features: VhostUserProtocolFeatures,
    /// The device status field (virtio 1.2, 2.1), as the front-end set it.
    pub(super) status: u8,
    pub(super) memory: MemoryTable,
    pub(super) inflight: Option<Arc<InflightRegion>>,
    pub(super) queues: Vec<Queue>,
    /// Where the front-end takes requests of ours, if it does.
    pub(super) channel: Option<BackendChannel>,
    /// Mappings that had been lost before this session.
    pub(super) losses: u64,
    /// Since when a queue that should run has its ring in no shared memory.
    pub(super) unshared_since: Option<Instant>,
}

impl<B: BlockDevice> Session<B> {
    pub(super) fn new(disk: Arc<Disk<B>>, offer: Offer, inbox: Arc<Inbox<Notice>>) -> Self {
        let queues = disk.inboxes.iter().map(|_| Queue::default()).collect();
        let memory_slots = offer.memory_slots;
        Self {
            disk,
            offer,
            inbox,
            owned: false,
            acked: 0,
            migrating: false,
            protocol_features: VhostUserProtocolFeatures::empty(),
            status: 0,
            memory: MemoryTable::new(memory_slots),
            inflight: None,
            queues,
            channel: None,
            losses: sigbus::losses(),
            unshared_since: None,
        }
    }

    /// The configuration space as it is now.
    pub(super) fn config(&self) -> ConfigSpace {
        ConfigSpace { capacity_sectors: self.disk.capacity_sectors(), ..self.offer.config }
    }

    /// Fails when a queue cannot go on.
    pub(super) fn notice(&mut self, notice: Notice) -> VhostResult<()> {
        match notice {
            Notice::WhileStopped(work) => {
                let mut changed = false;
                let stopped = self.while_stopped(|_| {
                    changed = work();
                    Ok(())
                });
                if let (true, Some(channel)) = (changed, &self.channel) {
                    channel.config_changed();
                }
                stopped
            }
            Notice::WorkerEnded => {
                self.stop_all()?;
                Err(VhostError::BackendInternalError)
            }
        }
    }

    /// What the front-end shares and is lost, with the cause. To be asked after each use of it.
    pub(super) fn lost_memory(&mut self) -> Option<(String, Loss)> {
        if sigbus::losses() == self.losses {
            return None;
        }
        let mut regions = self.memory.losses();
        if let Some((address, loss)) = regions.next() {
            return Some((format!("the memory region at guest address {address:#x}"), loss));
        }
        let inflight = self.inflight.as_ref().and_then(|region| region.loss());
        inflight
            .map(|loss| ("the in-flight region".to_owned(), loss))
            .or_else(|| self.memory.dirty_log().loss().map(|loss| ("the dirty log".to_owned(), loss)))
    }

    /// Fails unless `feature` was negotiated.
    pub(super) fn has(&self, feature: VhostUserProtocolFeatures) -> VhostResult<()> {
        if self.protocol_features.contains(feature) {
            Ok(())
        } else {
            Err(VhostError::InactiveOperation(feature))
        }
    }

    /// `VHOST_USER_SET_STATUS`: zero resets the device, as it does for a driver.
    pub(super) fn set_status(&mut self, status: u8) -> VhostResult<()> {
        self.has(VhostUserProtocolFeatures::STATUS)?;
        if status == 0 {
            self.reset()?;
        }
        self.status = status;
        Ok(())
    }

    /// The device as it is before a driver has found it. What belongs to the front-end stays: its ownership, the memory,
    /// and what it negotiated for itself.
    pub(super) fn reset(&mut self) -> VhostResult<()> {
        self.stop_all()?;
        self.queues.iter_mut().for_each(Queue::reset);
        // its requests are done; the next driver's are in a region of their own
        self.inflight = None;
        self.acked &= FRONTEND_FEATURES.bits();
        self.disk.negotiated.set(self.acked);
        self.offer.config.writeback = true;
        self.status = 0;
        Ok(())
    }

    pub(super) fn queue(&mut self, index: u32) -> VhostResult<&mut Queue> {
        self.queues.get_mut(index as usize).ok_or(VhostError::InvalidParam)
    }

    pub(super) fn acked(&self) -> Features {
        Features::from_bits_truncate(self.acked)
    }

    /// Whether writes may be volatile until a flush (virtio 1.2, 5.2.5.2 and 5.2.6.2): as the driver set it, or else by
    /// whether it can flush at all.
    fn is_writeback(&self) -> bool {
        let acked = self.acked();
        if acked.contains(Features::CONFIG_WCE) {
            self.offer.config.writeback
        } else {
            acked.contains(Features::FLUSH)
        }
    }

    /// Starts the queue's worker if everything it needs is there.
    fn start_if_ready(&mut self, index: usize) -> VhostResult<()> {
        let Some(addresses) = self.should_run(index) else {
            return Ok(());
        };
        let Some(addresses) = self.translate(addresses) else {
            // Regions come and go one message at a time: the one with the rings may be on its way.
            return Ok(());
        };
        let mut ring = self.ring(index, addresses)?;
        let inflight = self.take_over(index, &mut ring)?;
        let used_log = self.used_log(index, &ring);
        self.disk.inboxes[index].take();
        let writethrough = !self.is_writeback();
        let queue = &mut self.queues[index];
        let Some(kick) = queue.kick.take() else {
            return Ok(());
        };
        let (call, error, retired) = (queue.call.take(), queue.error.take(), queue.retired);
        let vring = Vring {
            index,
            ring,
            kick,
            call,
            error,
            inflight,
            writethrough,
            used_log,
            retired,
            memory_lost: false,
        };
        let (disk, memory) = (self.disk.clone(), self.memory.memory().clone());
        let (started, outcome) = mpsc::sync_channel(1);
        let (running, ended) = mpsc::channel();
        let inbox = self.inbox.clone();
        self.disk.metrics[index].empty_kicks.set(0);
        self.disk.metrics[index].ring_trouble.set(0);
        let thread = thread::Builder::new().name(format!("queue{index}")).spawn(move || {
            // dropped at the end of the thread
            let _running: mpsc::Sender<()> = running;
            // the ring of a worker belongs to the thread that made it
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
        });
        let thread = thread.map_err(|error| fail("cannot start a worker thread", index, &error))?;
        let queue = &mut self.queues[index];
        if let Some(Ok(())) = patience::wait(&outcome, || format!("queue {index} has not opened its device"))
        {
            self.disk.metrics[index].ring_size.set(queue.size.into());
            tracing::debug!(queue = index, size = queue.size, next_avail = queue.next_avail, "queue started");
            queue.worker = Some(Worker { thread, ended });
            return Ok(());
        }
        let error = thread.join().ok().and_then(Result::err);
        let error = error.unwrap_or_else(|| io::Error::other("the worker panicked"));
        Err(fail("cannot start the worker", index, &error))
    }

    /// The addresses of the ring of a queue that is to run and does not, as far as what the front-end has said of it goes.
    fn should_run(&self, index: usize) -> Option<FrontendAddresses> {
        let queue = &self.queues[index];
        // Without the protocol features there is no message to enable a ring: it is enabled by its kick.
        let enabled = queue.enabled || self.acked & VhostUserVirtioFeatures::PROTOCOL_FEATURES.bits() == 0;
        let ready = enabled && queue.worker.is_none() && queue.kick.is_some() && queue.size > 0;
        queue.addresses.filter(|_| ready)
    }

    /// How long until [`Self::report_unshared_rings`] has something to report; none: it has not.
    pub(super) fn rest(&mut self) -> Option<Duration> {
        let is_unshared = |index| {
            let addresses = self.should_run(index).filter(|addresses| self.translate(*addresses).is_none());
            addresses.is_some() && self.disk.metrics[index].ring_trouble.get() == 0
        };
        if !(0..self.queues.len()).any(is_unshared) {
            self.unshared_since = None;
            return None;
        }
        let since = *self.unshared_since.get_or_insert_with(Instant::now);
        Some(UNSHARED_LIMIT.saturating_sub(since.elapsed()))
    }

    /// Says, once, that the rings of queues which should run lie in no shared memory: their guest waits for ever.
    pub(super) fn report_unshared_rings(&mut self) {
        if self.unshared_since.is_none_or(|since| since.elapsed() < UNSHARED_LIMIT) {
            return;
        }
        let mut said = false;
        for index in 0..self.queues.len() {
            let Some(addresses) = self.should_run(index) else { continue };
            let trouble = &self.disk.metrics[index].ring_trouble;
            if self.translate(addresses).is_none() && trouble.get() == 0 {
                trouble.set(RingTrouble::NotShared.code());
                if !std::mem::replace(&mut said, true) {
                    tracing::warn!(queue = index, "{}", RingTrouble::NotShared.explain());
                }
            }
        }
    }

    /// The addresses as the guest has them; `None` when they are not in any region.
    fn translate(&self, addresses: FrontendAddresses) -> Option<RingAddresses> {
        Some(RingAddresses {
            descriptor_table: self.memory.guest_address(addresses.descriptor)?,
            available_ring: self.memory.guest_address(addresses.available)?,
            used_ring: self.memory.guest_address(addresses.used)?,
        })
    }

    fn ring(&self, index: usize, addresses: RingAddresses) -> VhostResult<SplitRing> {
        let queue = &self.queues[index];
        SplitRing::new(&**self.memory.memory(), queue.size, addresses, self.acked(), queue.next_avail)
            .map_err(|error| refuse(format!("the ring of queue {index}: {error}")))
    }

    /// The queue's part of the in-flight region, if there is one; `ring` is set to where the region says it stands.
    fn take_over(&self, index: usize, ring: &mut SplitRing) -> VhostResult<Option<InflightQueue>> {
        let Some(region) = &self.inflight else {
            return Ok(None);
        };
        let queue = InflightQueue::take_over(region, index, ring.size(), ring.next_used())
            .map_err(|error| refuse(error.to_string()))?;
        if let Some(count) = queue.as_ref().and_then(InflightQueue::interrupted) {
            if count > 0 {
                tracing::info!(queue = index, count, "requests were in flight: doing them again");
            }
            // it knows better than the front-end, which saw only the rings of the one that died
            ring.start_behind(count);
        }
        Ok(queue)
    }

    pub(super) fn inflight_limits(&self) -> InflightLimits {
        InflightLimits { queues: self.queues.len(), queue_size: self.offer.queue_size_max }
    }

    fn used_log(&self, index: usize, ring: &SplitRing) -> Option<UsedRingLog> {
        let start = self.queues[index].addresses?.used_log?;
        Some(UsedRingLog::new(self.memory.dirty_log().clone(), start, ring.used_ring_len()))
    }

    /// Logs writes to guest memory from when the front-end has asked for it and handed over a log, in whichever order, until it asks
    /// for no more.
    pub(super) fn switch_log(&mut self, migrating: bool) -> VhostResult<()> {
        let log = self.memory.dirty_log();
        let on = migrating && log.has_base();
        if on != log.is_on() {
            if on {
                // memory may have been added since the log was given
                log.covers(self.memory.end()).map_err(|error| refuse(error.to_string()))?;
            }
            log.switch(on)
                .map_err(|error| refuse(format!("membarrier, which a dirty log needs: {error}")))?;
            tracing::info!("the dirty log is {}", if on { "on" } else { "off" });
        }
        self.migrating = migrating;
        Ok(())
    }

    /// A migration's switch-over: its source stops all queues while it still logs. From the reply
    /// on the disk is the destination's, until queues start here again because the migration came
    /// to nothing. Fails, which ends the session, when the disk could not be closed: the front-end
    /// must not believe that all of it is on the disk.
    pub(super) fn hand_over_if_migrated(&self) -> VhostResult<()> {
        if !self.memory.dirty_log().is_on() || self.queues.iter().any(|queue| queue.worker.is_some()) {
            return Ok(());
        }
        let (done, handed_over) = mpsc::channel();
        let device = self.disk.device.clone();
        let spawned = thread::Builder::new().name("hand over".to_owned());
        let spawned = spawned.spawn(move || done.send(device.hand_over()));
        let handed_over = match spawned {
            Ok(_) => patience::wait(&handed_over, || "the disk is not closed for its hand-over".to_owned())
                .unwrap_or_else(|| Err(io::Error::other("the hand-over panicked"))),
            Err(error) => Err(error),
        };
        handed_over.map_err(|error| {
            let error = crate::report::chain(&error);
            tracing::error!(
                "cannot close the disk before its hand-over, so the migration is refused: {error}; keep the guest here, and check its file systems"
            );
            VhostError::BackendInternalError
        })
    }

    /// Tells the queue's worker to stop, waits until it has nothing in flight, and takes the queue back.
    pub(super) fn stop(&mut self, index: usize) -> VhostResult<()> {
        self.ask_to_stop(index);
        self.take_back(index)
    }

    fn ask_to_stop(&self, index: usize) {
        if self.queues[index].worker.is_some() {
            self.disk.inboxes[index].post(WorkerMessage::Stop);
        }
    }

    fn take_back(&mut self, index: usize) -> VhostResult<()> {
        let queue = &mut self.queues[index];
        let Some(worker) = queue.worker.take() else {
            return Ok(());
        };
        let (disk, metrics) = (&self.disk, &self.disk.metrics[index]);
        patience::wait(&worker.ended, || {
            disk.inboxes[index].post(WorkerMessage::LogOldest);
            let in_flight = metrics.in_flight.get();
            format!("queue {index} has not stopped, with {in_flight} requests in flight,")
        });
        let ended = worker.thread.join();
        // also when it died: nobody serves the ring now
        self.disk.metrics[index].ring_size.set(0);
        match ended {
            Ok(Ok(vring)) => {
                queue.next_avail = vring.ring.next_avail();
                queue.retired = vring.retired;
                queue.left_at = None;
                queue.kick = Some(vring.kick);
                queue.call = vring.call;
                queue.error = vring.error;
                tracing::debug!(queue = index, next_avail = queue.next_avail, "queue stopped");
                Ok(())
            }
            Ok(Err(error)) => Err(fail("the worker died", index, &error)),
            Err(_) => Err(fail("the worker panicked", index, &"see the log above")),
        }
    }

    /// Stops all queues, all draining at the same time.
    pub(super) fn stop_all(&mut self) -> VhostResult<()> {
        (0..self.queues.len()).for_each(|index| self.ask_to_stop(index));
        let mut stopped = Ok(());
        for index in 0..self.queues.len() {
            stopped = self.take_back(index).and(stopped);
        }
        stopped
    }

    /// Makes a change for which no worker may run, and starts all that can be, whether it was made or not.
    pub(super) fn while_stopped(
        &mut self,
        change: impl FnOnce(&mut Self) -> VhostResult<()>,
    ) -> VhostResult<()> {
        self.stop_all()?;
        let changed = change(self);
        self.start_all().and(changed)
    }

    /// Starts all queues that can be.
    fn start_all(&mut self) -> VhostResult<()> {
        for index in 0..self.queues.len() {
            match self.start_if_ready(index) {
                Ok(()) => {}
                Err(VhostError::BackendInternalError) => return Err(VhostError::BackendInternalError),
                // no reason to refuse a message about all of them
                Err(error) => tracing::debug!(queue = index, "not started: {error}"),
            }
        }
        Ok(())
    }

    pub(super) fn change_memory(
        &mut self,
        change: impl FnOnce(&mut MemoryTable) -> Result<(), MemoryError>,
    ) -> VhostResult<()> {
        self.while_stopped(|session| {
            change(&mut session.memory).map_err(|error| refuse(crate::report::chain(&error)))
        })
    }

    /// Adds memory. No queue is stopped for it, and all use it when this returns: a request may lie in it from then on.
    pub(super) fn grow_memory(
        &mut self,
        change: impl FnOnce(&mut MemoryTable) -> Result<(), MemoryError>,
    ) -> VhostResult<()> {
        change(&mut self.memory).map_err(|error| refuse(crate::report::chain(&error)))?;
        let (taken, untaken) = mpsc::channel();
        for (queue, inbox) in self.queues.iter().zip(&self.disk.inboxes) {
            if queue.worker.is_some() {
                inbox.post(WorkerMessage::Memory(self.memory.memory().clone(), taken.clone()));
            }
        }
        drop(taken);
        let start = Instant::now();
        while untaken.recv_timeout(DEAD_WORKER_INTERVAL) == Err(RecvTimeoutError::Timeout) {
            for (queue, inbox) in self.queues.iter().zip(&self.disk.inboxes) {
                if queue.worker.as_ref().is_some_and(|worker| worker.thread.is_finished()) {
                    inbox.take();
                }
            }
            if start.elapsed() > MEMORY_LIMIT {
                let seconds = MEMORY_LIMIT.as_secs();
                tracing::error!("a queue has not taken the new memory over after {seconds} s");
                return Err(VhostError::BackendInternalError);
            }
        }
        self.start_all()
    }

    /// Changes one queue, which is stopped for it if it runs. If it cannot run as it is then, it stays as it was.
    pub(super) fn change_queue(&mut self, index: u32, change: impl FnOnce(&mut Queue)) -> VhostResult<()> {
        self.queue(index)?;
        let index = index as usize;
        self.stop(index)?;
        let Queue { size, addresses, next_avail, retired, enabled, .. } = self.queues[index];
        change(&mut self.queues[index]);
        let started = self.start_if_ready(index);
        if started.is_err() {
            let queue = &mut self.queues[index];
            (queue.size, queue.addresses) = (size, addresses);
            (queue.next_avail, queue.retired, queue.enabled) = (next_avail, retired, enabled);
            // one that ran before runs again; one that could not has nothing new to say
            let _ = self.start_if_ready(index);
        }
        started
    }
}

/// Logs why a queue can never be served again, and gives the error that ends the session.
fn fail(what: &str, queue: usize, error: &dyn std::fmt::Display) -> VhostError {
    tracing::error!(queue, "{what}: {error}");
    VhostError::BackendInternalError
}
