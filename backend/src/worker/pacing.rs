//! How much a worker does at a time, and how long it polls before it sleeps.

use std::time::Duration;

use super::batch::Batch;
use super::clock::BatchClock;
use super::poller::Poller;

/// The polling, the clock and the batches of a worker.
#[derive(Debug)]
pub(super) struct Pacing {
    pub(super) poller: Poller,
    pub(super) clock: BatchClock,
    /// How many chains to pop in a turn.
    pub(super) intake: Batch,
    /// How many events to take from the device in a turn.
    pub(super) reaping: Batch,
}

impl Pacing {
    /// That of a worker which polls for at most `poll` before it sleeps.
    pub(super) fn new(poll: Duration) -> Self {
        Self {
            poller: Poller::new(poll),
            clock: BatchClock::new(),
            intake: Batch::default(),
            reaping: Batch::default(),
        }
    }

    /// The worker has waited for the device, which is idle now or will be soon.
    pub(super) fn begin_small(&mut self) {
        self.intake = Batch::FIRST;
        self.reaping = Batch::FIRST;
    }

    /// Whether a batch of chains, or of events, was full, so that there may be more.
    pub(super) fn has_more(&self, accepted: usize, reaped: usize) -> bool {
        self.intake.is_full(accepted) || self.reaping.is_full(reaped)
    }

    /// A turn has popped `accepted` chains and taken `reaped` events.
    pub(super) fn had(&mut self, accepted: usize, reaped: usize) {
        self.intake.had(accepted);
        self.reaping.had(reaped);
    }
}
