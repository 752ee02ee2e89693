//! The pages of the log that count, from the tail to the open one, and how far each is done.

use std::collections::VecDeque;
use std::ops::Range;

use crate::sidecar::array::Change;
use crate::sidecar::log::{LogId, LogPage, OpenPage};

/// Pages that wait in memory before they are written although nothing needs that yet: 1 MiB.
const VOLATILE_MAX: usize = 256;

/// Records without tuples after which a checkpoint is made. They are so short that a log could have
/// millions of them before it is half full; the number of the others is bounded by their tuples.
const SHORT_RECORDS_MAX: u64 = 1 << 16;

/// The pages of the log that hold one record.
#[derive(Debug, Clone, Copy)]
pub(super) struct RecordPages {
    first: u64,
    pub(super) last: u64,
    /// Pages that are kept free for the record of what the change has left if it fails.
    reserve: u64,
}

/// The pages of the log that count.
#[derive(Debug)]
pub(super) struct Records {
    id: LogId,
    tuple_size: usize,
    /// The oldest page that still counts.
    pub(super) tail: u64,
    /// The page that takes records; it has number `next`.
    open: OpenPage,
    next: u64,
    /// The last pages before `next`, which no commit has in hand.
    volatile: VecDeque<LogPage>,
    /// The last page that is durable.
    pub(super) durable: u64,
    /// The last page up to which the data of all records is durable.
    pub(super) committed: u64,
    /// For each page from `incomplete` to `next`: the number of changes that begin in it and have
    /// their data still to be written.
    in_flight: VecDeque<u32>,
    incomplete: u64,
    /// Pages that are kept free for changes on their way. So one that fails always finds room, and
    /// what follows never waits for it.
    reserved: u64,
    /// Records without tuples since the last checkpoint began.
    without_tuples: u64,
}

impl Records {
    /// An empty log whose first page is `next`.
    pub(super) fn new(id: LogId, next: u64, tuple_size: usize) -> Self {
        Self {
            id,
            tuple_size,
            tail: next,
            open: OpenPage::new(),
            next,
            volatile: VecDeque::new(),
            durable: next - 1,
            committed: next - 1,
            in_flight: VecDeque::from([0]),
            incomplete: next,
            reserved: 0,
            without_tuples: 0,
        }
    }

    pub(super) fn id(&self) -> LogId {
        self.id
    }

    /// The page that takes records.
    pub(super) fn next(&self) -> u64 {
        self.next
    }

    /// Whether no page counts and none has records.
    pub(super) fn is_empty(&self) -> bool {
        self.tail == self.next && self.open.is_empty()
    }

    /// Whether the open page has records and the data of all of them is written, with nothing else
    /// under way.
    pub(super) fn is_open_page_complete(&self) -> bool {
        !self.open.is_empty() && self.in_flight == [0]
    }

    /// Pages that count, the open one included.
    pub(super) fn used(&self) -> u64 {
        self.next + u64::from(!self.open.is_empty()) - self.tail
    }

    /// Pages that are kept free.
    pub(super) fn reserved(&self) -> u64 {
        self.reserved
    }

    /// Whether a checkpoint is due because of the number of short records.
    pub(super) fn are_too_many(&self) -> bool {
        self.without_tuples >= SHORT_RECORDS_MAX
    }

    /// Whether pages should be written although nothing needs that yet.
    pub(super) fn is_overfull(&self) -> bool {
        self.volatile.len() >= VOLATILE_MAX
    }

    /// The last page up to which all data is written.
    pub(super) fn complete_through(&self) -> u64 {
        self.incomplete - 1
    }

    /// Makes a record of a change.
    pub(super) fn append(&mut self, intervals: &Range<u64>, change: Change<'_>) -> RecordPages {
        let mut rest = intervals.clone();
        let mut first = None;
        loop {
            let part = change.part(intervals, &rest, self.tuple_size);
            let count = self.open.append(&rest, part, self.tuple_size);
            self.without_tuples += u64::from(count > 0 && change == Change::Unwritten);
            if count > 0 && first.is_none() {
                first = Some(self.next);
            }
            rest.start += count;
            if rest.is_empty() {
                break;
            }
            self.turn_page();
        }
        RecordPages { first: first.unwrap_or(self.next), last: self.next, reserve: 0 }
    }

    /// As [`Self::append`], for a change whose data is still to be written. Keeps `reserve` pages
    /// free for its failure.
    pub(super) fn begin(&mut self, intervals: &Range<u64>, change: Change<'_>, reserve: u64) -> RecordPages {
        let pages = RecordPages { reserve, ..self.append(intervals, change) };
        self.reserved += reserve;
        self.in_flight[count_of(pages.first - self.incomplete)] += 1;
        pages
    }

    /// Notes that the data of a change that [began](Self::begin) is written.
    pub(super) fn end(&mut self, pages: RecordPages) {
        self.in_flight[count_of(pages.first - self.incomplete)] -= 1;
        self.reserved -= pages.reserve;
        self.pass_complete();
    }

    /// Closes the open page, if there is anything in it.
    pub(super) fn seal(&mut self) {
        if !self.open.is_empty() {
            self.turn_page();
            self.pass_complete();
        }
    }

    /// Whether a commit would have pages to write.
    pub(super) fn has_volatile(&self) -> bool {
        !self.volatile.is_empty()
    }

    /// The closed pages that no commit has in hand, with the number of each.
    pub(super) fn take_volatile(&mut self) -> impl Iterator<Item = (u64, LogPage)> {
        let pages = std::mem::take(&mut self.volatile);
        (self.next - pages.len() as u64..).zip(pages)
    }

    /// Takes back the pages of a commit that has failed, in their order.
    pub(super) fn put_back(&mut self, pages: impl DoubleEndedIterator<Item = LogPage>) {
        for page in pages.rev() {
            self.volatile.push_front(page);
        }
    }

    /// Notes that a checkpoint of all pages begins.
    pub(super) fn checkpoint_begins(&mut self) {
        self.without_tuples = 0;
    }

    /// Forgets the pages before `tail`: their tuples are in the array, and their data is durable.
    pub(super) fn forget_before(&mut self, tail: u64) {
        self.tail = tail;
        self.committed = self.committed.max(tail - 1);
    }

    fn turn_page(&mut self) {
        let page = std::mem::replace(&mut self.open, OpenPage::new());
        self.volatile.push_back(page.seal(self.id, self.next, self.committed));
        self.next += 1;
        self.in_flight.push_back(0);
    }

    fn pass_complete(&mut self) {
        while self.incomplete < self.next && self.in_flight.front() == Some(&0) {
            self.in_flight.pop_front();
            self.incomplete += 1;
        }
    }
}

#[expect(clippy::cast_possible_truncation, reason = "pages of the log that are in memory")]
fn count_of(pages: u64) -> usize {
    pages as usize
}
