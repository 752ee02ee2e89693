//! The metrics of a worker's waits for work.

use super::counter::{Counter, Gauge};

/// How a worker waited for work: by polling, or asleep.
#[derive(Debug, Default)]
pub struct WaitMetrics {
    /// Times it polled until there was work.
    pub polls_with_work: Counter,
    /// Times it polled for as long as it may, or lost its processor meanwhile.
    pub polls_without: Counter,
    /// The time that it polled, in nanoseconds.
    pub polled_ns: Counter,
    /// Times it slept.
    pub sleeps: Counter,
}

/// How a queue was held back by limits.
#[derive(Debug, Default)]
pub struct ThrottleMetrics {
    /// Times popping stopped because a limit was reached.
    pub waits: Counter,
    /// The time until it continued, in nanoseconds.
    pub waited_ns: Counter,
    /// Requests that were popped and held back, because the limit for their kind was reached.
    pub held_back: Counter,
    /// Requests that are held back now.
    pub held: Gauge,
}
