//! The limit of intervals that may be written while their records are not durable.

use std::collections::VecDeque;

/// The intervals whose data may be written while their records are not durable: after a crash, the
/// only ones that can match no tuple without being named by the log.
#[derive(Debug)]
pub(super) struct DoubtLimit {
    max: u64,
    now: u64,
    /// Intervals that were added since the last commit began.
    fresh: u64,
    /// Intervals by the page of the log that ends their record, for pages that are not durable.
    by_page: VecDeque<(u64, u64)>,
}

impl DoubtLimit {
    pub(super) fn new(max: u64) -> Self {
        Self { max, now: 0, fresh: 0, by_page: VecDeque::new() }
    }

    /// Whether `count` intervals alone are more than may ever be in doubt.
    pub(super) fn is_less_than(&self, count: u64) -> bool {
        self.max < count
    }

    pub(super) fn has_room(&self, count: u64) -> bool {
        self.now + count <= self.max
    }

    /// Adds `count` intervals whose record ends in page `page`, the newest. Returns whether it is
    /// time to make that page durable.
    pub(super) fn add(&mut self, page: u64, count: u64) -> bool {
        self.now += count;
        self.fresh += count;
        match self.by_page.back_mut() {
            Some((newest, counted)) if *newest == page => *counted += count,
            _ => self.by_page.push_back((page, count)),
        }
        self.fresh > self.max / 2
    }

    /// Notes that a commit of all pages so far has begun.
    pub(super) fn commit_begins(&mut self) {
        self.fresh = 0;
    }

    /// Forgets the intervals of all pages up to `page`, which are durable.
    pub(super) fn is_durable(&mut self, page: u64) {
        while let Some((_, count)) = self.by_page.front().copied().filter(|(first, _)| *first <= page) {
            self.by_page.pop_front();
            self.now -= count;
        }
    }
}
