//! The tuples in memory: those that the array does not have yet, which must stay, and others as far
//! as there is room.
//!
//! It holds pages of the array. A page need not be whole: a write puts its own tuples in without a
//! read, in a few bytes each (`page.rs`), and only a read of others fetches the page. Pages that a
//! discard makes unwritten as a whole are kept as runs (`unwritten.rs`), so that its size costs
//! nothing; tuples that are in memory for such a page are newer than the run, or unwritten too. The
//! caller's range lock keeps a tuple that is being fetched or written from changing in between.

mod dirty;
mod page;
mod page_set;
mod unwritten;

use std::collections::{HashMap, VecDeque};
use std::ops::Range;

use foldhash::fast::RandomState;

use self::dirty::Dirty;
use self::page::{CachedPage, Shape};
use self::page_set::PageSet;
use self::unwritten::UnwrittenPages;
use super::array::{Change, TuplePage};
use super::layout::Layout;

/// Pages that are looked at to evict some, at most, so that no request waits for the search.
const STEPS_MAX: usize = 1024;

/// A page that has to be read before its tuples can be had. It is kept in memory until it was
/// filled, or forgotten.
#[derive(Debug)]
#[must_use]
pub struct Miss {
    /// The number of the page.
    pub page: u64,
}

/// The pages of a range of intervals, kept in memory until its tuples are there and were copied.
#[derive(Debug)]
#[must_use = "the pages stay in memory until they are released"]
pub struct KeptPages {
    /// The numbers of pages that must be read.
    missing: Vec<u64>,
    pages: Vec<Miss>,
}

impl KeptPages {
    /// The numbers of pages that must be read.
    #[must_use]
    pub fn missing(&self) -> &[u64] {
        &self.missing
    }
}

#[derive(Debug)]
pub(super) struct TupleCache {
    layout: Layout,
    pages: HashMap<u64, CachedPage, RandomState>,
    /// The numbers of `pages`.
    numbers: PageSet,
    unwritten: UnwrittenPages,
    /// The clock of the second-chance eviction: all pages, the next to be looked at first.
    clock: VecDeque<u64>,
    /// Bytes there may be; only fetches go beyond, by one page each.
    limit: usize,
    /// Bytes there are.
    used: usize,
    /// Changes up to this page of the log are in the array.
    checkpointed: u64,
    dirty: Dirty,
}

impl TupleCache {
    pub(super) fn new(layout: Layout, bytes: usize, checkpointed: u64) -> Self {
        Self {
            layout,
            pages: HashMap::default(),
            numbers: PageSet::default(),
            unwritten: UnwrittenPages::default(),
            clock: VecDeque::new(),
            limit: bytes,
            used: 0,
            checkpointed,
            dirty: Dirty::default(),
        }
    }

    /// The memory that tuples may use, in bytes.
    pub(super) fn limit(&self) -> usize {
        self.limit
    }

    /// The memory that they use, in bytes.
    pub(super) fn used(&self) -> usize {
        self.used
    }

    /// Whether half of the memory waits for a checkpoint, which should begin then.
    pub(super) fn is_half_dirty(&self) -> bool {
        self.bytes_dirty() > self.limit / 2
    }

    /// Keeps the pages of `intervals` in memory until the `change` for which they are pinned. False
    /// when there is no room.
    pub(super) fn pin(&mut self, intervals: &Range<u64>, change: Change<'_>) -> bool {
        let whole = self.whole_pages(intervals, change);
        let cost_of_part = |part: Range<u64>| {
            let page = self.pages.get(&self.layout.page_of(part.start));
            CachedPage::cost_of_change(page, self.slots(&part).len())
        };
        let cost_of_whole = if whole.is_empty() { 0 } else { UnwrittenPages::cost_of_change() };
        let cost = self.parts_beside(intervals, &whole).map(cost_of_part).sum::<usize>() + cost_of_whole;
        if !self.make_room(cost) {
            return false;
        }
        for part in self.parts_beside(intervals, &whole) {
            self.pin_page(self.layout.page_of(part.start));
        }
        if !whole.is_empty() {
            self.unwritten.expect();
        }
        true
    }

    /// Makes a change whose record is in page `seq` of the log, and unpins its pages.
    pub(super) fn change(&mut self, intervals: &Range<u64>, change: Change<'_>, seq: u64) {
        let (whole, shape) = (self.whole_pages(intervals, change), self.shape());
        for part in self.parts_beside(intervals, &whole) {
            let slots = self.slots(&part);
            let part_of_change = change.part(intervals, &part, shape.tuple_size);
            self.update(self.layout.page_of(part.start), |page| {
                page.change(slots, part_of_change, shape);
                page.newest = page.newest.max(seq);
                page.pins -= 1;
            });
        }
        if !whole.is_empty() {
            self.make_unwritten(&whole, seq);
            self.unwritten.expect_no_more();
        }
    }

    /// As [`Self::change`], of intervals that were not pinned for it.
    pub(super) fn write_unpinned(&mut self, intervals: &Range<u64>, tuples: &[u8], seq: u64) {
        let tuple_size = self.shape().tuple_size;
        for part in self.layout.parts(intervals) {
            self.pin_page(self.layout.page_of(part.start));
            self.change(&part, Change::Written(tuples).part(intervals, &part, tuple_size), seq);
        }
    }

    /// The pages that `change` makes unwritten as a whole.
    fn whole_pages(&self, intervals: &Range<u64>, change: Change<'_>) -> Range<u64> {
        match change {
            Change::Unwritten => self.layout.whole_pages(intervals),
            Change::Written(_) => 0..0,
        }
    }

    /// The parts of `intervals` in each of its pages, but for those in the pages `whole`.
    fn parts_beside(
        &self,
        intervals: &Range<u64>,
        whole: &Range<u64>,
    ) -> impl Iterator<Item = Range<u64>> + use<> {
        let within = if whole.is_empty() {
            intervals.end..intervals.end
        } else {
            self.layout.intervals_of_pages(whole)
        };
        let (before, behind) = (intervals.start..within.start, within.end..intervals.end);
        self.layout.parts(&before).chain(self.layout.parts(&behind))
    }

    fn make_unwritten(&mut self, pages: &Range<u64>, seq: u64) {
        let shape = self.shape();
        for number in self.numbers.within(pages) {
            let slots = self.slots(&self.layout.intervals_of(number));
            self.update(number, |page| {
                if page.pins == 0 {
                    page.forget();
                } else {
                    // a fetch that began before may still bring the old tuples
                    page.change(slots, Change::Unwritten, shape);
                    page.newest = page.newest.max(seq);
                }
            });
        }
        self.unwritten.insert(pages, seq);
    }

    /// Copies the tuples of `intervals`. Fails with the first page that must be read for it.
    pub(super) fn copy(&mut self, intervals: &Range<u64>, tuples: &mut [u8]) -> Result<(), Miss> {
        let tuple_size = self.layout.profile().tuple_size();
        let mut rest = tuples;
        for part in self.layout.parts(intervals) {
            let (number, slots) = (self.layout.page_of(part.start), self.slots(&part));
            let (these, others) = rest.split_at_mut(slots.len() * tuple_size);
            match self.pages.get_mut(&number) {
                Some(page) if page.has(slots.clone()) => {
                    page.referenced = true;
                    page.copy(slots, tuple_size, these);
                }
                page if self.unwritten.contains(number) => {
                    these.fill(0);
                    if let Some(page) = page {
                        page.copy_present(slots, tuple_size, these);
                    }
                }
                _ => return Err(self.miss(number)),
            }
            rest = others;
        }
        Ok(())
    }

    /// As [`Self::copy`], but fails with all pages of `intervals`, so that those that are missing
    /// can be read at the same time, and the others stay.
    pub(super) fn copy_or_keep(
        &mut self,
        intervals: &Range<u64>,
        tuples: &mut [u8],
    ) -> Result<(), KeptPages> {
        let Err(first) = self.copy(intervals, tuples) else { return Ok(()) };
        let mut kept = KeptPages { missing: Vec::new(), pages: vec![first] };
        for part in self.layout.parts(intervals) {
            let (number, slots) = (self.layout.page_of(part.start), self.slots(&part));
            let is_here = self.pages.get(&number).is_some_and(|page| page.has(slots));
            if is_here || self.unwritten.contains(number) {
                self.pin_page(number);
                kept.pages.push(Miss { page: number });
                if !is_here {
                    // it may be in the array before the others have arrived
                    self.fill_page(number, None);
                }
            } else {
                kept.missing.push(number);
            }
        }
        // room for these is made when the others cannot be evicted any more
        for number in &kept.missing {
            kept.pages.push(self.miss(*number));
        }
        Err(kept)
    }

    /// The pages may be evicted again.
    pub(super) fn release(&mut self, kept: KeptPages) {
        for miss in kept.pages {
            self.fill(&miss, None);
        }
    }

    /// Puts in the tuples of a page that was read, but for those that are here already: they may be
    /// newer. Without a page, because it could not be read, only gives up the fetch.
    pub(super) fn fill(&mut self, miss: &Miss, read: Option<&TuplePage>) {
        if let Some(read) = read {
            self.supply(read);
        }
        self.update(miss.page, |page| page.pins -= 1);
    }

    /// Puts in the tuples of a page that was read, if it is kept in memory for that.
    pub(super) fn supply(&mut self, read: &TuplePage) {
        // it may have been read before a change that made it unwritten
        let is_newer = self.unwritten.contains(read.page);
        self.fill_page(read.page, Some(read).filter(|_| !is_newer));
    }

    /// Puts in the tuples of a page that was read, or unwritten ones.
    fn fill_page(&mut self, number: u64, read: Option<&TuplePage>) {
        let shape = self.shape();
        self.update(number, |page| page.fill(read.map(|read| &read.tuples[..]), shape));
    }

    /// Keeps a page that the array does not have, and never will.
    pub(super) fn keep(&mut self, page: TuplePage) {
        let number = page.page;
        let kept = CachedPage::kept(page);
        self.used += kept.cost();
        if let Some(before) = self.pages.insert(number, kept) {
            self.used -= before.cost();
        } else {
            self.clock.push_back(number);
            self.numbers.insert(number);
        }
    }

    /// Keeps pages that are unwritten as a whole, which the array does not know and never will.
    pub(super) fn keep_unwritten(&mut self, pages: &Range<u64>) {
        self.unwritten.insert(pages, u64::MAX);
    }

    /// All changes up to page `seq` of the log are in the array now.
    pub(super) fn checkpointed(&mut self, seq: u64) {
        self.dirty.forget(seq - self.checkpointed);
        self.checkpointed = seq;
        self.unwritten.checkpointed(seq);
    }

    /// Bytes that wait for a checkpoint.
    fn bytes_dirty(&self) -> usize {
        self.dirty.total + self.unwritten.bytes()
    }

    fn miss(&mut self, page: u64) -> Miss {
        if !self.pages.contains_key(&page) {
            // a read succeeds even when changes fill the memory
            self.make_room(CachedPage::cost_of_change(None, self.shape().tuples));
        }
        self.pin_page(page);
        Miss { page }
    }

    fn pin_page(&mut self, number: u64) {
        let page = self.pages.entry(number).or_insert_with(|| {
            let page = CachedPage::empty();
            self.clock.push_back(number);
            self.numbers.insert(number);
            self.used += page.cost();
            page
        });
        page.pins += 1;
        page.referenced = true;
    }

    /// Changes a page, if it is here, and counts the memory that it has then.
    fn update(&mut self, number: u64, change: impl FnOnce(&mut CachedPage)) {
        let Some(page) = self.pages.get_mut(&number) else {
            return;
        };
        let before = (page.cost(), page.newest);
        change(page);
        let after = (page.cost(), page.newest);
        self.used = self.used - before.0 + after.0;
        self.dirty.remove(before, self.checkpointed);
        self.dirty.add(after, self.checkpointed);
    }

    /// Evicts until `bytes` more are within the limit. False when what is here must stay.
    fn make_room(&mut self, bytes: usize) -> bool {
        let mut steps = STEPS_MAX;
        while self.used + self.unwritten.bytes() + bytes > self.limit {
            // where hardly a page is free to go, looking for it would cost more than it is worth
            if steps == 0 || self.bytes_dirty() > self.limit / 4 * 3 {
                return false;
            }
            steps -= 1;
            let Some(number) = self.clock.pop_front() else {
                return false;
            };
            let Some(page) = self.pages.get_mut(&number) else {
                continue;
            };
            if page.pins > 0 || page.newest > self.checkpointed || page.referenced {
                page.referenced = false;
                self.clock.push_back(number);
            } else {
                self.used -= page.cost();
                self.pages.remove(&number);
                self.numbers.remove(number);
            }
        }
        true
    }

    fn shape(&self) -> Shape {
        Shape { tuples: self.layout.tuples_per_page(), tuple_size: self.layout.profile().tuple_size() }
    }

    /// The places in their page of the tuples of `part`.
    #[expect(clippy::cast_possible_truncation, reason = "places in a page")]
    fn slots(&self, part: &Range<u64>) -> Range<usize> {
        let per_page = self.layout.tuples_per_page() as u64;
        let first = (part.start % per_page) as usize;
        first..first + (part.end - part.start) as usize
    }
}

#[cfg(test)]
mod tests;
