//! The waits of a worker for the limits of its disk, and the requests that it holds back.

use std::collections::VecDeque;
use std::time::Duration;

use crate::metrics::ThrottleMetrics;
use crate::worker::limits::{Demand, DemandKind, monotonic_ns};
use crate::worker::request::{ActiveRequest, RequestWork};

/// The waits of a worker for tokens.
#[derive(Debug, Default)]
pub(super) struct Throttle {
    /// Whether there are limits, as of this turn.
    pub(super) is_on: bool,
    /// Requests that were popped, whose kind has reached its limit, in order.
    pub(super) held: VecDeque<ActiveRequest>,
    /// When one of them may start.
    pub(super) held_until: Option<u64>,
    /// When to ask again whether a chain may be popped; none: there is no such wait.
    until: Option<u64>,
    /// When that wait began.
    since: u64,
}

impl Throttle {
    /// Whether chains wait in the ring for tokens.
    pub(super) fn is_waiting(&self) -> bool {
        self.until.is_some()
    }

    /// Whether no request is held back.
    pub(super) fn is_empty(&self) -> bool {
        self.held.is_empty()
    }

    /// How long the worker may sleep; none: until there is an event.
    pub(super) fn rest(&self) -> Option<Duration> {
        let until = self.until.into_iter().chain(self.held_until).min()?;
        Some(Duration::from_nanos(until.saturating_sub(monotonic_ns())))
    }

    /// Gives the requests that are held back, to abandon them.
    pub(super) fn take_held(&mut self) -> VecDeque<ActiveRequest> {
        std::mem::take(&mut self.held)
    }

    /// Waits until `until`, from `now` on unless a wait is under way.
    pub(super) fn wait(&mut self, until: u64, now: u64, metrics: &ThrottleMetrics) {
        if self.until.is_none() {
            self.since = now;
            metrics.waits.add(1);
        }
        self.until = Some(until);
    }

    /// Ends the wait, if one is under way.
    pub(super) fn end_wait(&mut self, now: u64, metrics: &ThrottleMetrics) {
        if self.until.take().is_some() {
            metrics.waited_ns.add(now.saturating_sub(self.since));
        }
    }

    /// Holds a request back until `until`.
    pub(super) fn hold(&mut self, request: ActiveRequest, until: u64) {
        self.held.push_back(request);
        self.held_until = Some(self.held_until.map_or(until, |earlier| earlier.min(until)));
    }

    /// Whether a request of `kind` is held back.
    pub(super) fn holds(&self, kind: DemandKind) -> bool {
        self.held.iter().any(|request| demand_of(request).kind == kind)
    }
}

/// A request, as limits see it.
pub(super) fn demand_of(request: &ActiveRequest) -> Demand {
    let (kind, bytes) = match request.work {
        RequestWork::Read => (DemandKind::Read, request.len),
        RequestWork::Write => (DemandKind::Write, request.len),
        RequestWork::Zero(_) => (DemandKind::Write, 0),
        RequestWork::Flush => (DemandKind::Other, 0),
    };
    Demand { kind, bytes }
}
