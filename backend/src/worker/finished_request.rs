//! Counts requests that have succeeded, by the kind of work.

use crate::metrics::QueueMetrics;
use crate::worker::request::RequestWork;

/// A request that has succeeded, to be counted.
#[derive(Debug)]
pub(super) struct FinishedRequest {
    pub(super) work: RequestWork,
    /// Length of its data, in bytes.
    pub(super) len: u64,
    /// When it was popped, by the worker's clock, in nanoseconds.
    pub(super) popped: u64,
}

impl FinishedRequest {
    /// Counts it at time `now` of the worker's clock.
    pub(super) fn count(self, metrics: &QueueMetrics, now: u64) {
        let (requests, bytes) = match self.work {
            RequestWork::Read => (&metrics.completed.reads, Some(&metrics.completed.bytes_read)),
            RequestWork::Write => (&metrics.completed.writes, Some(&metrics.completed.bytes_written)),
            RequestWork::Zero(_) => (&metrics.completed.zeroings, None),
            RequestWork::Flush => (&metrics.completed.flushes, None),
        };
        requests.add(now - self.popped);
        if let Some(bytes) = bytes {
            bytes.add(self.len);
        }
    }
}
