//! The part of each worker in the limits of its disk: it waits for tokens with its chains in the
//! driver's ring, and holds back popped requests of a kind that has a limit of its own.

use super::QueueWorker;
use super::throttle::demand_of;
use crate::device::BlockDevice;
use crate::worker::limits::monotonic_ns;
use crate::worker::request::ActiveRequest;

/// Requests that a worker holds back at most. Then it pops no more, whatever their kind.
const HELD_MAX: usize = 64;

impl<B: BlockDevice> QueueWorker<B> {
    /// Looks whether there are limits, and starts requests that were held back long enough: all of
    /// them, when the queue stops or there are no limits any more.
    pub(super) fn apply_limits(&mut self) {
        self.throttle.is_on = self.disk.limiter.is_on();
        if self.throttle.is_empty() && !self.throttle.is_waiting() {
            return;
        }
        let now = monotonic_ns();
        let is_over = self.stopping || self.ring.is_retired() || !self.throttle.is_on;
        if is_over {
            self.disk.limiter.leave(self.ring.vring.index);
            self.throttle.end_wait(now, &self.disk.metrics[self.ring.vring.index].throttle);
        }
        self.start_held(is_over, now);
    }

    fn start_held(&mut self, all: bool, now: u64) {
        if self.throttle.is_empty() {
            return;
        }
        self.throttle.held_until = None;
        for request in self.throttle.take_held() {
            let demand = demand_of(&request);
            match self.disk.limiter.may_start(demand.kind, now) {
                Err(until) if !all => self.throttle.hold(request, until),
                _ => {
                    self.disk.limiter.pay_for_kind(demand, now);
                    self.requests.insert(request);
                }
            }
        }
        self.metrics().throttle.held.set(self.throttle.held.len() as u64);
        self.lock_ranges();
    }

    /// Whether a chain may be popped.
    #[inline]
    pub(super) fn may_pop(&mut self) -> bool {
        !self.throttle.is_on || self.may_pop_within_limits()
    }

    fn may_pop_within_limits(&mut self) -> bool {
        let (queue, now) = (self.ring.vring.index, monotonic_ns());
        let metrics = &self.disk.metrics[queue].throttle;
        // an error is reported by the pop
        let is_any = self.ring.vring.ring.has_available(&*self.memory).unwrap_or(true);
        let granted = if !is_any {
            self.disk.limiter.leave(queue);
            Ok(())
        } else if self.throttle.held.len() >= HELD_MAX {
            Err(self.throttle.held_until.unwrap_or(now))
        } else {
            self.disk.limiter.may_pop(queue, now)
        };
        match granted {
            Ok(()) => self.throttle.end_wait(now, metrics),
            Err(until) => self.throttle.wait(until, now, metrics),
        }
        granted.is_ok()
    }

    /// Takes in a request that needs the device, and what it costs.
    pub(super) fn take_in(&mut self, request: ActiveRequest) {
        if !self.throttle.is_on {
            return self.requests.insert(request);
        }
        let (demand, now) = (demand_of(&request), monotonic_ns());
        self.disk.limiter.pay(self.ring.vring.index, demand, now);
        let may_start = self.disk.limiter.may_start(demand.kind, now);
        match may_start {
            Ok(()) if !self.throttle.holds(demand.kind) => {
                self.disk.limiter.pay_for_kind(demand, now);
                self.requests.insert(request);
            }
            may_start => {
                self.throttle.hold(request, may_start.err().unwrap_or(now));
                let metrics = &self.disk.metrics[self.ring.vring.index].throttle;
                metrics.held_back.add(1);
                metrics.held.set(self.throttle.held.len() as u64);
            }
        }
    }
}
