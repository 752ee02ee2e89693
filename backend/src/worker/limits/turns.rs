//! Whose turn it is among the queues of a disk that wait for tokens.

use std::time::Duration;

/// How far a queue may run ahead of another that waits, in time that requests cost, in nanoseconds:
/// so far a worker does several requests at once.
const AHEAD: u64 = 2_000_000;
/// How late a worker may be before the others do not wait for it.
const LATE: Duration = Duration::from_millis(5);

/// The turns of queues: each is served for as long as the others, by the time that its requests
/// cost.
#[derive(Debug)]
pub(super) struct Turns {
    queues: Vec<Queue>,
    /// The least that any queue with chains has been served. It never falls.
    served: u64,
}

#[derive(Debug, Clone, Copy, Default)]
struct Queue {
    /// The cost of its requests, in nanoseconds. A queue that had no chains starts at the least of
    /// the others: it makes up for no time in which it wanted nothing.
    served: u64,
    /// When its worker has asked, or asks again; none while it has no chains.
    asks_at: Option<u64>,
}

impl Queue {
    /// Whether it has chains, and its worker is not late.
    fn counts(self, now: u64) -> bool {
        let late = u64::try_from(LATE.as_nanos()).unwrap_or(u64::MAX);
        self.asks_at.is_some_and(|asks_at| now <= asks_at.saturating_add(late))
    }
}

impl Turns {
    pub(super) fn new(queues: usize) -> Self {
        Self { queues: vec![Queue::default(); queues], served: 0 }
    }

    /// A queue with a chain asks.
    pub(super) fn ask(&mut self, queue: usize, now: u64) {
        let (least, queue) = (self.served, &mut self.queues[queue]);
        if queue.asks_at.is_none() {
            queue.served = queue.served.max(least);
        }
        queue.asks_at = Some(now);
    }

    /// Whether another queue with chains is behind this one.
    pub(super) fn is_others_turn(&self, queue: usize, now: u64) -> bool {
        let own = self.queues[queue].served;
        let others = self.queues.iter().enumerate().filter(|(other, _)| *other != queue);
        let counted = others.map(|(_, other)| other).filter(|other| other.counts(now));
        counted.into_iter().any(|other| other.served.saturating_add(AHEAD) < own)
    }

    /// The queue waits until `asks_at`, which is returned.
    pub(super) fn wait(&mut self, queue: usize, asks_at: u64) -> u64 {
        self.queues[queue].asks_at = Some(asks_at);
        asks_at
    }

    /// The queue has no chains, or stops.
    pub(super) fn leave(&mut self, queue: usize) {
        self.queues[queue].asks_at = None;
    }

    /// A request of the queue is served, which costs `cost`.
    pub(super) fn serve(&mut self, queue: usize, cost: u64, now: u64) {
        self.queues[queue].served = self.queues[queue].served.saturating_add(cost);
        let least = self.queues.iter().filter(|queue| queue.counts(now)).map(|queue| queue.served).min();
        self.served = self.served.max(least.unwrap_or(0));
    }

    /// The cost of the requests of the queue.
    #[cfg(test)]
    pub(super) fn served_of(&self, queue: usize) -> u64 {
        self.queues[queue].served
    }
}
