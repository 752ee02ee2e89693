//! A histogram of the times that requests took. It has one writer.

use super::counter::Counter;

/// Buckets for each power of two: the width of a bucket is at most a quarter of its times.
const PER_OCTAVE: u64 = 4;
/// The last bucket begins at 58 s, and has no end.
const BUCKETS: usize = 100;

/// A histogram of times, in microseconds: exact below 4, then four buckets to each power of two.
#[derive(Debug)]
pub struct LatencyHistogram {
    buckets: [Counter; BUCKETS],
    total_ns: Counter,
}

/// A part of a histogram that is not empty.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct LatencyBucket {
    /// The shortest time in it, in microseconds.
    pub from_us: u64,
    /// The end of its times, in microseconds, which are shorter; `None` for the last bucket, which
    /// has all longer times.
    pub below_us: Option<u64>,
    /// The number of times in it.
    pub count: u64,
}

impl Default for LatencyHistogram {
    fn default() -> Self {
        Self { buckets: std::array::from_fn(|_| Counter::default()), total_ns: Counter::default() }
    }
}

impl LatencyHistogram {
    /// Adds a time of `ns` nanoseconds. Only the owning worker may call it.
    pub fn add(&self, ns: u64) {
        self.buckets[bucket_of(ns / 1000)].add(1);
        self.total_ns.add(ns);
    }

    /// How many times there are, from any thread.
    pub fn count(&self) -> u64 {
        self.buckets.iter().map(Counter::get).sum()
    }

    /// The sum of all times, in microseconds.
    pub fn total_us(&self) -> u64 {
        self.total_ns.get() / 1000
    }

    /// The buckets that are not empty, shortest times first.
    pub fn buckets(&self) -> Vec<LatencyBucket> {
        let counts = self.buckets.iter().map(Counter::get).enumerate().filter(|&(_, count)| count > 0);
        let bucket = |(index, count)| LatencyBucket {
            from_us: from_us(index),
            below_us: (index + 1 < BUCKETS).then(|| from_us(index + 1)),
            count,
        };
        counts.map(bucket).collect()
    }
}

/// The bucket for a time of `us` microseconds.
#[expect(clippy::cast_possible_truncation, reason = "less than four")]
fn bucket_of(us: u64) -> usize {
    if us < PER_OCTAVE {
        return us as usize;
    }
    let octave = us.ilog2();
    let quarter = (us >> (octave - 2)) % PER_OCTAVE;
    ((octave as usize - 1) * 4 + quarter as usize).min(BUCKETS - 1)
}

/// Where a bucket begins, in microseconds.
fn from_us(index: usize) -> u64 {
    let index = index as u64;
    if index < PER_OCTAVE { index } else { (PER_OCTAVE + index % PER_OCTAVE) << (index / PER_OCTAVE - 1) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn buckets_follow_each_other_without_a_gap() {
        for index in 0..BUCKETS {
            assert_eq!(bucket_of(from_us(index)), index);
            assert_eq!(bucket_of(from_us(index + 1) - 1), index);
        }
        assert_eq!(bucket_of(u64::MAX), BUCKETS - 1);
    }

    proptest! {
        #[test]
        fn a_time_is_in_its_bucket(ns in any::<u64>()) {
            let histogram = LatencyHistogram::default();
            histogram.add(ns);
            let [bucket] = histogram.buckets()[..] else { panic!("one time, one bucket") };
            let us = ns / 1000;
            prop_assert!(bucket.from_us <= us && bucket.below_us.is_none_or(|below| us < below));
            // no wider than a quarter of what it holds
            if let Some(below) = bucket.below_us {
                prop_assert!(below - bucket.from_us <= (bucket.from_us / 4).max(1));
            }
            prop_assert_eq!((bucket.count, histogram.count(), histogram.total_us()), (1, 1, us));
        }
    }
}
