//! The metrics of one queue. Its worker counts, and no code on the path reads them.

use super::counter::{Counter, Gauge};
use super::histogram::LatencyHistogram;
use super::rewrites::RewriteMetrics;
use super::ring::RingMetrics;
use super::waits::{ThrottleMetrics, WaitMetrics};

/// The state of one queue, and counters of its work since it was first started.
#[derive(Debug, Default)]
pub struct QueueMetrics {
    /// Its ring, and whether it is served.
    pub ring: RingMetrics,
    /// Seconds for which it has made no progress, as the watchdog last saw it; 0 while it does.
    pub stuck_s: Gauge,
    /// Turns that its worker has taken. It counts on while the worker is awake.
    pub turns: Counter,
    /// 1 while its worker is awake; 0 while the worker sleeps or there is none.
    pub awake: Gauge,
    /// Requests popped and not answered yet.
    pub in_flight: Gauge,
    /// Requests that have needed the device and were answered, well or not. It counts on while the
    /// queue makes progress.
    pub finished: Counter,
    /// 1 when a flush has failed, so that flushes fail until the storage is opened again.
    pub flushes_fail: Gauge,
    /// Times the queue was given up.
    pub retired: Counter,
    /// Times the worker stopped popping because no folio was free.
    pub starved: Counter,
    /// How its worker has waited for work.
    pub waits: WaitMetrics,
    /// How it was held back by limits.
    pub throttle: ThrottleMetrics,
    /// Writes whose data the guest changed meanwhile.
    pub rewrites: RewriteMetrics,
    /// Requests that have succeeded.
    pub completed: CompletedRequests,
    /// Requests that have failed.
    pub failed: FailedRequests,
}

/// Requests of one queue that have succeeded, by kind, with the time from pop to answer.
#[derive(Debug, Default)]
pub struct CompletedRequests {
    /// Read requests.
    pub reads: LatencyHistogram,
    /// Bytes read by the guest.
    pub bytes_read: Counter,
    /// Write requests.
    pub writes: LatencyHistogram,
    /// Bytes written by the guest.
    pub bytes_written: Counter,
    /// Flush requests.
    pub flushes: LatencyHistogram,
    /// Discard and write zeroes requests.
    pub zeroings: LatencyHistogram,
    /// Requests that took longer than `--slow-ms`, while that is set. They may have failed.
    pub slow: Counter,
}

/// Requests of one queue that have failed, by cause.
#[derive(Debug, Default)]
pub struct FailedRequests {
    /// Answered IOERR because the file system under the image or the sidecar, or a quota on it, is
    /// full.
    pub no_space: Counter,
    /// Answered IOERR because the device failed in another way.
    pub device_errors: Counter,
    /// Answered IOERR because PI did not match.
    pub integrity_errors: Counter,
    /// Transfers that failed because the guest changed its data while they were written. That is
    /// found only with `--bounce never`, by a device that checks what it is given.
    pub unstable_writes: Counter,
    /// Writes of a part of a block whose rest does not match. They are among `integrity_errors`.
    pub partial_writes: Counter,
    /// Refused as the driver's mistake: out of range, misaligned, a write to a read-only disk.
    pub refused: Counter,
    /// Chains that were not requests.
    pub malformed: Counter,
    /// Requests of a type that is not supported.
    pub unsupported: Counter,
}

impl QueueMetrics {
    /// Whether the queue has ever answered anything, or was in trouble.
    pub fn has_served(&self) -> bool {
        let FailedRequests { refused, malformed, unsupported, .. } = &self.failed;
        let answers = [&self.finished, &self.retired, refused, malformed, unsupported];
        answers.iter().any(|counter| counter.get() > 0) || self.ring.trouble().is_some()
    }
}
