//! Limits of requests and bytes a second, for all queues of a disk together, or for a group of
//! disks.
//!
//! Each limit is a bucket of tokens that fills at its rate, up to the tokens of `burst`. A request
//! is taken when no bucket is in debt, and then pays what it costs, so a large request is followed
//! by a pause. A worker that has to wait leaves chains in the driver's ring.
//!
//! Queues take turns by the time that their requests have cost, as in start-time fair queueing: a
//! queue of small requests is not held up by one of large requests more than these cost.
//!
//! A disk without limits costs one relaxed load for each turn of a worker.

mod bucket;
mod group;
mod table;
mod turns;
mod values;

use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use self::bucket::{Bucket, cost};
use self::group::LimitGroup;
pub use self::group::LimitGroupError;
use self::table::{Rate, Table};
use self::turns::Turns;
pub use self::values::{BURST_DEFAULT, BURST_MAX, Limits, RATE_MAX};

/// The shortest wait for tokens: they gather for this time, and are used for several requests at
/// once.
const GRAIN: Duration = Duration::from_millis(1);
/// The longest, after which a worker looks again whether there are limits still.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// A request, as limits see it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Demand {
    pub(super) kind: DemandKind,
    pub(super) bytes: u64,
}

/// The kind of a request, as limits see it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum DemandKind {
    Read,
    /// Also discard and write zeroes, of no bytes.
    Write,
    /// A flush: it counts as a request alone.
    Other,
}

/// The limits of a disk.
#[derive(Debug)]
pub struct Limiter {
    own: Table,
    group: Option<LimitGroup>,
    turns: Mutex<Turns>,
}

impl Limiter {
    /// No limits, for a disk of `queues` queues.
    pub fn none(queues: usize) -> Self {
        Self { own: Table::default(), group: None, turns: Mutex::new(Turns::new(queues)) }
    }

    /// The limits of the group that the file at `path` is for. They are those that were set last,
    /// by whichever disk.
    pub fn of_group(queues: usize, path: &Path) -> Result<Self, LimitGroupError> {
        Ok(Self { group: Some(LimitGroup::open(path)?), ..Self::none(queues) })
    }

    /// Whether there are limits.
    pub fn is_on(&self) -> bool {
        self.table().is_on()
    }

    /// The limits, if there are any.
    pub fn limits(&self) -> Option<Limits> {
        let limits = self.table().limits();
        // the look itself may have found the file cut off
        if self.group.as_ref().is_some_and(LimitGroup::is_lost) { self.own.limits() } else { limits }
    }

    /// Why the file of the group cannot be used any more, if so. Then the disk has limits of its
    /// own: those that were set last by this process.
    pub fn group_loss(&self) -> Option<String> {
        self.group.as_ref().and_then(LimitGroup::loss)
    }

    /// Sets other limits, or none.
    pub fn set(&self, limits: Option<Limits>) {
        self.own.set(limits);
        if let Some(group) = &self.group {
            group.table().set(limits);
        }
    }

    fn table(&self) -> &Table {
        match &self.group {
            Some(group) if !group.is_lost() => group.table(),
            _ => &self.own,
        }
    }

    fn turns(&self) -> MutexGuard<'_, Turns> {
        self.turns.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether `queue`, which has a chain, may pop it at time `now`. Else when to ask again.
    pub(super) fn may_pop(&self, queue: usize, now: u64) -> Result<(), u64> {
        let ready = self.ready_at([Rate::Iops, Rate::Bps], now);
        let mut turns = self.turns();
        turns.ask(queue, now);
        if ready > now {
            return Err(turns.wait(queue, wait_until(ready, now)));
        }
        if turns.is_others_turn(queue, now) {
            return Err(turns.wait(queue, wait_until(now, now)));
        }
        Ok(())
    }

    /// Whether a request of `kind` may start, as far as the limits of its kind go. Else when to ask
    /// again.
    pub(super) fn may_start(&self, kind: DemandKind, now: u64) -> Result<(), u64> {
        let Some(rates) = of_kind(kind) else { return Ok(()) };
        let ready = self.ready_at(rates, now);
        if ready > now { Err(wait_until(ready, now)) } else { Ok(()) }
    }

    /// Takes what a popped request costs.
    pub(super) fn pay(&self, queue: usize, demand: Demand, now: u64) {
        let paid = self.take([Rate::Iops, Rate::Bps], demand, now);
        let kind = of_kind(demand.kind).map(|rates| {
            let table = self.table();
            rates.into_iter().map(|rate| cost(units(rate, demand), table.rate(rate))).max().unwrap_or(0)
        });
        self.turns().serve(queue, paid.max(kind.unwrap_or(0)), now);
    }

    /// Takes what the start of a request costs, as far as the limits of its kind go.
    pub(super) fn pay_for_kind(&self, demand: Demand, now: u64) {
        if let Some(rates) = of_kind(demand.kind) {
            self.take(rates, demand, now);
        }
    }

    /// The queue does not wait any more.
    pub(super) fn leave(&self, queue: usize) {
        self.turns().leave(queue);
    }

    /// When no bucket of `rates` is in debt.
    fn ready_at(&self, rates: [Rate; 2], now: u64) -> u64 {
        let table = self.table();
        let ready = |rate| if table.rate(rate) > 0 { Bucket(table.bucket(rate)).ready_at(now) } else { 0 };
        rates.into_iter().map(ready).max().unwrap_or(0)
    }

    /// Takes what a request costs from the buckets of `rates`. Returns the largest cost.
    fn take(&self, rates: [Rate; 2], demand: Demand, now: u64) -> u64 {
        let table = self.table();
        let burst = table.burst_ns();
        let taken = rates.into_iter().map(|rate| {
            let cost = cost(units(rate, demand), table.rate(rate));
            if cost > 0 {
                Bucket(table.bucket(rate)).take(cost, burst, now);
            }
            cost
        });
        taken.max().unwrap_or(0)
    }
}

/// The limits for a kind of requests alone.
fn of_kind(kind: DemandKind) -> Option<[Rate; 2]> {
    match kind {
        DemandKind::Read => Some([Rate::ReadIops, Rate::ReadBps]),
        DemandKind::Write => Some([Rate::WriteIops, Rate::WriteBps]),
        DemandKind::Other => None,
    }
}

/// The tokens of `rate` that a request takes.
fn units(rate: Rate, demand: Demand) -> u64 {
    match rate {
        Rate::Iops | Rate::ReadIops | Rate::WriteIops => 1,
        Rate::Bps | Rate::ReadBps | Rate::WriteBps => demand.bytes,
    }
}

fn wait_until(ready: u64, now: u64) -> u64 {
    let nanoseconds = |time: Duration| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
    ready.clamp(now.saturating_add(nanoseconds(GRAIN)), now.saturating_add(nanoseconds(LOOK_AGAIN)))
}

/// The time by which buckets count, in nanoseconds: the same in all processes of a host.
pub(super) fn monotonic_ns() -> u64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    let (seconds, nanoseconds) = (u64::try_from(time.tv_sec), u64::try_from(time.tv_nsec));
    seconds.unwrap_or(0).saturating_mul(1_000_000_000).saturating_add(nanoseconds.unwrap_or(0))
}

#[cfg(test)]
mod tests;
