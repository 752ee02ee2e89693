//! `pop -> parse -> lock range`: what the driver made available becomes requests that may begin.

use virtio::{Malformed, Request, Status};

use super::QueueWorker;
use super::failure::Failure;
use crate::device::BlockDevice;
use crate::guest::inflight_region::InflightQueue;
use crate::worker::range_lock::RangeOwner;
use crate::worker::request::Active;

impl<B: BlockDevice> QueueWorker<B> {
    /// `pop -> parse -> lock range`. How many chains were popped: none while there are some to launch.
    pub(super) fn accept(&mut self) -> usize {
        if self.stopping || self.vring.retired || self.starved || !self.ready.is_empty() {
            return 0;
        }
        let mut popped = 0;
        while !self.intake.is_full(popped) {
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
    pub(super) fn resume(&mut self) {
        if self.vring.retired {
            // they stay noted for whoever has the ring when it is set up anew
            return;
        }
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
        if self.finds_memory_lost() {
            // the chain may have been read from private memory
            match parsed {
                Ok(request) => self.answer(request, Failure::MemoryLost.status(), 0),
                Err(malformed) => malformed.complete(&mut self.vring.ring, &*self.memory),
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
                let copied = request.data.copy_from(&*self.memory, 0, &self.disk.serial[..len]);
                let copied = copied
                    .map_err(Failure::from)
                    .and_then(|()| if self.finds_memory_lost() { Err(Failure::MemoryLost) } else { Ok(()) });
                match copied {
                    Ok(()) => self.answer(request, Status::Ok, u32::try_from(len).unwrap_or(0)),
                    Err(failure) => self.answer(request, failure.status(), 0),
                }
            }
            _ => match Active::new(request, self.clock.read(), self.info.zeroing) {
                Ok(active) => self.arrived.push(self.requests.insert(active)),
                // no bytes, nothing to do
                Err(request) => self.answer(request, Status::Ok, 0),
            },
        }
    }

    /// Takes the ranges of all that arrived; those that must wait become ready by [`WorkerMessage::Granted`] or a release here.
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
                table.acquire(granules, access, RangeOwner { queue: self.vring.index, request: id });
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
}
