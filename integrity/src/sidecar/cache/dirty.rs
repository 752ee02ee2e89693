//! Memory that waits for a checkpoint, counted so that the end of one takes no walk over the cache.

use std::collections::VecDeque;

/// The bytes of pages with changes that the array does not have, by the page of the log that has
/// the newest of them.
#[derive(Debug, Default)]
pub(super) struct Dirty {
    pub(super) total: usize,
    /// The bytes of each page of the log after the last one that is checkpointed.
    by_log_page: VecDeque<usize>,
}

impl Dirty {
    /// Counts a page of `bytes`, whose newest change is in page `newest` of the log.
    pub(super) fn add(&mut self, (bytes, newest): (usize, u64), checkpointed: u64) {
        if let Some(index) = index_of(newest, checkpointed) {
            if self.by_log_page.len() <= index {
                self.by_log_page.resize(index + 1, 0);
            }
            self.by_log_page[index] += bytes;
            self.total += bytes;
        }
    }

    /// Counts it no more.
    pub(super) fn remove(&mut self, (bytes, newest): (usize, u64), checkpointed: u64) {
        if let Some(counted) = index_of(newest, checkpointed).and_then(|it| self.by_log_page.get_mut(it)) {
            *counted -= bytes;
            self.total -= bytes;
        }
    }

    /// The first `log_pages` pages of the log are checkpointed.
    pub(super) fn forget(&mut self, log_pages: u64) {
        let count = usize::try_from(log_pages).unwrap_or(usize::MAX).min(self.by_log_page.len());
        self.total -= self.by_log_page.drain(..count).sum::<usize>();
    }
}

/// The place of a page of the log in [`Dirty`]; none for one that is checkpointed, and for the
/// pages that the array will never have.
fn index_of(newest: u64, checkpointed: u64) -> Option<usize> {
    let after = newest.checked_sub(checkpointed + 1).filter(|_| newest != u64::MAX)?;
    usize::try_from(after).ok()
}
