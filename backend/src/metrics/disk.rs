//! The metrics of a disk as a whole.

use super::counter::Counter;

/// Counters of the front-ends of a disk. One front-end is served at a time, so each has one writer.
#[derive(Debug, Default)]
pub struct DiskMetrics {
    /// Messages of front-ends that were refused.
    pub refused_messages: Counter,
    /// Front-ends that were served.
    pub frontends: Counter,
    /// Failures to accept or serve a front-end.
    pub failed_frontends: Counter,
}
