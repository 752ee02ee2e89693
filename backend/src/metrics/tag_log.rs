//! The metrics of the tag intent log and of the tuples in memory.

use super::counter::{Counter, Gauge};
use super::histogram::LatencyHistogram;

/// The metrics of a sidecar since it was opened. Each has one writer at a time: the log's thread,
/// or the holder of the log's lock.
#[derive(Debug, Default)]
pub struct TagLogMetrics {
    /// The size of the log, in bytes.
    pub bytes: Gauge,
    /// The part of the log that counts, in bytes.
    pub used_bytes: Gauge,
    /// Commits of the log that succeeded, with their times.
    pub commits: LatencyHistogram,
    /// Checkpoints that succeeded, with their times.
    pub checkpoints: LatencyHistogram,
    /// Failures of the log's thread.
    pub failures: Counter,
    /// Sectors of the tuple array that were found damaged.
    pub damaged_sectors: Counter,
    /// The memory for tuples, in bytes.
    pub cache_bytes: Gauge,
    /// The part of that memory that is in use, in bytes.
    pub cache_used_bytes: Gauge,
    /// Reads whose tuples were in memory.
    pub cache_hits: Counter,
    /// Reads for which tuples had to be read too.
    pub cache_misses: Counter,
}
