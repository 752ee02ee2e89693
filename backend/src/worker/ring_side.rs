//! The driver's side of a worker: its ring and eventfds, and the in-flight region that goes with
//! them.

use std::fmt;

use virtio::{Chain, RingError};

use super::memory::WorkerMemory;
use super::vring::Vring;
use super::watch::Watch;
use crate::guest::inflight_region::InflightQueue;
use crate::metrics::{QueueMetrics, QueueState};

/// The result of the driver's notifications so far, until the first chain was popped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kicks {
    /// There was none since the ring was last looked at.
    None,
    /// There was one, and the ring is to be looked at.
    Pending,
    /// A chain was popped.
    Served,
}

/// A queue that is being served.
#[derive(Debug)]
pub(super) struct RingSide {
    pub(super) vring: Vring,
    kicks: Kicks,
}

impl RingSide {
    pub(super) fn new(vring: Vring) -> Self {
        Self { vring, kicks: Kicks::None }
    }

    /// The next chain that the driver has made available, noted as in flight.
    #[inline]
    pub(super) fn pop(&mut self, memory: &WorkerMemory) -> Result<Option<Chain<'_>>, RingError> {
        let Vring { ring, inflight, .. } = &mut self.vring;
        let popped = ring.pop(&**memory);
        if let (Ok(Some(chain)), Some(inflight)) = (&popped, inflight) {
            inflight.popped(chain.head());
        }
        popped
    }

    /// Whether a chain may be popped: a retired ring has none for us, whatever is there.
    pub(super) fn is_retired(&self) -> bool {
        self.vring.retired
    }

    /// The driver has signalled.
    pub(super) fn kicked(&mut self) {
        if self.kicks == Kicks::None {
            self.kicks = Kicks::Pending;
        }
    }

    /// Counts kicks after which a ring was empty that never had a chain: the driver may use another
    /// ring than the one that is seen here.
    pub(super) fn count_empty_kicks(&mut self, popped: usize, metrics: &QueueMetrics, watch: &Watch) {
        if self.vring.retired {
            // nothing is popped, whatever is there
            return;
        }
        match (self.kicks, popped) {
            (Kicks::Served, _) | (Kicks::None, 0) => {}
            (Kicks::Pending, 0) => {
                metrics.ring.empty_kicks.set(metrics.ring.empty_kicks.get() + 1);
                watch.notify();
                self.kicks = Kicks::None;
            }
            (Kicks::None | Kicks::Pending, _) => {
                metrics.ring.forget_trouble();
                self.kicks = Kicks::Served;
            }
        }
    }

    /// Lets the driver signal again. True when the worker may sleep: the driver has made nothing
    /// available meanwhile.
    pub(super) fn arm(&mut self, memory: &WorkerMemory) -> Result<bool, RingError> {
        let armed = self.vring.ring.enable_notifications(&**memory);
        self.mark_used_ring();
        armed.map(|more| !more)
    }

    /// Keeps the driver from signalling while the worker is awake.
    pub(super) fn disarm(&mut self, memory: &WorkerMemory) {
        self.vring.ring.disable_notifications(&**memory);
        self.mark_used_ring();
    }

    /// Shows all completions to the driver at once, with at most one interrupt.
    pub(super) fn publish(&mut self, memory: &WorkerMemory) -> Result<(), RingError> {
        let Vring { ring, inflight, call, .. } = &mut self.vring;
        let used_idx = ring.next_used();
        if let Some(inflight) = inflight {
            inflight.publishing(ring.completed_heads());
        }
        let published = ring.publish(&**memory);
        if let Some(inflight) = inflight
            && ring.next_used() != used_idx
        {
            inflight.published(ring.next_used());
        }
        if let (Ok(true), Some(call)) = (&published, call) {
            call.signal();
        }
        self.mark_used_ring();
        published.map(drop)
    }

    fn mark_used_ring(&self) {
        if let Some(log) = &self.vring.used_log {
            log.mark();
        }
    }

    /// Whether memory that the front-end shares was lost since the queue was started. Then the
    /// queue is retired, and the worker ends.
    pub(super) fn finds_memory_lost(&mut self, memory: &WorkerMemory, metrics: &QueueMetrics) -> bool {
        if !self.vring.memory_lost && memory.has_new_losses() {
            let inflight_lost = self.vring.inflight.as_ref().is_some_and(InflightQueue::is_lost);
            self.vring.memory_lost = inflight_lost || memory.is_any_lost();
            if self.vring.memory_lost {
                self.retire(memory, metrics, &"memory that the front-end shares is lost");
            }
        }
        self.vring.memory_lost
    }

    /// Gives the queue up until it is set up again. Requests that were popped are still finished.
    pub(super) fn retire(
        &mut self,
        memory: &WorkerMemory,
        metrics: &QueueMetrics,
        reason: &dyn fmt::Display,
    ) {
        if self.vring.retired {
            return;
        }
        self.vring.retired = true;
        metrics.retired.add(1);
        metrics.ring.set_state(QueueState::Retired);
        let queue = self.vring.index;
        if self.finds_memory_lost(memory, metrics) {
            // a ring in lost memory looks broken
            tracing::error!(queue, "queue retired: memory that the front-end shares is lost");
        } else {
            tracing::error!(queue, "queue retired: {reason}");
        }
        if let Some(error) = &mut self.vring.error {
            error.signal();
        }
    }
}
