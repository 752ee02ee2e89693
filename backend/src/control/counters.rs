//! The counters of all queues, in one line of the log.

use crate::metrics::QueueMetrics;
use crate::worker::disk::Disk;

/// Logs the counters when a front-end has left.
pub(super) fn log_counters<B>(disk: &Disk<B>) {
    let sum = |counter: fn(&QueueMetrics) -> u64| disk.metrics.iter().map(counter).sum::<u64>();
    tracing::info!(
        reads = sum(|queue| queue.completed.reads.count()),
        bytes_read = sum(|queue| queue.completed.bytes_read.get()),
        writes = sum(|queue| queue.completed.writes.count()),
        bytes_written = sum(|queue| queue.completed.bytes_written.get()),
        flushes = sum(|queue| queue.completed.flushes.count()),
        integrity_errors = sum(|queue| queue.failed.integrity_errors.get()),
        unstable_writes = sum(|queue| queue.failed.unstable_writes.get()),
        zeroings = sum(|queue| queue.completed.zeroings.count()),
        no_space = sum(|queue| queue.failed.no_space.get()),
        device_errors = sum(|queue| queue.failed.device_errors.get()),
        refused = sum(|queue| queue.failed.refused.get()),
        malformed = sum(|queue| queue.failed.malformed.get()),
        retired = sum(|queue| queue.retired.get()),
        unsupported = sum(|queue| queue.failed.unsupported.get()),
        starved = sum(|queue| queue.starved.get()),
        "front-end left"
    );
}
