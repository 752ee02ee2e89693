//! The place where work beside the queues is known to the disk: its inboxes, and whether it may use
//! the device.

use std::io;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use thiserror::Error;

use crate::inbox::Inbox;
use crate::worker::message::WorkerMessage;

/// A kind of work, each of which has one thread at most.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Task {
    /// The scrub.
    Scrub,
    /// Blocks that are accepted.
    Accept,
}

/// The tasks.
const TASKS: usize = 2;

/// How long work beside the queues may take to leave the device: the time of one transfer.
pub const LEAVE_LIMIT: Duration = Duration::from_secs(30);

/// The device was not given back in time.
#[derive(Debug, Error)]
#[error("a scrub, or blocks that are accepted, still wait for the storage after {0} s")]
pub struct StillBusy(u64);

impl From<StillBusy> for io::Error {
    fn from(busy: StillBusy) -> Self {
        Self::new(io::ErrorKind::TimedOut, busy)
    }
}

/// The work beside the queues of a disk.
#[derive(Debug)]
pub struct Beside {
    state: Mutex<State>,
    /// Notified at each change of the state.
    changed: Condvar,
    inboxes: [Inbox<WorkerMessage>; TASKS],
}

#[derive(Debug, Default)]
struct State {
    /// Tasks that use the device.
    inside: usize,
    /// How often the device is needed alone.
    closed: usize,
    /// How far the scrub has come since it was begun or continued, while it has a thread.
    scrub: Option<Progress>,
}

/// The progress of a scrub since a time.
#[derive(Debug, Clone, Copy)]
pub(super) struct Progress {
    since: Instant,
    bytes: u64,
}

/// While it lives, the device is used by a task.
#[derive(Debug)]
pub(super) struct Inside<'a>(&'a Beside);

/// While it lives, no task uses the device.
#[derive(Debug)]
#[must_use]
pub struct Closed<'a>(&'a Beside);

impl Beside {
    /// No work so far.
    pub fn new() -> io::Result<Self> {
        Ok(Self { state: Mutex::default(), changed: Condvar::new(), inboxes: [Inbox::new()?, Inbox::new()?] })
    }

    /// The inbox of the task with this number.
    pub(in crate::worker) fn inbox(&self, task: usize) -> &Inbox<WorkerMessage> {
        &self.inboxes[task]
    }

    /// Keeps tasks away from the device until the result is dropped. Fails when one still waits for
    /// the storage after `limit`.
    pub fn close(&self, limit: Duration) -> Result<Closed<'_>, StillBusy> {
        let mut state = self.lock();
        state.closed += 1;
        self.changed.notify_all();
        if state.inside > 0 {
            // one may wait for a range
            self.inboxes.iter().for_each(|inbox| inbox.post(WorkerMessage::Stop));
        }
        let waited = self.changed.wait_timeout_while(state, limit, |state| state.inside > 0);
        let (state, waited) = waited.unwrap_or_else(PoisonError::into_inner);
        let is_busy = waited.timed_out() && state.inside > 0;
        drop(state);
        let closed = Closed(self);
        if is_busy { Err(StillBusy(limit.as_secs())) } else { Ok(closed) }
    }

    /// Begins to use the device; `None` while it is needed alone.
    pub(super) fn enter(&self) -> Option<Inside<'_>> {
        let mut state = self.lock();
        if state.closed > 0 {
            return None;
        }
        state.inside += 1;
        Some(Inside(self))
    }

    /// Whether the device is needed alone, so that tasks must leave it.
    pub(super) fn is_closed(&self) -> bool {
        self.lock().closed > 0
    }

    /// Sleeps for `time`, or until something has changed. Returns at once where something is to be
    /// done now.
    pub(super) fn rest(&self, time: Duration, is_wanted: impl Fn() -> bool) {
        let state = self.lock();
        if state.closed > 0 && state.inside > 0 || is_wanted() {
            return;
        }
        drop(self.changed.wait_timeout(state, time));
    }

    /// Wakes a task that rests.
    pub(super) fn wake(&self) {
        drop(self.lock());
        self.changed.notify_all();
    }

    /// Notes that the scrub gets a thread. False: it has one.
    pub(super) fn begin_scrub(&self) -> bool {
        let mut state = self.lock();
        let is_new = state.scrub.is_none();
        if is_new {
            state.scrub = Some(Progress { since: Instant::now(), bytes: 0 });
        }
        is_new
    }

    /// Notes that the scrub's thread ends, unless the scrub is `wanted` again by now. Whether it
    /// ends.
    pub(super) fn end_scrub(&self, is_wanted: impl FnOnce() -> bool) -> bool {
        let mut state = self.lock();
        if is_wanted() {
            return false;
        }
        state.scrub = None;
        true
    }

    /// Notes that the scrub has come further.
    pub(super) fn advance_scrub(&self, bytes: u64) {
        if let Some(progress) = &mut self.lock().scrub {
            progress.bytes += bytes;
        }
    }

    /// The progress of the scrub; `None` while it has no thread.
    pub(super) fn progress(&self) -> Option<Progress> {
        self.lock().scrub
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // no change leaves the state half made
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Progress {
    /// The time that `left` bytes will take; `None` where that is not known yet.
    pub(super) fn time_for(&self, left: u64) -> Option<Duration> {
        #[expect(clippy::cast_precision_loss, reason = "an estimate")]
        let share = (self.bytes > 0).then(|| left as f64 / self.bytes as f64)?;
        Duration::try_from_secs_f64(self.since.elapsed().as_secs_f64() * share).ok()
    }
}

impl Drop for Inside<'_> {
    fn drop(&mut self) {
        self.0.lock().inside -= 1;
        self.0.changed.notify_all();
    }
}

impl Drop for Closed<'_> {
    fn drop(&mut self) {
        self.0.lock().closed -= 1;
        self.0.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::thread;

    use super::*;

    const LONG: Duration = Duration::from_secs(60);

    #[test]
    fn a_device_that_is_needed_alone_is_left_and_then_entered_again() {
        let beside = Arc::new(Beside::new().unwrap());
        let inside = beside.enter().unwrap();
        let closer = beside.clone();
        let closing = thread::spawn(move || drop(closer.close(LONG).unwrap()));
        while !beside.is_closed() {
            // it is woken by the close
            beside.rest(Duration::from_millis(1), || false);
        }
        assert!(beside.enter().is_none());
        drop(inside);
        closing.join().unwrap();
        assert!(beside.enter().is_some());
    }

    #[test]
    fn a_task_that_does_not_leave_is_waited_for_no_longer_than_the_limit() {
        let beside = Beside::new().unwrap();
        let inside = beside.enter().unwrap();
        beside.close(Duration::from_millis(1)).unwrap_err();
        assert!(!beside.is_closed());
        drop(inside);
        assert!(beside.close(LONG).is_ok());
    }

    #[test]
    fn the_time_left_follows_the_progress() {
        let since = Instant::now().checked_sub(Duration::from_secs(10)).unwrap();
        let left = Progress { since, bytes: 100 }.time_for(300).unwrap();
        assert!((30..40).contains(&left.as_secs()), "{left:?}");
        assert_eq!(Progress { since, bytes: 0 }.time_for(300), None);
    }
}
