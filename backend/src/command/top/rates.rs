//! The rates of a disk, from its status at two times.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::command::disks::FoundDisk;
use crate::control::protocol::{DiskStatus, Latency};
use crate::metrics::LatencyBucket;

/// A disk as it is now, and what it has done since the time before.
#[derive(Debug)]
pub(super) struct DiskView {
    pub(super) name: String,
    /// The name of the front-end's program, if it is known.
    pub(super) guest: Option<String>,
    /// The status, or why there is none.
    pub(super) status: Result<DiskStatus, String>,
    pub(super) rates: Rates,
}

/// The work of a disk in a second.
#[derive(Debug, Clone, Default)]
pub(super) struct Rates {
    pub(super) requests: f64,
    pub(super) bytes_read: f64,
    pub(super) bytes_written: f64,
    /// The times of requests of that time, of all kinds.
    pub(super) latency: Option<Latency>,
}

/// The disks at one time.
#[derive(Debug)]
pub(super) struct Sample {
    taken: Instant,
    disks: BTreeMap<String, DiskStatus>,
}

/// Views of `found`, with rates since the sample `before`; and the sample for the next time.
pub(super) fn views(found: Vec<FoundDisk>, before: Option<&Sample>, now: Instant) -> (Vec<DiskView>, Sample) {
    let mut disks = BTreeMap::new();
    let views = found.into_iter().map(|disk| {
        let guest = disk.guest();
        let mut rates = Rates::default();
        if let Ok(status) = &disk.status {
            let earlier = before.and_then(|sample| Some((sample.disks.get(&disk.name)?, sample.taken)));
            if let Some((earlier, taken)) = earlier {
                rates = Rates::between(earlier, status, now.saturating_duration_since(taken));
            }
            disks.insert(disk.name.clone(), status.clone());
        }
        DiskView { name: disk.name, guest, status: disk.status, rates }
    });
    let views = views.collect();
    (views, Sample { taken: now, disks })
}

impl Rates {
    /// The rates between two statuses. Of a process that was restarted there are none.
    fn between(earlier: &DiskStatus, later: &DiskStatus, time: Duration) -> Self {
        if earlier.program.pid != later.program.pid || time.is_zero() {
            return Self::default();
        }
        #[expect(clippy::cast_precision_loss, reason = "a rate, to be read")]
        let rate = |count: fn(&DiskStatus) -> u64| {
            count(later).saturating_sub(count(earlier)) as f64 / time.as_secs_f64()
        };
        Self {
            requests: rate(DiskStatus::requests),
            bytes_read: rate(|disk| disk.queues.iter().map(|queue| queue.bytes_read).sum()),
            bytes_written: rate(|disk| disk.queues.iter().map(|queue| queue.bytes_written).sum()),
            latency: difference(&all(earlier), &all(later)),
        }
    }
}

/// The times of all requests of a disk.
pub(super) fn all(disk: &DiskStatus) -> Latency {
    let mut buckets: BTreeMap<u64, LatencyBucket> = BTreeMap::new();
    let mut total_us = 0_u64;
    for (_, latency) in disk.queues.iter().flat_map(|queue| queue.done.kinds()) {
        total_us = total_us.saturating_add(latency.total_us);
        for bucket in &latency.buckets {
            let sum = buckets.entry(bucket.from_us).or_insert(LatencyBucket { count: 0, ..*bucket });
            sum.count = sum.count.saturating_add(bucket.count);
        }
    }
    let count = buckets.values().fold(0, |sum: u64, bucket| sum.saturating_add(bucket.count));
    Latency { count, total_us, buckets: buckets.into_values().collect() }
}

/// The times that came between two histograms; none if none did.
fn difference(earlier: &Latency, later: &Latency) -> Option<Latency> {
    let before: BTreeMap<_, _> =
        earlier.buckets.iter().map(|bucket| (bucket.from_us, bucket.count)).collect();
    let buckets: Vec<_> = later
        .buckets
        .iter()
        .map(|bucket| {
            let earlier = before.get(&bucket.from_us).copied().unwrap_or(0);
            LatencyBucket { count: bucket.count.saturating_sub(earlier), ..*bucket }
        })
        .filter(|bucket| bucket.count > 0)
        .collect();
    let count = buckets.iter().fold(0, |sum: u64, bucket| sum.saturating_add(bucket.count));
    let total_us = later.total_us.saturating_sub(earlier.total_us);
    (count > 0).then_some(Latency { count, total_us, buckets })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_times_that_came_between_are_in_a_difference() {
        let bucket = |from_us, count| LatencyBucket { from_us, below_us: Some(from_us * 2), count };
        let earlier = Latency { count: 3, total_us: 30, buckets: vec![bucket(8, 3)] };
        let later = Latency { count: 8, total_us: 190, buckets: vec![bucket(8, 4), bucket(32, 4)] };
        let expected = Latency { count: 5, total_us: 160, buckets: vec![bucket(8, 1), bucket(32, 4)] };
        assert_eq!(difference(&earlier, &later), Some(expected));
        assert_eq!(difference(&later, &later), None);
    }
}
