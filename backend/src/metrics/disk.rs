//! The metrics of a disk as a whole.

use super::counter::Counter;
use super::rewrites::Rewrites;
use super::slow::SlowRequests;

/// Metrics of a disk over all queues. One front-end is served at a time, so each counter has one
/// writer.
#[derive(Debug, Default)]
pub struct DiskMetrics {
    /// Messages of front-ends that were refused.
    pub refused_messages: Counter,
    /// Front-ends that were served.
    pub frontends: Counter,
    /// Failures to accept or serve a front-end.
    pub failed_frontends: Counter,
    /// Where the guest changes data while it is being written.
    pub rewrites: Rewrites,
    /// Requests that took long.
    pub slow: SlowRequests,
}
