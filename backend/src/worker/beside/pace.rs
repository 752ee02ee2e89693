//! The rate of a scrub.

use std::time::{Duration, Instant};

/// Bytes a second that a scrub reads without another rate.
pub(super) const RATE_DEFAULT: u64 = 32 << 20;

/// Without another rate, the storage has this many times as long for requests as for the scrub.
const SHARE: u32 = 9;

/// When a scrub may read on.
#[derive(Debug)]
pub(super) struct Pace {
    next: Instant,
}

impl Pace {
    pub(super) fn begin() -> Self {
        Self { next: Instant::now() }
    }

    /// `len` bytes were read in `time`, at `rate` bytes a second or by default. Time that was
    /// missed is not made up for.
    pub(super) fn read(&mut self, len: u64, time: Duration, rate: Option<u64>) {
        let now = Instant::now();
        #[expect(clippy::cast_precision_loss, reason = "a rate")]
        let seconds = len as f64 / rate.unwrap_or(RATE_DEFAULT).max(1) as f64;
        let by_rate = Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX);
        let from = self.next.max(now.checked_sub(time).unwrap_or(now));
        self.next = from.checked_add(by_rate).unwrap_or(now);
        if rate.is_none() {
            self.next = self.next.max(now + time * SHARE);
        }
    }

    /// The time until the next bytes may be read.
    pub(super) fn rest(&self) -> Duration {
        self.next.saturating_duration_since(Instant::now())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slow_device_is_left_to_the_guest_and_a_rate_is_kept() {
        let mut pace = Pace::begin();
        pace.read(1 << 20, Duration::from_secs(1), None);
        assert!((8..=9).contains(&pace.rest().as_secs()));
        let mut pace = Pace::begin();
        pace.read(100, Duration::ZERO, Some(10));
        assert!((9..=10).contains(&pace.rest().as_secs()));
        let mut pace = Pace::begin();
        pace.read(64 << 20, Duration::ZERO, None);
        assert!((1..=2).contains(&pace.rest().as_secs()));
    }
}
