//! Adaptive polling: whether a worker looks for work for a while before it sleeps.
//!
//! Sleeping and waking costs far more than a look at the ring, so it pays to look for a while, but
//! only when work tends to come within that time. After a wait that was polled without result, the
//! next waits of its kind sleep at once: 1 of them, then 3, 7 and so on up to [`REST_MAX`], before
//! polling is tried again. So a queue whose device is slow spends little on polling, and an idle
//! queue spends nothing, as it sleeps until there is an event.
//!
//! Waits for the driver and waits for the device are judged apart: a driver may be fast and its
//! device slow.
//!
//! The time to poll depends on the cost of a wake-up on this machine, which [`limit_for`] takes.
//! The worker looks at the driver's ring for a moment in any case: a driver that has seen
//! completions often makes the next request before a thread could even fall asleep.

use std::time::{Duration, Instant};

use crate::metrics::{Counter, WaitMetrics};

/// The longest wait worth polling, as a multiple of the cost of a wake-up: polling ends a wait of
/// this length a twentieth sooner.
const WAKE_UPS: u32 = 20;
/// The least limit, whatever the cost of a wake-up: long enough for a look or two at the ring.
const LIMIT_MIN: Duration = Duration::from_micros(32);
/// The greatest limit: a disk that takes longer does not gain by polling.
const LIMIT_MAX: Duration = Duration::from_millis(1);

/// Looking for the driver's next request for this time costs no more than falling asleep and being
/// woken, in this thread's own processor time (`stableblk-bench load --depth 1` on ext4, `--poll-us
/// 0`, user and system: 24 us a request without, 21 to 23 with it).
const GLANCE: Duration = Duration::from_micros(4);

/// The most waits in a row that sleep at once after polling has found no work.
const REST_MAX: u32 = 63;

/// How long to poll where waking a thread takes `wake_up`.
pub fn limit_for(wake_up: Duration) -> Duration {
    (wake_up * WAKE_UPS).clamp(LIMIT_MIN, LIMIT_MAX)
}

/// The side that a worker waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wait {
    /// Nothing is in flight: only the driver can bring work.
    Driver = 0,
    /// Requests are in flight.
    Device = 1,
}

/// When to poll and when to sleep.
#[derive(Debug)]
pub struct Poller {
    limit: Duration,
    history: [History; 2],
    looking: Option<Looking>,
}

/// How polling went for one kind of wait.
#[derive(Debug, Default)]
struct History {
    /// Waits to sleep through before the next try.
    rest: u32,
    /// Waits to sleep through after the next try, if that finds no work.
    next_rest: u32,
}

/// A wait that is being polled.
#[derive(Debug)]
struct Looking {
    wait: Wait,
    /// `None` at the first look: most waits end before the second, and need no clock.
    since: Option<Instant>,
}

impl Poller {
    /// Polls for at most `limit` at a time. With zero it takes no more than a glance at the
    /// driver's ring.
    pub fn new(limit: Duration) -> Self {
        Self { limit, history: Default::default(), looking: None }
    }

    fn limit(&self, wait: Wait) -> Duration {
        match wait {
            Wait::Driver => self.limit.max(GLANCE),
            Wait::Device => self.limit,
        }
    }

    /// There was work.
    pub fn worked(&mut self, metrics: &WaitMetrics) {
        let Some(Looking { wait, since }) = &self.looking else {
            return;
        };
        let looked = since.map_or(Duration::ZERO, |since| since.elapsed());
        if since.is_some() && looked >= self.limit(*wait) {
            // Late for a poll: other threads had the processor meanwhile. They need it, and a
            // thread that sleeps gets it back sooner.
            return self.without_result(looked, metrics);
        }
        self.history[*wait as usize] = History::default();
        self.looking = None;
        count(&metrics.polls_with_work, looked, metrics);
    }

    /// There was no work. Whether to look again rather than sleep.
    pub fn poll_again(&mut self, wait: Wait, metrics: &WaitMetrics) -> bool {
        let Some(Looking { wait, since }) = &self.looking else {
            return !self.limit(wait).is_zero() && self.begin(wait);
        };
        let Some(since) = since else {
            self.looking = Some(Looking { wait: *wait, since: Some(Instant::now()) });
            return true;
        };
        let looked = since.elapsed();
        let is_over = looked >= self.limit(*wait);
        if is_over {
            self.without_result(looked, metrics);
        }
        !is_over
    }

    fn begin(&mut self, wait: Wait) -> bool {
        let history = &mut self.history[wait as usize];
        if history.rest > 0 {
            history.rest -= 1;
            return false;
        }
        self.looking = Some(Looking { wait, since: None });
        true
    }

    fn without_result(&mut self, looked: Duration, metrics: &WaitMetrics) {
        count(&metrics.polls_without, looked, metrics);
        if let Some(Looking { wait, .. }) = self.looking.take() {
            let history = &mut self.history[wait as usize];
            history.next_rest = (history.next_rest * 2 + 1).min(REST_MAX);
            history.rest = history.next_rest;
        }
    }
}

/// Counts a poll that took `looked`. The clock was read for it already.
fn count(polls: &Counter, looked: Duration, metrics: &WaitMetrics) {
    polls.add(1);
    metrics.polled_ns.add(u64::try_from(looked.as_nanos()).unwrap_or(u64::MAX));
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A time that no test sees pass.
    const FOR_EVER: Duration = Duration::from_secs(1 << 20);
    /// A time that has passed at the second look.
    const AT_ONCE: Duration = Duration::from_nanos(1);

    /// Whether a wait without work was polled at all.
    fn wait_without_work(poller: &mut Poller, wait: Wait) -> bool {
        let tried = poller.poll_again(wait, &WaitMetrics::default());
        while tried && poller.poll_again(wait, &WaitMetrics::default()) {}
        tried
    }

    #[test]
    fn zero_never_polls_a_device_and_glances_at_a_driver() {
        let mut poller = Poller::new(Duration::ZERO);
        for _ in 0..3 {
            assert!(!poller.poll_again(Wait::Device, &WaitMetrics::default()));
            assert!(poller.poll_again(Wait::Driver, &WaitMetrics::default()));
            poller.worked(&WaitMetrics::default());
        }
        assert!(wait_without_work(&mut poller, Wait::Driver));
        assert!(
            !wait_without_work(&mut poller, Wait::Driver),
            "after a glance without result the next wait is polled"
        );
    }

    #[test]
    fn looks_until_there_is_work() {
        let mut poller = Poller::new(FOR_EVER);
        for _ in 0..1000 {
            assert!(poller.poll_again(Wait::Device, &WaitMetrics::default()));
        }
        poller.worked(&WaitMetrics::default());
        assert!(poller.poll_again(Wait::Device, &WaitMetrics::default()));
    }

    #[test]
    fn each_try_without_result_doubles_the_rest() {
        let mut poller = Poller::new(AT_ONCE);
        let tries: Vec<_> = (0..400).filter(|_| wait_without_work(&mut poller, Wait::Device)).collect();
        assert_eq!(tries.len(), 11);
        let tries: Vec<_> = (0..6400).filter(|_| wait_without_work(&mut poller, Wait::Device)).collect();
        assert_eq!(tries.len(), 100, "one of 64");
    }

    #[test]
    fn polls_are_counted_with_their_time() {
        let (mut poller, metrics) = (Poller::new(FOR_EVER), WaitMetrics::default());
        (0..3).for_each(|_| assert!(poller.poll_again(Wait::Device, &metrics)));
        poller.worked(&metrics);
        assert_eq!((metrics.polls_with_work.get(), metrics.polls_without.get()), (1, 0));
        assert!(metrics.polled_ns.get() > 0);
        poller.worked(&metrics);
        assert_eq!(metrics.polls_with_work.get(), 1, "work without a poll");
        let (mut poller, metrics) = (Poller::new(AT_ONCE), WaitMetrics::default());
        while poller.poll_again(Wait::Device, &metrics) {}
        assert_eq!((metrics.polls_with_work.get(), metrics.polls_without.get()), (0, 1));
    }

    #[test]
    fn work_found_late_counts_as_no_result() {
        let mut poller = Poller::new(AT_ONCE);
        assert!(poller.poll_again(Wait::Device, &WaitMetrics::default()));
        poller.looking.as_mut().unwrap().since = Some(Instant::now());
        std::thread::sleep(AT_ONCE);
        poller.worked(&WaitMetrics::default());
        assert!(
            !poller.poll_again(Wait::Device, &WaitMetrics::default()),
            "polled after the processor was lost"
        );
        assert!(poller.poll_again(Wait::Device, &WaitMetrics::default()));
    }

    #[test]
    fn the_cost_of_a_wake_up_bounds_the_wait() {
        let limits = [0, 5, 25, 1000].map(|us| limit_for(Duration::from_micros(us)).as_micros());
        assert_eq!(limits, [32, 100, 500, 1000]);
    }

    #[test]
    fn one_wait_with_work_resets_the_rest() {
        let mut poller = Poller::new(AT_ONCE);
        (0..400).for_each(|_| _ = wait_without_work(&mut poller, Wait::Device));
        while !poller.poll_again(Wait::Device, &WaitMetrics::default()) {}
        poller.worked(&WaitMetrics::default());
        assert!(wait_without_work(&mut poller, Wait::Device));
        assert!(!wait_without_work(&mut poller, Wait::Device));
        assert!(wait_without_work(&mut poller, Wait::Device));
    }

    #[test]
    fn a_slow_device_does_not_stop_polling_for_a_fast_driver() {
        let mut poller = Poller::new(AT_ONCE);
        for round in 0..64 {
            assert!(poller.poll_again(Wait::Driver, &WaitMetrics::default()));
            poller.worked(&WaitMetrics::default());
            let tried = wait_without_work(&mut poller, Wait::Device);
            assert_eq!(tried, [0, 2, 6, 14, 30, 62].contains(&round), "round {round}");
            // work that ends a sleep does not count for polling
            poller.worked(&WaitMetrics::default());
        }
    }
}
