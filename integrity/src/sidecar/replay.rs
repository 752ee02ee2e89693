//! The records of a part of the log, sorted by the pages of the array that they change.

use std::io;
use std::ops::Range;

use super::PAGE_SIZE;
use super::array::Change;
use super::layout::Layout;
use super::log::{LogId, SealedPage};
use super::media::Media;
use super::unreadable::read_sidecar;

/// A record, and the page of the log that it was in.
#[derive(Debug)]
pub(super) struct Replayed {
    pub(super) seq: u64,
    pub(super) intervals: Range<u64>,
    /// Where its tuples lie in [`Replay::tuples`]; none for intervals that become unwritten.
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

    /// What `record` changes in `part` of its intervals.
    pub(super) fn change(&self, record: &Replayed, part: &Range<u64>, tuple_size: usize) -> Change<'_> {
        let whole = match &record.tuples {
            None => Change::Unwritten,
            Some(range) => Change::Written(&self.tuples[range.clone()]),
        };
        whole.part(&record.intervals, part, tuple_size)
    }

    /// To go through the pages of the array that the records change.
    pub(super) fn cursor(&self, layout: &Layout) -> Cursor {
        let page_of = |(index, record): (usize, &Replayed)| (layout.page_of(record.intervals.start), index);
        let mut beginning: Vec<_> = self.records.iter().enumerate().map(page_of).collect();
        beginning.sort_unstable();
        Cursor { beginning, next: 0, active: Vec::new(), page: 0 }
    }

    /// The next page of the array that a record changes, in order, and its records, oldest first.
    pub(super) fn next_page(&self, cursor: &mut Cursor, layout: &Layout) -> Option<(u64, Vec<&Replayed>)> {
        let rest = &cursor.beginning[cursor.next..];
        if cursor.active.is_empty() {
            cursor.page = rest.first()?.0;
        }
        let page = cursor.page;
        let here = rest.iter().take_while(|(beginning, _)| *beginning == page).map(|(_, index)| *index);
        let before = cursor.active.len();
        cursor.active.extend(here);
        cursor.next += cursor.active.len() - before;
        cursor.active.sort_unstable();
        let records = cursor.active.iter().map(|&index| &self.records[index]).collect();
        let end = layout.intervals_of(page).end;
        cursor.active.retain(|&index| self.records[index].intervals.end > end);
        cursor.page += 1;
        Some((page, records))
    }
}

/// How far one has come with the records of a [`Replay`].
#[derive(Debug)]
pub(super) struct Cursor {
    /// All records by the page of the array in which they begin.
    beginning: Vec<(u64, usize)>,
    next: usize,
    /// Records that reach into `page`.
    active: Vec<usize>,
    page: u64,
}
