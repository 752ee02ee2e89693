//! Writes whose data the guest changed while they were in progress.

use std::ops::RangeInclusive;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::counter::Counter;

/// One in this number of writes is looked at, unless another is chosen.
pub const ONE_IN_DEFAULT: u32 = 512;
/// The most ranges that are kept.
const RANGES_MAX: usize = 64;
/// The least time between two lines in the log.
const LOG_INTERVAL: Duration = Duration::from_secs(24 * 3600);

/// The counters of one queue.
#[derive(Debug, Default)]
pub struct RewriteMetrics {
    /// Writes whose data was looked at again when they had completed.
    pub checked: Counter,
    /// Those whose data the guest had changed meanwhile.
    pub found: Counter,
}

/// Where a guest changes data that is being written, over all queues of a disk.
#[derive(Debug)]
pub struct Rewrites {
    one_in: AtomicU32,
    found: Mutex<Found>,
}

#[derive(Debug, Default)]
struct Found {
    /// In order, and apart from each other.
    ranges: Vec<RangeInclusive<u64>>,
    logged: Option<Instant>,
}

impl Default for Rewrites {
    fn default() -> Self {
        Self { one_in: AtomicU32::new(ONE_IN_DEFAULT), found: Mutex::default() }
    }
}

impl Rewrites {
    /// One in this number of writes is looked at; 0: none.
    pub fn one_in(&self) -> u32 {
        self.one_in.load(Relaxed)
    }

    /// Looks at one in `one_in` writes; at none with 0. Queues that start later follow it.
    pub fn set_one_in(&self, one_in: u32) {
        self.one_in.store(one_in, Relaxed);
    }

    /// Notes that the blocks `lbas` were changed while they were written. Returns whether that
    /// should be logged: once a day.
    pub fn note(&self, lbas: RangeInclusive<u64>) -> bool {
        let mut found = self.found();
        insert(&mut found.ranges, lbas);
        let is_due = found.logged.is_none_or(|logged| logged.elapsed() >= LOG_INTERVAL);
        if is_due {
            found.logged = Some(Instant::now());
        }
        is_due
    }

    /// The blocks that were changed, in at most 64 ranges: of more, those next to each other are
    /// joined, with the blocks between them.
    pub fn ranges(&self) -> Vec<RangeInclusive<u64>> {
        self.found().ranges.clone()
    }

    fn found(&self) -> MutexGuard<'_, Found> {
        self.found.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn insert(ranges: &mut Vec<RangeInclusive<u64>>, new: RangeInclusive<u64>) {
    let first = ranges.partition_point(|range| range.end().saturating_add(1) < *new.start());
    let end = ranges.partition_point(|range| *range.start() <= new.end().saturating_add(1));
    let touched = ranges[first..end.max(first)].iter();
    let whole =
        touched.fold(new, |whole, range| *whole.start().min(range.start())..=*whole.end().max(range.end()));
    ranges.splice(first..end.max(first), [whole]);
    if ranges.len() > RANGES_MAX {
        let gap = |at: &usize| ranges[at + 1].start() - ranges[*at].end();
        let at = (0..ranges.len() - 1).min_by_key(gap).unwrap_or(0);
        let joined = *ranges[at].start()..=*ranges[at + 1].end();
        ranges.splice(at..=at + 1, [joined]);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn it_is_logged_once() {
        let rewrites = Rewrites::default();
        assert!(rewrites.note(5..=6));
        assert!(!rewrites.note(9..=9));
        rewrites.note(7..=8);
        assert_eq!(rewrites.ranges(), [5..=9]);
    }

    proptest! {
        #[test]
        fn ranges_are_few_in_order_and_have_each_block(
            notes in prop::collection::vec((0u64..100_000, 0u64..20), 1..400)
        ) {
            let rewrites = Rewrites::default();
            for (start, len) in &notes {
                rewrites.note(*start..=start + len);
            }
            let ranges = rewrites.ranges();
            prop_assert!(ranges.len() <= RANGES_MAX);
            prop_assert!(ranges.iter().zip(&ranges[1..]).all(|(one, next)| one.end() + 1 < *next.start()));
            for (start, len) in notes {
                prop_assert!(ranges.iter().any(|range| range.contains(&start) && range.contains(&(start + len))));
            }
        }
    }
}
