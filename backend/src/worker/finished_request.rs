//! Counting requests that were done, by the kind of work.

use crate::metrics::QueueMetrics;
use crate::worker::request::Work;

/// A request that was done, to be counted.
#[derive(Debug)]
pub(super) struct FinishedRequest {
    pub(super) work: Work,
    /// In bytes.
    pub(super) len: u64,
    /// When, by the worker's clock.
    pub(super) popped: u64,
}

impl FinishedRequest {
    /// Counts it at time `now` of the worker's clock.
    pub(super) fn count(self, metrics: &QueueMetrics, now: u64) {
        let (requests, bytes) = match self.work {
            Work::Read => (&metrics.reads, Some(&metrics.bytes_read)),
            Work::Write => (&metrics.writes, Some(&metrics.bytes_written)),
            Work::Zero(_) => (&metrics.zeroings, None),
            Work::Flush => (&metrics.flushes, None),
        };
        requests.add(now - self.popped);
        if let Some(bytes) = bytes {
            bytes.add(self.len);
        }
    }
}
