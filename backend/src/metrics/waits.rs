//! The metrics of a worker's waits for work.

use super::counter::Counter;

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
