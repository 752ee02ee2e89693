//! Whole pages of the array that became unwritten, in runs: a discard of any size is one of them.

use std::collections::BTreeMap;
use std::ops::Range;

/// Memory of a run in bytes.
const RUN_BYTES: usize = 64;

/// Runs that one change adds at most: its own, and the rest of one that it divides.
const ADDED_MAX: usize = 2;

#[derive(Debug, Clone, Copy)]
struct Run {
    end: u64,
    /// The page of the log with the change.
    newest: u64,
}

/// Runs of pages whose tuples are all unwritten, by a change that the array does not have yet.
#[derive(Debug, Default)]
pub(super) struct UnwrittenPages {
    /// By their first page. They do not overlap.
    runs: BTreeMap<u64, Run>,
    /// Changes for which memory is kept free.
    expected: usize,
}

impl UnwrittenPages {
    /// The memory in bytes, with what is kept free.
    pub(super) fn bytes(&self) -> usize {
        (self.runs.len() + self.expected * ADDED_MAX) * RUN_BYTES
    }

    /// The memory that a change adds at most.
    pub(super) const fn cost_of_change() -> usize {
        ADDED_MAX * RUN_BYTES
    }

    /// Keeps memory free for a change.
    pub(super) fn expect(&mut self) {
        self.expected += 1;
    }

    /// The change is made, or none of whole pages.
    pub(super) fn expect_no_more(&mut self) {
        self.expected -= 1;
    }

    pub(super) fn contains(&self, page: u64) -> bool {
        !self.runs.is_empty() && self.runs.range(..=page).next_back().is_some_and(|(_, run)| page < run.end)
    }

    /// Notes that `pages` became unwritten by a change in page `newest` of the log.
    pub(super) fn insert(&mut self, pages: &Range<u64>, newest: u64) {
        self.remove(pages);
        let mut whole = pages.clone();
        // of neighbours that were changed in one page of the log, none is needed longer than others
        if let Some((&start, run)) = self.runs.range(..pages.start).next_back()
            && (run.end, run.newest) == (pages.start, newest)
        {
            whole.start = start;
        }
        if let Some(next) = self.runs.get(&pages.end).filter(|next| next.newest == newest) {
            whole.end = next.end;
            self.runs.remove(&pages.end);
        }
        self.runs.insert(whole.start, Run { end: whole.end, newest });
    }

    fn remove(&mut self, pages: &Range<u64>) {
        if let Some((_, run)) = self.runs.range_mut(..pages.start).next_back()
            && run.end > pages.start
        {
            let rest = *run;
            run.end = pages.start;
            if rest.end > pages.end {
                self.runs.insert(pages.end, rest);
            }
        }
        while let Some((&start, &run)) = self.runs.range(pages.clone()).next() {
            self.runs.remove(&start);
            if run.end > pages.end {
                self.runs.insert(pages.end, run);
            }
        }
    }

    /// Forgets the runs of changes up to page `seq` of the log: the array has them.
    pub(super) fn checkpointed(&mut self, seq: u64) {
        self.runs.retain(|_, run| run.newest > seq);
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    const PAGES: u64 = 40;

    proptest! {
        #[test]
        fn runs_are_those_of_a_plain_array(
            steps in vec((0..PAGES, 1..PAGES, 0_u64..2, any::<bool>()), 0..40)
        ) {
            let (mut runs, mut plain) = (UnwrittenPages::default(), vec![0; usize::try_from(PAGES).unwrap()]);
            let mut newest = 1;
            for (start, len, later, forgets) in steps {
                newest += later;
                let (before, pages) = (runs.bytes(), start..(start + len).min(PAGES));
                runs.insert(&pages, newest);
                prop_assert!(runs.bytes() <= before + UnwrittenPages::cost_of_change());
                (start..pages.end).for_each(|page| plain[usize::try_from(page).unwrap()] = newest);
                if forgets {
                    runs.checkpointed(newest - 1);
                    plain.iter_mut().filter(|it| **it < newest).for_each(|it| *it = 0);
                }
                for (page, newest) in (0..).zip(&plain) {
                    prop_assert_eq!(runs.contains(page), *newest > 0, "page {}", page);
                }
            }
        }
    }

    #[test]
    fn neighbours_of_one_page_of_the_log_are_one_run() {
        let mut runs = UnwrittenPages::default();
        for piece in [0, 2, 1, 3] {
            runs.insert(&(piece * 1000..(piece + 1) * 1000), 7);
        }
        assert_eq!(runs.bytes(), RUN_BYTES);
    }
}
