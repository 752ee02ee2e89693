//! Adaptive polling: how long a worker looks for work before it sleeps.
//!
//! Sleeping and waking costs far more than a look at the ring, so it pays to look for a while, but only when work tends to
//! come within that while. The window doubles when a sleep turns out to have been shorter than the limit and halves when
//! it passes in vain; so a busy queue polls and an idle one, or one whose device is slow, soon only sleeps.

use std::time::{Duration, Instant};

/// First window after polling was off.
const WINDOW_MIN: Duration = Duration::from_micros(4);

/// When to poll and when to sleep.
#[derive(Debug)]
pub struct Poller {
    limit: Duration,
    window: Duration,
    idle_since: Option<Instant>,
}

impl Poller {
    /// Polls for at most `limit` at a time; zero never polls.
    pub fn new(limit: Duration) -> Self {
        Self { limit, window: limit, idle_since: None }
    }

    /// There was work.
    pub fn worked(&mut self) {
        self.idle_since = None;
    }

    /// There was none: whether to look again rather than sleep.
    pub fn poll_again(&mut self) -> bool {
        if self.window.is_zero() {
            return false;
        }
        let now = Instant::now();
        let idle_since = *self.idle_since.get_or_insert(now);
        if now - idle_since < self.window {
            return true;
        }
        self.idle_since = None;
        self.window /= 2;
        if self.window < WINDOW_MIN {
            self.window = Duration::ZERO;
        }
        false
    }

    /// The worker slept for `time`.
    pub fn slept(&mut self, time: Duration) {
        if time < self.limit {
            self.window = (self.window * 2).max(WINDOW_MIN).min(self.limit);
        }
    }

    /// Whether polling is possible at all.
    pub fn is_enabled(&self) -> bool {
        !self.limit.is_zero()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zero_never_polls() {
        let mut poller = Poller::new(Duration::ZERO);
        assert!(!poller.poll_again());
        poller.slept(Duration::ZERO);
        assert!(!poller.poll_again());
    }

    #[test]
    fn polling_in_vain_ends_and_short_sleeps_bring_it_back() {
        let mut poller = Poller::new(Duration::from_micros(64));
        let mut rounds = 0;
        while !poller.window.is_zero() {
            while poller.poll_again() {}
            poller.slept(Duration::from_secs(1));
            rounds += 1;
        }
        assert_eq!(rounds, 5);
        poller.slept(Duration::from_micros(10));
        assert!(poller.poll_again());
    }
}
