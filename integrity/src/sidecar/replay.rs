//! The records of a part of the log, and for each page of the array those that matter to it.
//!
//! A log can have millions of records that name the same intervals, so records are not compared
//! with blocks one by one. A sweep over the places where records begin and end finds the newest
//! record of a kind at each place. The rest costs as much as the tuples that the log holds, and
//! a constant for each block that it names.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::io;
use std::iter::Peekable;
use std::ops::Range;
use std::vec;

use super::PAGE_SIZE;
use super::array::Change;
use super::layout::Layout;
use super::log::{LogId, SealedPage};
use super::media::Media;
use super::unreadable::read_sidecar;

/// A record, and the page of the log that it was in.
#[derive(Debug)]
struct Replayed {
    seq: u64,
    intervals: Range<u64>,
    /// The range of its tuples in [`Replay::tuples`]; none for intervals that become unwritten.
    tuples: Option<Range<usize>>,
}

/// Records in the order in which they were made.
#[derive(Debug, Default)]
pub(super) struct Replay {
    records: Vec<Replayed>,
    tuples: Vec<u8>,
    /// Number of pages that were read.
    pub(super) pages: u64,
    /// The highest commit that any of the pages knows of.
    pub(super) committed: u64,
}

impl Replay {
    /// Reads the pages `seqs` of the log, up to the first that is not there.
    pub(super) fn read(layout: &Layout, media: &impl Media, id: LogId, seqs: Range<u64>) -> io::Result<Self> {
        let mut replay = Self::default();
        let mut bytes = [0; PAGE_SIZE];
        for seq in seqs {
            read_sidecar(media, layout.log_page_offset(seq), &mut bytes)?;
            let Some(page) = SealedPage::decode(&bytes, layout, id, seq) else {
                break;
            };
            replay.pages += 1;
            replay.committed = replay.committed.max(page.committed);
            for (intervals, change) in page.records() {
                let tuples = match change {
                    Change::Unwritten => None,
                    Change::Written(tuples) => {
                        let start = replay.tuples.len();
                        replay.tuples.extend_from_slice(tuples);
                        Some(start..replay.tuples.len())
                    }
                };
                replay.records.push(Replayed { seq, intervals, tuples });
            }
        }
        Ok(replay)
    }

    /// The change of the tuples of `cover` by its record.
    pub(super) fn change(&self, cover: &Cover, tuple_size: usize) -> Change<'_> {
        self.change_in(cover.record, &cover.intervals, tuple_size)
    }

    /// The change of the tuples of `part` of the intervals of record number `record`.
    pub(super) fn change_in(&self, record: usize, part: &Range<u64>, tuple_size: usize) -> Change<'_> {
        let record = &self.records[record];
        let whole = match &record.tuples {
            None => Change::Unwritten,
            Some(range) => Change::Written(&self.tuples[range.clone()]),
        };
        whole.part(&record.intervals, part, tuple_size)
    }

    /// Intervals that its records name, once for each record.
    pub(super) fn named(&self) -> u64 {
        self.records.iter().map(|record| record.intervals.end - record.intervals.start).sum()
    }

    /// Whether the data of record number `record` is known to have been durable.
    pub(super) fn is_committed(&self, record: usize) -> bool {
        self.records[record].seq <= self.committed
    }

    /// The newest record of each interval that any names.
    pub(super) fn newest(&self) -> ReplayCursor {
        ReplayCursor::over(self.newest_of(|_| true))
    }

    /// The records of what an interval may hold: the newest committed one, and those after
    /// it. Of the latter that make an interval unwritten one is as good as many, and the newest is
    /// the likeliest.
    pub(super) fn candidates(&self) -> ReplayCursor {
        let committed = self.newest_of(|record| record.seq <= self.committed);
        let unwritten = self.newest_of(|record| record.seq > self.committed && record.tuples.is_none());
        let written = self.records.iter().enumerate();
        let written = written.filter(|(_, record)| record.seq > self.committed && record.tuples.is_some());
        let written =
            written.map(|(number, record)| Cover { record: number, intervals: record.intervals.clone() });
        ReplayCursor::over(committed.into_iter().chain(unwritten).chain(written).collect())
    }

    /// The intervals in which each record is the newest of those that `counts`, in order.
    fn newest_of(&self, counts: impl Fn(&Replayed) -> bool) -> Vec<Cover> {
        let mut beginning: Vec<_> =
            (0..self.records.len()).filter(|&number| counts(&self.records[number])).collect();
        beginning.sort_unstable_by_key(|&number| self.records[number].intervals.start);
        let mut beginning = beginning.into_iter().peekable();
        let mut covers = Vec::new();
        let mut reaching = BinaryHeap::new();
        let mut at = 0;
        loop {
            while reaching.peek().is_some_and(|&newest: &usize| self.records[newest].intervals.end <= at) {
                reaching.pop();
            }
            let next = beginning.peek().map(|&number| self.records[number].intervals.start);
            if next.is_some_and(|next| next <= at) {
                reaching.extend(beginning.next());
                continue;
            }
            match (reaching.peek(), next) {
                (Some(&record), next) => {
                    let reach = self.records[record].intervals.end;
                    let end = next.map_or(reach, |next| next.min(reach));
                    covers.push(Cover { record, intervals: at..end });
                    at = end;
                }
                (None, Some(next)) => at = next,
                (None, None) => return covers,
            }
        }
    }
}

/// Intervals, and a record that matters to them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Cover {
    /// Records are numbered in the order in which they were made.
    pub(super) record: usize,
    pub(super) intervals: Range<u64>,
}

/// A position in the records of a [`Replay`], which are visited by page of the array.
#[derive(Debug)]
pub(super) struct ReplayCursor {
    beginning: Peekable<vec::IntoIter<Cover>>,
    /// The records that reach into `page`.
    active: Vec<Cover>,
    page: u64,
}

impl ReplayCursor {
    fn over(mut covers: Vec<Cover>) -> Self {
        covers.sort_unstable_by_key(|cover| cover.intervals.start);
        Self { beginning: covers.into_iter().peekable(), active: Vec::new(), page: 0 }
    }

    /// The next page of the array that a record changes, in order, and what matters to its
    /// intervals, the newest first.
    pub(super) fn next_page(&mut self, layout: &Layout) -> Option<(u64, Vec<Cover>)> {
        if self.active.is_empty() {
            self.page = layout.page_of(self.beginning.peek()?.intervals.start);
        }
        let page = self.page;
        let within = layout.intervals_of(page);
        while let Some(cover) = self.beginning.next_if(|cover| cover.intervals.start < within.end) {
            self.active.push(cover);
        }
        let within_page = |cover: &Cover| {
            let Range { start, end } = cover.intervals;
            Cover { record: cover.record, intervals: start.max(within.start)..end.min(within.end) }
        };
        let mut here: Vec<_> = self.active.iter().map(within_page).collect();
        here.sort_unstable_by_key(|cover| Reverse(cover.record));
        self.active.retain(|cover| cover.intervals.end > within.end);
        self.page += 1;
        Some((page, here))
    }
}
