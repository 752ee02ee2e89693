//! The watchdog notices queues that make no progress. It wakes no thread while the disk is idle,
//! and never a worker: a worker that has work notifies it once. The control thread then looks from
//! time to time, until nothing was in flight at two looks.

use std::io;
use std::time::{Duration, Instant};

use crate::inbox::Inbox;
use crate::metrics::{QueueMetrics, RingTrouble};
use crate::worker::message::WorkerMessage;
use crate::worker::watch::Watch;

/// How long a ring may be empty although the driver has notified of requests.
const EMPTY_LIMIT: Duration = Duration::from_secs(2);
/// How long a turn of a worker may take where no limit was given.
const TURN_LIMIT: Duration = Duration::from_secs(10);
/// The kicks before an empty ring is suspicious: the first may come from a front-end that starts
/// the queue.
const EMPTY_KICKS: u64 = 2;

/// The counters of a queue at the last look.
#[derive(Debug)]
struct Seen {
    finished: u64,
    turns: u64,
    since: Instant,
    /// Since when the worker is in the same turn; none: it sleeps.
    turn_since: Option<Instant>,
    reported: bool,
    /// Since when the driver has notified of requests that are not in the ring.
    empty_since: Option<Instant>,
}

impl Seen {
    fn new(now: Instant) -> Self {
        Self { finished: 0, turns: 0, since: now, turn_since: None, reported: false, empty_since: None }
    }
}

/// The watchdog of the queues of a disk.
#[derive(Debug)]
pub struct Watchdog {
    /// How long a queue may make no progress; none: only empty rings are reported.
    limit: Option<Duration>,
    queues: Vec<Seen>,
    next_look: Option<Instant>,
    /// Whether nothing was in flight at the last look.
    idle: bool,
}

impl Watchdog {
    /// Reports queues on which nothing has finished for `limit` while something was in flight,
    /// workers that were blocked for as long, and rings that are always empty.
    pub fn new(limit: Option<Duration>, watch: &Watch, queues: usize) -> io::Result<Self> {
        watch.begin()?;
        let queues = std::iter::repeat_with(|| Seen::new(Instant::now())).take(queues).collect();
        Ok(Self { limit, queues, next_look: None, idle: false })
    }

    /// Starts to look, because a worker has work.
    pub fn woken(&mut self, watch: &Watch, now: Instant) {
        watch.clear();
        self.idle = false;
        if self.next_look.is_none() {
            // the time without work does not count
            for seen in &mut self.queues {
                (seen.since, seen.turn_since) = (now, None);
            }
            self.next_look = Some(now + self.interval());
        }
    }

    /// The time until the next look; none while there is nothing to watch.
    pub fn rest(&self, now: Instant) -> Option<Duration> {
        self.next_look.map(|next| next.saturating_duration_since(now))
    }

    /// A queue whose worker has been in one turn for too long at the last look. That is a fault of
    /// this process, which a restart cures; a queue that waits for its storage does not count.
    pub fn blocked_worker(&self, now: Instant) -> Option<usize> {
        let limit = self.limit.unwrap_or(TURN_LIMIT);
        self.next_look?;
        self.queues.iter().position(|seen| {
            seen.turn_since.is_some_and(|since| now.saturating_duration_since(since) >= limit)
        })
    }

    fn interval(&self) -> Duration {
        self.limit.map_or(EMPTY_LIMIT, |limit| (limit / 4).min(EMPTY_LIMIT))
    }

    /// Looks, if it is time for that. A queue that hangs is logged once, and its worker is asked
    /// for its oldest request.
    pub fn look(
        &mut self,
        watch: &Watch,
        metrics: &[QueueMetrics],
        inboxes: &[Inbox<WorkerMessage>],
        now: Instant,
    ) {
        if self.next_look.is_none_or(|next| now < next) {
            return;
        }
        let mut idle = true;
        for (index, (seen, metrics)) in self.queues.iter_mut().zip(metrics).enumerate() {
            idle &= !seen.watches_ring(index, metrics, now);
            idle &= seen.look(index, metrics, self.limit, &inboxes[index], now);
        }
        self.next_look = Some(now + self.interval());
        // Workers notify again from the first idle look on. A worker may miss that change; the
        // second look then sees its request.
        match (idle, self.idle) {
            (true, true) => self.next_look = None,
            (true, false) => watch.set_notified(false),
            (false, _) => watch.set_notified(true),
        }
        self.idle = idle;
    }
}

impl Seen {
    /// Looks at the progress of the queue. True when there is nothing to watch.
    fn look(
        &mut self,
        index: usize,
        metrics: &QueueMetrics,
        limit: Option<Duration>,
        inbox: &Inbox<WorkerMessage>,
        now: Instant,
    ) -> bool {
        let (finished, in_flight) = (metrics.finished.get(), metrics.in_flight.get());
        let (turns, awake) = (metrics.turns.get(), metrics.awake.get() > 0);
        // a worker with nothing in flight may still be in a call that should not block
        let stands = if in_flight > 0 { finished == self.finished } else { awake && turns == self.turns };
        let idle = in_flight == 0 && finished == self.finished && !awake;
        let same_turn = self.turn_since.filter(|_| turns == self.turns);
        self.turn_since = awake.then(|| same_turn.unwrap_or(now));
        self.turns = turns;
        let still = now.saturating_duration_since(self.since);
        if !stands {
            if self.reported {
                let seconds = still.as_secs();
                tracing::warn!(queue = index, seconds, "the queue makes progress again");
            }
            *self = Self { finished, turns, since: now, reported: false, ..*self };
            metrics.stuck_s.set(0);
            return idle;
        }
        if limit.is_none_or(|limit| still < limit) {
            return idle;
        }
        metrics.stuck_s.set(still.as_secs().max(1));
        if !self.reported {
            self.reported = true;
            let seconds = still.as_secs();
            if in_flight > 0 {
                tracing::error!(queue = index, in_flight, seconds, "the queue makes no progress");
                inbox.post(WorkerMessage::LogOldest);
            } else {
                tracing::error!(
                    queue = index,
                    seconds,
                    "the worker of the queue is blocked, with nothing in flight"
                );
            }
        }
        idle
    }

    /// Looks at the ring, and reports a ring that seems to be another than the driver's. True while
    /// the ring must be watched.
    fn watches_ring(&mut self, index: usize, metrics: &QueueMetrics, now: Instant) -> bool {
        if metrics.ring.empty_kicks.get() < EMPTY_KICKS || metrics.ring.trouble().is_some() {
            self.empty_since = None;
            return false;
        }
        let since = *self.empty_since.get_or_insert(now);
        if now.saturating_duration_since(since) < EMPTY_LIMIT {
            return true;
        }
        metrics.ring.trouble.set(RingTrouble::AlwaysEmpty.code());
        tracing::warn!(queue = index, "{}", RingTrouble::AlwaysEmpty.explain());
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_secs(10);

    struct Rig {
        watch: Watch,
        metrics: [QueueMetrics; 1],
        inboxes: [Inbox<WorkerMessage>; 1],
        watchdog: Watchdog,
        start: Instant,
    }

    impl Rig {
        fn new(limit: Option<Duration>) -> Self {
            let (watch, start) = (Watch::default(), Instant::now());
            let watchdog = Watchdog::new(limit, &watch, 1).unwrap();
            let mut rig = Self {
                watch,
                metrics: [QueueMetrics::default()],
                inboxes: [Inbox::new().unwrap()],
                watchdog,
                start,
            };
            rig.watchdog.woken(&rig.watch, start);
            rig
        }

        fn blocked(&self, seconds: u64) -> Option<usize> {
            self.watchdog.blocked_worker(self.start + Duration::from_secs(seconds))
        }

        /// Looks `seconds` after the start. Returns whether it will look again.
        fn look(&mut self, seconds: u64) -> bool {
            let now = self.start + Duration::from_secs(seconds);
            self.watchdog.look(&self.watch, &self.metrics, &self.inboxes, now);
            self.watchdog.rest(now).is_some()
        }
    }

    /// As a worker that blocks in a descriptor which the front-end shares.
    #[test]
    fn a_worker_that_is_blocked_with_nothing_in_flight_is_reported() {
        let mut rig = Rig::new(Some(LIMIT));
        rig.metrics[0].awake.set(1);
        rig.metrics[0].turns.add(1);
        assert!(rig.look(2));
        assert!(rig.look(8));
        assert_eq!(rig.metrics[0].stuck_s.get(), 0);
        assert!(rig.look(14), "a blocked worker is no rest");
        assert_eq!(rig.metrics[0].stuck_s.get(), 12);
        assert_eq!(rig.blocked(14), Some(0));
        rig.metrics[0].turns.add(1);
        rig.metrics[0].awake.set(0);
        rig.look(20);
        assert_eq!(rig.metrics[0].stuck_s.get(), 0);
        assert_eq!(rig.blocked(20), None);
    }

    /// A restart does not cure storage that hangs.
    #[test]
    fn a_worker_that_sleeps_while_its_storage_hangs_is_not_blocked() {
        let mut rig = Rig::new(Some(LIMIT));
        rig.metrics[0].turns.add(1);
        rig.metrics[0].in_flight.set(1);
        rig.look(2);
        rig.look(14);
        assert_eq!(rig.metrics[0].stuck_s.get(), 14);
        assert_eq!(rig.blocked(14), None);
        // and one that does not sleep is
        rig.metrics[0].awake.set(1);
        rig.look(16);
        rig.look(27);
        assert_eq!(rig.blocked(27), Some(0));
    }

    #[test]
    fn a_ring_that_is_kicked_and_always_empty_is_reported_after_two_seconds() {
        for limit in [Some(LIMIT), None] {
            let mut rig = Rig::new(limit);
            // a front-end kicks each queue that it starts
            rig.metrics[0].ring.empty_kicks.set(1);
            rig.look(2);
            rig.look(10);
            assert_eq!(rig.metrics[0].ring.trouble(), None);
            rig.metrics[0].ring.empty_kicks.set(2);
            rig.watchdog.woken(&rig.watch, rig.start + Duration::from_secs(20));
            assert!(rig.look(22));
            assert_eq!(rig.metrics[0].ring.trouble(), None);
            rig.look(24);
            assert_eq!(rig.metrics[0].ring.trouble(), Some(RingTrouble::AlwaysEmpty));
        }
    }
}
