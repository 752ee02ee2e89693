//! What each queue has done, counted. The worker of the queue counts, any thread may read.

mod counter;
mod histogram;
mod queue;
mod ring_trouble;

pub use self::counter::{Counter, Gauge};
pub use self::histogram::{Bucket, LatencyHistogram};
pub use self::queue::QueueMetrics;
pub use self::ring_trouble::RingTrouble;
