//! A bucket of tokens, as one number: the time at which it is out of debt (the generic cell rate
//! algorithm). Any number of threads and processes use it without a lock.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// The most that one request costs, in nanoseconds: a minute.
const COST_MAX: u64 = 60_000_000_000;
/// A debt that cannot have come about by requests: another process has written nonsense, or the
/// machine has been started again.
const DEBT_MAX: u64 = 10 * COST_MAX;

/// The time in which `units` tokens come at a rate of `rate` a second, in nanoseconds; 0 where
/// there is no limit.
pub(super) fn cost(units: u64, rate: u64) -> u64 {
    if rate == 0 {
        return 0;
    }
    let cost = u128::from(units) * 1_000_000_000 / u128::from(rate);
    u64::try_from(cost).unwrap_or(u64::MAX).min(COST_MAX)
}

/// A bucket: the time at which it is out of debt, in nanoseconds.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bucket<'a>(pub(super) &'a AtomicU64);

impl Bucket<'_> {
    /// When the bucket is out of debt: at or before `now` if it has tokens.
    pub(super) fn ready_at(self, now: u64) -> u64 {
        plausible(self.0.load(Relaxed), now)
    }

    /// Takes tokens that come in `cost` nanoseconds. The bucket has saved at most those that came
    /// in `burst`.
    pub(super) fn take(self, cost: u64, burst: u64, now: u64) {
        let after = |ready| plausible(ready, now).max(now.saturating_sub(burst)).saturating_add(cost);
        let _ = self.0.fetch_update(Relaxed, Relaxed, |ready| Some(after(ready)));
    }
}

fn plausible(ready: u64, now: u64) -> u64 {
    if ready.saturating_sub(now) > DEBT_MAX { now } else { ready }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    #[test]
    fn a_bucket_gives_its_burst_and_then_its_rate() {
        let (word, start) = (AtomicU64::new(0), 1000 * SECOND);
        let bucket = Bucket(&word);
        let each = cost(1, 10);
        let mut now = start;
        let mut taken_at = Vec::new();
        while taken_at.len() < 25 {
            if bucket.ready_at(now) <= now {
                bucket.take(each, SECOND, now);
                taken_at.push(now - start);
            } else {
                now += SECOND / 100;
            }
        }
        // ten that were saved, and one more to be out of tokens
        assert_eq!(taken_at[10], 0);
        assert_eq!(taken_at[11..15], [SECOND / 10, SECOND / 5, 3 * SECOND / 10, 2 * SECOND / 5]);
    }

    #[test]
    fn nonsense_in_a_bucket_is_no_debt() {
        let word = AtomicU64::new(u64::MAX);
        assert_eq!(Bucket(&word).ready_at(5), 5);
        Bucket(&word).take(7, 0, 5);
        assert_eq!(word.load(Relaxed), 12);
    }

    #[test]
    fn no_request_costs_more_than_a_minute() {
        assert_eq!(cost(u64::MAX, 1), COST_MAX);
        assert_eq!(cost(1 << 20, 0), 0);
        assert_eq!(cost(500, 1000), SECOND / 2);
    }
}
