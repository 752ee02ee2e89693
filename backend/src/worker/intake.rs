//! `pop -> parse -> lock range`: chains that the driver made available become requests.

use virtio::{Malformed, Operation, Request, Status};

use super::QueueWorker;
use super::failure::Failure;
use crate::device::BlockDevice;
use crate::guest::inflight_region::InflightQueue;
use crate::worker::request::ActiveRequest;
use crate::worker::stages::Stages;

impl<B: BlockDevice> QueueWorker<B> {
    /// `pop -> parse -> lock range`. Returns how many chains were popped: none while there are
    /// requests to launch.
    pub(super) fn accept(&mut self) -> usize {
        self.apply_limits();
        let popped = self.pop_batch();
        if !self.throttle.is_waiting() {
            let metrics = &self.disk.metrics[self.ring.vring.index];
            self.ring.count_empty_kicks(popped, metrics, &self.disk.watch);
        }
        popped
    }

    fn pop_batch(&mut self) -> usize {
        if self.stopping || self.ring.is_retired() || self.starved || !self.requests.ready.is_empty() {
            return 0;
        }
        let mut popped = 0;
        while !self.pacing.intake.is_full(popped) && self.may_pop() {
            match self.ring.pop(&self.memory) {
                Ok(None) => break,
                Ok(Some(chain)) => {
                    popped += 1;
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

    /// Takes up the chains that a predecessor which died had popped and not returned, in that
    /// order. Its I/O has ended: until then it had the image locked.
    pub(super) fn resume(&mut self) {
        if self.ring.is_retired() {
            // they stay noted for the next owner, after the ring is set up again
            return;
        }
        let interrupted = self.ring.vring.inflight.as_mut().map(InflightQueue::take_interrupted);
        for head in interrupted.unwrap_or_default() {
            match self.ring.vring.ring.resume(&*self.memory, head) {
                Ok(chain) => {
                    let parsed = Request::parse(&*self.memory, chain);
                    self.take(parsed);
                }
                Err(error) => self.retire(&error),
            }
        }
        self.lock_ranges();
    }

    /// Takes a popped chain in. False when that made the worker give the queue up.
    fn take(&mut self, parsed: Result<Request, Malformed>) -> bool {
        if self.finds_memory_lost() {
            // the chain may have been read from private memory
            match parsed {
                Ok(request) => self.answer(request, Failure::MemoryLost.status(), 0),
                Err(malformed) => malformed.complete(&mut self.ring.vring.ring, &*self.memory),
            }
            return false;
        }
        match parsed {
            Ok(request) => {
                self.admit(request);
                true
            }
            Err(malformed) => self.refuse(malformed),
        }
    }

    /// Returns a chain that is not a request. False when it has no place for a status: then the
    /// driver cannot learn what became of it, so the queue is given up.
    fn refuse(&mut self, malformed: Malformed) -> bool {
        if self.metrics().failed.malformed.add_logged() {
            tracing::warn!(queue = self.ring.vring.index, "malformed request: {}", malformed.reason());
        }
        let answerable = matches!(malformed, Malformed::Answerable { .. });
        let reason = malformed.reason();
        malformed.complete(&mut self.ring.vring.ring, &*self.memory);
        if !answerable {
            self.retire(&reason);
        }
        answerable
    }

    /// Answers a request that needs no device, and takes in the others.
    fn admit(&mut self, request: Request) {
        if let Err(status) = request.check(&self.limits) {
            let metrics = self.metrics();
            let counter =
                if status == Status::Unsupp { &metrics.failed.unsupported } else { &metrics.failed.refused };
            if counter.add_logged() {
                let (queue, operation) = (self.ring.vring.index, &request.operation);
                tracing::warn!(queue, ?operation, len = request.data.len(), ?status, "request refused");
            }
            return self.answer(request, status, 0);
        }
        if request.operation == Operation::GetId {
            return self.answer_id(request);
        }
        match ActiveRequest::new(request, self.pacing.clock.read(), self.info.zeroing) {
            Ok(mut active) => {
                active.stages = self.slow.map(|_| Box::new(Stages::begin()));
                self.take_in(active);
            }
            // it has no bytes, so there is nothing to do
            Err(request) => self.answer(request, Status::Ok, 0),
        }
    }

    fn answer_id(&mut self, request: Request) {
        let len = self.disk.serial.len().min(usize::try_from(request.data.len()).unwrap_or(usize::MAX));
        let copied = request.data.copy_from(&*self.memory, 0, &self.disk.serial[..len]);
        let copied = copied
            .map_err(Failure::from)
            .and_then(|()| if self.finds_memory_lost() { Err(Failure::MemoryLost) } else { Ok(()) });
        match copied {
            Ok(()) => self.answer(request, Status::Ok, u32::try_from(len).unwrap_or(0)),
            Err(failure) => self.answer(request, failure.status(), 0),
        }
    }

    /// Takes the ranges of all requests that arrived. Those that must wait become ready by
    /// [`WorkerMessage::Granted`](super::message::WorkerMessage::Granted), or by a release here.
    pub(super) fn lock_ranges(&mut self) {
        if self.needs_locks() {
            let (queue, shift) = (self.ring.vring.index, self.info.granule.ilog2());
            self.requests.lock_ranges(&self.disk, queue, shift);
        } else {
            self.requests.skip_locks();
        }
    }

    /// Data and tuples are two writes, and a partial write is a read and a write: both need the
    /// granule alone.
    fn needs_locks(&self) -> bool {
        self.info.protection.is_some() || self.info.granule > self.limits.block_size as usize
    }
}
