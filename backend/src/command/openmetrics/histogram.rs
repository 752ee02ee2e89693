//! Histograms with fixed bounds, as Prometheus adds them up over disks.

use std::time::Duration;

use crate::control::protocol::Latency;

/// The least bound is 2 to this, in microseconds: 8.
const FIRST: u32 = 3;
/// The greatest is 2 to this, in microseconds: 33.6 s.
const LAST: u32 = 25;
const BOUNDS: usize = (LAST - FIRST + 1) as usize;

/// A histogram whose bounds are the powers of two from 8 us to 33.6 s. They are bounds of the
/// status's finer buckets, so no time is counted in a wrong one.
#[derive(Debug, Default)]
pub(super) struct Buckets {
    counts: [u64; BOUNDS + 1],
    total_us: u64,
}

impl Buckets {
    /// The sum of `latencies`.
    pub(super) fn of<'a>(latencies: impl IntoIterator<Item = &'a Latency>) -> Self {
        let mut sum = Self::default();
        for latency in latencies {
            sum.total_us = sum.total_us.saturating_add(latency.total_us);
            for bucket in &latency.buckets {
                let place = bucket.below_us.map_or(BOUNDS, place_of);
                sum.counts[place] = sum.counts[place].saturating_add(bucket.count);
            }
        }
        sum
    }

    /// The sum of all times.
    pub(super) fn seconds(&self) -> f64 {
        Duration::from_micros(self.total_us).as_secs_f64()
    }

    /// The number of times.
    pub(super) fn count(&self) -> u64 {
        self.counts.iter().fold(0, |sum: u64, count| sum.saturating_add(*count))
    }

    /// Each bound in seconds, with the number of times between it and the one before.
    pub(super) fn bounds(&self) -> Vec<(f64, u64)> {
        let bounds = (FIRST..=LAST).map(|power| Duration::from_micros(1 << power).as_secs_f64());
        bounds.chain([f64::INFINITY]).zip(self.counts).collect()
    }
}

/// The place of the least bound that is at least `us`; that of infinity if none is.
fn place_of(us: u64) -> usize {
    (FIRST..=LAST).position(|power| us <= 1 << power).unwrap_or(BOUNDS)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::LatencyHistogram;

    #[test]
    fn every_time_is_in_the_bucket_of_its_power_of_two() {
        let times_us = [0, 7, 8, 15, 16, 1000, 1023, 1024, 33_000_000, 34_000_000, 90_000_000];
        let histogram = LatencyHistogram::default();
        for us in times_us {
            histogram.add(us * 1000);
        }
        let latency = Latency { count: 11, total_us: histogram.total_us(), buckets: histogram.buckets() };
        let buckets = Buckets::of([&latency, &latency]);
        assert_eq!(buckets.count(), 22);
        let below = |seconds: f64| -> u64 {
            buckets.bounds().iter().filter(|(bound, _)| *bound <= seconds).map(|(_, count)| count).sum()
        };
        for (seconds, count) in
            [(0.000_008, 2), (0.000_016, 4), (0.000_032, 5), (0.001_024, 7), (34.0, 9), (1e9, 9)]
        {
            assert_eq!(below(seconds), 2 * count, "up to {seconds}");
        }
        assert_eq!(below(f64::INFINITY), 22);
    }
}
