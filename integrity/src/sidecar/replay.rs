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

    /// The newest change of each interval that any record names. Neighbours that become unwritten
    /// count as one, by whichever records.
    pub(super) fn newest(&self) -> ReplayCursor {
        let mut covers: Vec<Cover> = Vec::new();
        for cover in self.newest_of(|_| true) {
            let before = covers.last_mut().filter(|it| it.intervals.end == cover.intervals.start);
            match before.filter(|it| self.is_unwritten(it) && self.is_unwritten(&cover)) {
                Some(before) => before.intervals.end = cover.intervals.end,
                None => covers.push(cover),
            }
        }
        ReplayCursor::over(covers)
    }

    /// Whether the record of `cover` makes its intervals unwritten.
    pub(super) fn is_unwritten(&self, cover: &Cover) -> bool {
        self.records[cover.record].tuples.is_none()
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
        let mut covers: Vec<Cover> = Vec::new();
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
                    match covers.last_mut() {
                        // only an older record begins here
                        Some(last) if last.record == record && last.intervals.end == at => {
                            last.intervals.end = end;
                        }
                        _ => covers.push(Cover { record, intervals: at..end }),
                    }
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

/// Pages of the array, and what matters to their intervals, the newest first. More than one page
/// only where each cover reaches over all of them.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct CoveredPages {
    pub(super) pages: Range<u64>,
    pub(super) covers: Vec<Cover>,
}

impl CoveredPages {
    /// Whether all that matters makes all of the pages unwritten.
    pub(super) fn are_unwritten(&self, layout: &Layout, replay: &Replay) -> bool {
        let whole = layout.intervals_of_pages(&self.pages);
        self.covers.iter().all(|cover| cover.intervals == whole && replay.is_unwritten(cover))
    }

    /// The covers of the intervals of `page`, one of them.
    pub(super) fn covers_of(&self, layout: &Layout, page: u64) -> Vec<Cover> {
        if self.pages.end - self.pages.start == 1 {
            return self.covers.clone();
        }
        let intervals = layout.intervals_of(page);
        let of_page = |cover: &Cover| Cover { record: cover.record, intervals: intervals.clone() };
        self.covers.iter().map(of_page).collect()
    }
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

    /// The next pages of the array that a record changes, in order.
    pub(super) fn next_pages(&mut self, layout: &Layout) -> Option<CoveredPages> {
        if self.active.is_empty() {
            self.page = layout.page_of(self.beginning.peek()?.intervals.start);
        }
        let first = layout.intervals_of(self.page);
        while let Some(cover) = self.beginning.next_if(|cover| cover.intervals.start < first.end) {
            self.active.push(cover);
        }
        let pages = self.page..self.last_alike(layout, &first) + 1;
        let within = layout.intervals_of_pages(&pages);
        let within_pages = |cover: &Cover| {
            let Range { start, end } = cover.intervals;
            Cover { record: cover.record, intervals: start.max(within.start)..end.min(within.end) }
        };
        let mut covers: Vec<_> = self.active.iter().map(within_pages).collect();
        covers.sort_unstable_by_key(|cover| Reverse(cover.record));
        self.active.retain(|cover| cover.intervals.end > within.end);
        self.page = pages.end;
        Some(CoveredPages { pages, covers })
    }

    /// The last page that the records which reach into the present one, with intervals `first`,
    /// cover like that one.
    fn last_alike(&mut self, layout: &Layout, first: &Range<u64>) -> u64 {
        let ends = self.active.iter().map(|cover| cover.intervals.end);
        let other = self.beginning.peek().map(|cover| cover.intervals.start);
        let end = ends.chain(other).min().unwrap_or(first.end);
        if end <= first.end || self.active.iter().any(|cover| cover.intervals.start > first.start) {
            return self.page;
        }
        (layout.whole_pages(&(first.start..end)).end - 1).max(self.page)
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;
    use crate::sidecar::Superblock;
    use crate::{Guard, IntegrityProfile, PiType};

    const INTERVALS: u64 = 248 * 40 + 100;

    /// A replay of records of these intervals, with or without tuples, one in each page of the log.
    fn replay(records: &[(Range<u64>, bool)]) -> (Layout, Replay) {
        let profile = IntegrityProfile::new(Guard::Crc64Nvme, PiType::Type1, 4096).unwrap();
        let layout = Superblock::new([1; 16], profile, INTERVALS * 4096).unwrap().layout().clone();
        let records = (1..).zip(records).map(|(seq, (intervals, is_written))| {
            let tuples = is_written.then_some(0..0);
            Replayed { seq, intervals: intervals.clone(), tuples }
        });
        (layout, Replay { records: records.collect(), ..Replay::default() })
    }

    fn records() -> impl Strategy<Value = Vec<(Range<u64>, bool)>> {
        let record = (0..INTERVALS, prop_oneof![1..300_u64, 1..INTERVALS], any::<bool>());
        vec(record.prop_map(|(first, len, written)| (first..(first + len).min(INTERVALS), written)), 0..12)
    }

    proptest! {
        #[test]
        fn pages_have_the_records_that_name_their_intervals(records in records(), committed in 0..12_u64) {
            let (layout, mut replay) = replay(&records);
            replay.committed = committed;
            for (mut cursor, is_newest) in [(replay.newest(), true), (replay.candidates(), false)] {
                let (mut next, mut found) = (0, vec![Vec::new(); usize::try_from(INTERVALS).unwrap()]);
                while let Some(CoveredPages { pages, covers }) = cursor.next_pages(&layout) {
                    prop_assert!(next <= pages.start && pages.start < pages.end);
                    next = pages.end;
                    let whole = layout.intervals_of_pages(&pages);
                    prop_assert!(pages.end == pages.start + 1 || covers.iter().all(|it| it.intervals == whole));
                    for cover in covers {
                        prop_assert!(whole.start <= cover.intervals.start && cover.intervals.end <= whole.end);
                        cover.intervals.for_each(|it| found[usize::try_from(it).unwrap()].push(cover.record));
                    }
                }
                for (interval, found) in (0..).zip(found) {
                    let mut named = (0..records.len()).rev().filter(|&it| records[it].0.contains(&interval));
                    let kind = |number: usize| records[number].1;
                    if is_newest {
                        let newest = named.next().map(kind);
                        prop_assert_eq!(found.iter().map(|it| kind(*it)).next(), newest, "interval {}", interval);
                        prop_assert!(found.len() <= 1);
                        continue;
                    }
                    let (mut expected, mut unwritten) = (Vec::new(), false);
                    for number in named {
                        let is_committed = (number as u64) < committed;
                        if is_committed || kind(number) || !unwritten {
                            expected.push(number);
                        }
                        unwritten |= !kind(number);
                        if is_committed {
                            break;
                        }
                    }
                    prop_assert_eq!(found, expected, "interval {}", interval);
                }
            }
        }
    }

    #[test]
    fn discards_of_all_in_pieces_are_one_run_of_pages() {
        let pieces: Vec<_> = (0..INTERVALS / 7).map(|piece| (piece * 7..(piece + 1) * 7, false)).collect();
        let (layout, replay) = replay(&pieces);
        let mut cursor = replay.newest();
        let first = cursor.next_pages(&layout).unwrap();
        assert!(first.pages == (0..40) && first.are_unwritten(&layout, &replay), "{first:?}");
        assert_eq!(cursor.next_pages(&layout).map(|it| it.pages), Some(40..41));
        assert_eq!(cursor.next_pages(&layout), None);
    }
}
