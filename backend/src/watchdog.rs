//! Notices queues that make no progress. Nobody is woken for it while the disk is idle, and no worker at all: a worker that has work says
//! so once, the control thread then looks from time to time until nothing has been in flight for two looks.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

use rustix::event::{EventfdFlags, eventfd};

use crate::inbox::{Inbox, Message};
use crate::metrics::QueueMetrics;

/// Where workers say that there is work to watch over.
#[derive(Debug)]
pub struct Watch {
    /// True also where nobody watches.
    told: AtomicBool,
    wake: OnceLock<OwnedFd>,
}

impl Default for Watch {
    fn default() -> Self {
        Self { told: AtomicBool::new(true), wake: OnceLock::new() }
    }
}

impl Watch {
    /// There is a request in flight. One load, but for the first since the watchdog rested.
    pub fn tell(&self) {
        if !self.told.load(Relaxed) {
            self.told.store(true, Relaxed);
            if let Some(wake) = self.wake.get() {
                // fails only when the counter is full, and then the watchdog has been woken
                let _ = rustix::io::write(wake, &1u64.to_ne_bytes());
            }
        }
    }
}

/// What the watchdog has seen of a queue.
#[derive(Debug)]
struct Seen {
    finished: u64,
    since: Instant,
    reported: bool,
}

/// Looks after the queues of a disk.
#[derive(Debug)]
pub struct Watchdog {
    limit: Duration,
    queues: Vec<Seen>,
    next_look: Option<Instant>,
    /// Nothing was in flight at the last look.
    idle: bool,
}

impl Watchdog {
    /// Reports queues on which nothing has finished for `limit` while something was in flight.
    pub fn new(limit: Duration, watch: &Watch, queues: usize) -> io::Result<Self> {
        let wake = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        let _ = watch.wake.set(wake);
        watch.told.store(false, Relaxed);
        let seen = || Seen { finished: 0, since: Instant::now(), reported: false };
        let queues = std::iter::repeat_with(seen).take(queues).collect();
        Ok(Self { limit, queues, next_look: None, idle: false })
    }

    /// Readable when there is work after a rest.
    pub(crate) fn wake_fd(watch: &Watch) -> Option<BorrowedFd<'_>> {
        watch.wake.get().map(AsFd::as_fd)
    }

    /// There is work to watch over.
    pub fn woken(&mut self, watch: &Watch, now: Instant) {
        if let Some(wake) = watch.wake.get() {
            let _ = rustix::io::read(wake, &mut [0; 8]);
        }
        self.idle = false;
        if self.next_look.is_none() {
            // the rest was no want of progress
            self.queues.iter_mut().for_each(|seen| seen.since = now);
            self.next_look = Some(now + self.limit / 4);
        }
    }

    /// How long until the next look; none while it rests.
    pub fn rest(&self, now: Instant) -> Option<Duration> {
        self.next_look.map(|next| next.saturating_duration_since(now))
    }

    /// Looks, if it is time for that. A queue that hangs is logged once, and its worker is asked for its oldest request.
    pub fn look(&mut self, watch: &Watch, metrics: &[QueueMetrics], inboxes: &[Inbox], now: Instant) {
        if self.next_look.is_none_or(|next| now < next) {
            return;
        }
        let mut idle = true;
        for (index, (seen, metrics)) in self.queues.iter_mut().zip(metrics).enumerate() {
            let (finished, in_flight) = (metrics.finished.get(), metrics.in_flight.get());
            let moves = in_flight == 0 || finished != seen.finished;
            idle &= in_flight == 0 && finished == seen.finished;
            let still = now.saturating_duration_since(seen.since);
            if moves {
                if seen.reported {
                    tracing::warn!(
                        queue = index,
                        seconds = still.as_secs(),
                        "the queue makes progress again"
                    );
                }
                *seen = Seen { finished, since: now, reported: false };
                metrics.stuck_s.set(0);
                continue;
            }
            if still < self.limit {
                continue;
            }
            metrics.stuck_s.set(still.as_secs().max(1));
            if !seen.reported {
                seen.reported = true;
                let seconds = still.as_secs();
                tracing::error!(queue = index, in_flight, seconds, "the queue makes no progress");
                inboxes[index].post(Message::TellOldest);
            }
        }
        self.next_look = Some(now + self.limit / 4);
        // Told anew from the first idle look on; what is missed by a worker that has not seen that yet is seen at the second.
        match (idle, self.idle) {
            (true, true) => self.next_look = None,
            (true, false) => watch.told.store(false, Relaxed),
            (false, _) => watch.told.store(true, Relaxed),
        }
        self.idle = idle;
    }
}
