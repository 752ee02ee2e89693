//! Which flush of a ring is under way, and which wait for the next one.

use std::mem;

/// The flushes of a ring, by their slots.
///
/// One is under way at a time: the kernel reports lost data to one of several syncs alone. Flushes
/// that are asked for meanwhile wait, and the next sync is done for all of them.
#[derive(Debug, Default)]
pub(super) struct Flushes {
    /// The one that is under way.
    under_way: Option<usize>,
    /// Those that are done when it is.
    together: Vec<usize>,
    /// Those that were asked for since it began.
    waiting: Vec<usize>,
    /// Whether a flush has failed and its result was reaped. Its caller has seen the failure by the
    /// time that the ring is used again.
    has_failed: bool,
}

impl Flushes {
    /// Takes in the flush in `slot`. Whether it begins now, and does not wait.
    pub(super) fn begin(&mut self, slot: usize) -> bool {
        if self.under_way.is_some() {
            self.waiting.push(slot);
            return false;
        }
        self.under_way = Some(slot);
        true
    }

    /// Whether the flush in `slot` is the one that is under way.
    pub(super) fn is_under_way(&self, slot: usize) -> bool {
        self.under_way == Some(slot)
    }

    /// The one that was under way has come back: the others that are done with it.
    pub(super) fn take_together(&mut self) -> impl Iterator<Item = usize> {
        self.together.drain(..)
    }

    /// The next one to begin, which is done for all that wait.
    pub(super) fn begin_next(&mut self) -> Option<usize> {
        self.under_way = self.waiting.pop();
        mem::swap(&mut self.together, &mut self.waiting);
        self.under_way
    }

    /// Notes whether a flush that is reaped now has failed.
    pub(super) fn note(&mut self, has_failed: bool) {
        self.has_failed |= has_failed;
    }

    /// Whether a flush has failed since the last time that this was asked.
    pub(super) fn take_failed(&mut self) -> bool {
        mem::take(&mut self.has_failed)
    }
}
