//! The requests of one worker, and the batches that they are handled in.

use std::collections::VecDeque;

use slab::Slab;

use super::clock::BatchClock;
use super::disk::Disk;
use super::finished_request::FinishedRequest;
use super::range_lock::{RangeOwner, Ticket};
use super::request::ActiveRequest;
use crate::metrics::QueueMetrics;

/// The requests that were popped and not answered, by their number.
#[derive(Debug, Default)]
pub(super) struct RequestTable {
    pub(super) active: Slab<ActiveRequest>,
    /// Popped since the last batch of locks.
    arrived: Vec<usize>,
    /// Hold their range and have operations to begin, in order.
    pub(super) ready: VecDeque<usize>,
    /// Places in the range lock of requests that are finished.
    pub(super) released: Vec<Ticket>,
    /// Finished with success since the last count.
    pub(super) finished: Vec<FinishedRequest>,
}

impl RequestTable {
    /// Takes in a request that was popped.
    #[inline]
    pub(super) fn insert(&mut self, request: ActiveRequest) {
        self.arrived.push(self.active.insert(request));
    }

    /// Takes the ranges of all that arrived, in granules of 2^`shift` bytes, on behalf of `queue`.
    /// Those that must wait become ready when a release grants them their range.
    pub(super) fn lock_ranges<B>(&mut self, disk: &Disk<B>, queue: usize, shift: u32) {
        if self.arrived.is_empty() {
            return;
        }
        let mut table = disk.locks.table();
        for id in self.arrived.drain(..) {
            let Some(active) = self.active.get_mut(id) else {
                continue;
            };
            let Some(access) = active.access() else {
                self.ready.push_back(id);
                continue;
            };
            let granules = active.start >> shift..((active.start + active.len - 1) >> shift) + 1;
            let (ticket, held) = table.acquire(granules, access, RangeOwner { queue, request: id });
            active.ticket = Some(ticket);
            if held {
                self.ready.push_back(id);
            }
        }
    }

    /// Makes all that arrived ready, on a disk where no range needs to be held.
    pub(super) fn skip_locks(&mut self) {
        self.ready.extend(self.arrived.drain(..));
    }

    /// Counts what was finished: before the driver sees it, and with one look at the clock.
    pub(super) fn count(&mut self, metrics: &QueueMetrics, clock: &mut BatchClock) {
        metrics.in_flight.set(self.active.len() as u64);
        if self.finished.is_empty() {
            return;
        }
        let now = clock.read();
        for finished in self.finished.drain(..) {
            finished.count(metrics, now);
        }
    }

    /// Gives back the ranges of all that was finished, and makes ready the requests of this queue
    /// whose turn comes by it.
    pub(super) fn release<B>(&mut self, disk: &Disk<B>, queue: usize) {
        let Self { released, ready, .. } = self;
        disk.release(queue, released.drain(..), |request| ready.push_back(request));
    }
}
