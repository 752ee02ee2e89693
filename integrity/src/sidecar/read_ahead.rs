//! The pages of the array that records name, which a medium gets to know before they are read: they
//! lie apart, and a device reads many as fast as one.

use std::collections::VecDeque;

use super::layout::Layout;
use super::media::Media;
use super::replay::{CoveredPages, Replay, ReplayCursor};

/// Pages, or runs of them, of which the medium knows before they are read.
const AHEAD: usize = 64;

/// A [`ReplayCursor`] with the next pages it has visited.
#[derive(Debug)]
pub(super) struct ReadAhead {
    cursor: ReplayCursor,
    soon: VecDeque<CoveredPages>,
}

impl ReadAhead {
    pub(super) fn over(cursor: ReplayCursor) -> Self {
        Self { cursor, soon: VecDeque::new() }
    }

    /// The next pages that a record of `replay` names, in order.
    pub(super) fn next_pages(
        &mut self,
        layout: &Layout,
        media: &impl Media,
        replay: &Replay,
    ) -> Option<CoveredPages> {
        if self.soon.len() <= AHEAD / 2 {
            while self.soon.len() < AHEAD
                && let Some(covered) = self.cursor.next_pages(layout)
            {
                // unwritten pages are not read, however many they are
                if !covered.are_unwritten(layout, replay) {
                    let pages = &covered.pages;
                    media.will_read(layout.page_offset(pages.start)..layout.page_offset(pages.end));
                }
                self.soon.push_back(covered);
            }
        }
        self.soon.pop_front()
    }
}
