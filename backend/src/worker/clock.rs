//! The time of a worker.

use std::time::{Duration, Instant};

/// A worker's time, in nanoseconds since it was set up. It is read once for each batch of requests,
/// not once a request.
#[derive(Debug)]
pub(super) struct BatchClock {
    start: Instant,
    now: Option<u64>,
}

impl BatchClock {
    /// A clock that starts now.
    pub(super) fn new() -> Self {
        Self { start: Instant::now(), now: None }
    }

    /// Ends a batch: the next read takes a new time.
    pub(super) fn expire(&mut self) {
        self.now = None;
    }

    /// How long ago `ns` was.
    pub(super) fn elapsed(&self, ns: u64) -> Duration {
        self.start.elapsed().saturating_sub(Duration::from_nanos(ns))
    }

    /// When this batch began.
    pub(super) fn read(&mut self) -> u64 {
        let start = self.start;
        *self.now.get_or_insert_with(|| u64::try_from(start.elapsed().as_nanos()).unwrap_or(u64::MAX))
    }
}

impl Default for BatchClock {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_stands_still_within_a_batch() {
        let mut clock = BatchClock::new();
        let first = clock.read();
        let start = Instant::now();
        while start.elapsed().as_nanos() == 0 {}
        assert_eq!(clock.read(), first);
        clock.expire();
        assert!(clock.read() > first);
    }
}
