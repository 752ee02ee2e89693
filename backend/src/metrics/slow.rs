//! Requests that took long, with their stages.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// The number of requests that are kept.
const KEPT: usize = 10;

/// A request that took long.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SlowRequest {
    /// The queue.
    pub queue: usize,
    /// The work: `read`, `write`, `flush` or `zeroing`.
    pub kind: String,
    /// Where it starts on the disk, in bytes.
    pub offset: u64,
    /// Its length, in bytes.
    pub len: u64,
    /// Whether it has succeeded.
    pub succeeded: bool,
    /// When it was answered, in milliseconds since 1970.
    pub ended_unix_ms: u64,
    /// The time from its pop to its answer, in microseconds.
    pub total_us: u64,
    /// When it reached each stage.
    pub stages: SlowStages,
}

/// The stages of a request, in microseconds from its pop on; null for a stage that it did not have.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SlowStages {
    /// Its range of the disk was held, and its turn came.
    pub range_us: Option<u64>,
    /// Its first part had a folio.
    pub folio_us: Option<u64>,
    /// The tag intent log gave its last part leave to change blocks.
    pub log_us: Option<u64>,
    /// Its last part was given to the device.
    pub submitted_us: Option<u64>,
    /// Its last part came back from the device.
    pub completed_us: Option<u64>,
}

/// The slowest requests of a disk, over all queues, and from when on a request is slow.
#[derive(Debug, Default)]
pub struct SlowRequests {
    /// In milliseconds; 0 while no request is.
    limit_ms: AtomicU64,
    slowest: Mutex<Vec<SlowRequest>>,
}

impl SlowRequests {
    /// From when on a request is slow; none: requests are not timed.
    pub fn limit(&self) -> Option<Duration> {
        let limit = self.limit_ms.load(Relaxed);
        (limit > 0).then(|| Duration::from_millis(limit))
    }

    /// Sets another limit, in milliseconds, or none with 0. Forgets the slowest requests.
    pub fn set_limit(&self, ms: u64) {
        self.limit_ms.store(ms, Relaxed);
        self.list().clear();
    }

    /// Keeps `request` if it is one of the slowest.
    pub fn note(&self, request: SlowRequest) {
        let mut slowest = self.list();
        let place = slowest.partition_point(|slower| slower.total_us >= request.total_us);
        if place < KEPT {
            slowest.truncate(KEPT - 1);
            slowest.insert(place, request);
        }
    }

    /// The slowest requests, those that took longest first.
    pub fn slowest(&self) -> Vec<SlowRequest> {
        self.list().clone()
    }

    fn list(&self) -> MutexGuard<'_, Vec<SlowRequest>> {
        self.slowest.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ten_slowest_are_kept_in_order() {
        let slow = SlowRequests::default();
        assert_eq!(slow.limit(), None);
        for total_us in [5, 20, 3, 17, 11, 2, 19, 13, 7, 1, 15, 9, 20, 4] {
            slow.note(SlowRequest {
                queue: 0,
                kind: "read".to_owned(),
                offset: 0,
                len: 512,
                succeeded: true,
                ended_unix_ms: 0,
                total_us,
                stages: SlowStages::default(),
            });
        }
        let times: Vec<_> = slow.slowest().iter().map(|request| request.total_us).collect();
        assert_eq!(times, [20, 20, 19, 17, 15, 13, 11, 9, 7, 5]);
        slow.set_limit(3);
        assert_eq!((slow.limit(), slow.slowest()), (Some(Duration::from_millis(3)), Vec::new()));
    }
}
