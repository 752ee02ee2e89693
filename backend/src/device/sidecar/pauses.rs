//! The times at which the log's thread does what no request waits for.

use std::time::{Duration, Instant};

/// The pauses of the log's thread.
#[derive(Debug)]
pub(super) struct Pauses {
    /// When the last pause was over.
    last: Instant,
    /// When the next region is to be verified of those that no request waits for.
    verification: Instant,
}

impl Pauses {
    pub(super) fn begin() -> Self {
        let now = Instant::now();
        Self { last: now, verification: now }
    }

    /// Whether a pause of this length is over, and the next begins.
    pub(super) fn is_over(&mut self, pause: Duration) -> bool {
        let is_over = self.last.elapsed() >= pause;
        if is_over {
            self.last = Instant::now();
        }
        is_over
    }

    /// Whether a region is to be verified now.
    pub(super) fn is_verification_due(&self) -> bool {
        self.until_verification().is_zero()
    }

    /// How long it takes until a region is to be verified.
    pub(super) fn until_verification(&self) -> Duration {
        self.verification.saturating_duration_since(Instant::now())
    }

    /// A region was verified in this time. The storage has as much time for requests before the
    /// next.
    pub(super) fn verified_for(&mut self, time: Duration) {
        self.verification = Instant::now() + time;
    }
}
