//! Counters of what each queue has done. The worker of the queue counts, and any thread may read
//! them.

mod counter;
mod disk;
mod histogram;
mod queue;
mod rewrites;
mod ring;
mod ring_trouble;
mod slow;
mod tag_log;
mod waits;

pub use self::counter::{Counter, Gauge};
pub use self::disk::DiskMetrics;
pub use self::histogram::{LatencyBucket, LatencyHistogram};
pub use self::queue::{CompletedRequests, FailedRequests, QueueMetrics};
pub use self::rewrites::{ONE_IN_DEFAULT, RewriteMetrics, Rewrites};
pub use self::ring::{QueueState, RingMetrics};
pub use self::ring_trouble::RingTrouble;
pub use self::slow::{SlowRequest, SlowRequests, SlowStages};
pub use self::tag_log::TagLogMetrics;
pub use self::waits::{ThrottleMetrics, WaitMetrics};
