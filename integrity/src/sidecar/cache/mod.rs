//! The tuples in memory: those that the array does not have yet, which must stay, and others as far
//! as there is room.
//!
//! It holds pages of the array. A page need not be whole: a write puts its own tuples in without a
//! read, in a few bytes each (`page.rs`), and only a read of others fetches the page. The caller's
//! range lock keeps a tuple that is being fetched or written from changing in between.

mod dirty;
mod page;

use std::collections::{HashMap, VecDeque};
use std::ops::Range;

use foldhash::fast::RandomState;

use self::dirty::Dirty;
use self::page::{CachedPage, Shape};
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
        let (pages, clock) = (HashMap::default(), VecDeque::new());
        Self { layout, pages, clock, limit: bytes, used: 0, checkpointed, dirty: Dirty::default() }
    }

    /// Whether half of the memory waits for a checkpoint, which should begin then.
    pub(super) fn is_half_dirty(&self) -> bool {
        self.dirty.total > self.limit / 2
    }

    /// Keeps the pages of `intervals` in memory until the change for which they are pinned. False
    /// when there is no room.
    pub(super) fn pin(&mut self, intervals: &Range<u64>) -> bool {
        let parts = || self.layout.parts(intervals).map(|part| (self.layout.page_of(part.start), part));
        let cost = |(page, part): (u64, Range<u64>)| {
            CachedPage::cost_of_change(self.pages.get(&page), self.slots(&part).len())
        };
        if !self.make_room(parts().map(cost).sum()) {
            return false;
        }
        let pages = self.layout.page_of(intervals.start)..self.layout.page_of(intervals.end - 1) + 1;
        for page in pages {
            self.pin_page(page);
        }
        true
    }

    /// Makes a change whose record is in page `seq` of the log, and unpins its pages.
    pub(super) fn change(&mut self, intervals: &Range<u64>, change: Change<'_>, seq: u64) {
        let shape = self.shape();
        for part in self.layout.parts(intervals) {
            let slots = self.slots(&part);
            let part_of_change = change.part(intervals, &part, shape.tuple_size);
            self.update(self.layout.page_of(part.start), |page| {
                page.change(slots, part_of_change, shape);
                page.newest = page.newest.max(seq);
                page.pins -= 1;
            });
        }
    }

    /// Copies the tuples of `intervals`. Fails with the first page that must be read for it.
    pub(super) fn copy(&mut self, intervals: &Range<u64>, tuples: &mut [u8]) -> Result<(), Miss> {
        let tuple_size = self.layout.profile().tuple_size();
        let mut rest = tuples;
        for part in self.layout.parts(intervals) {
            let (number, slots) = (self.layout.page_of(part.start), self.slots(&part));
            let here = self.pages.get_mut(&number).filter(|page| page.has(slots.clone()));
            let Some(page) = here else {
                return Err(self.miss(number));
            };
            page.referenced = true;
            let (these, others) = rest.split_at_mut(slots.len() * tuple_size);
            page.copy(slots, tuple_size, these);
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
            if self.pages.get(&number).is_some_and(|page| page.has(slots)) {
                self.pin_page(number);
                kept.pages.push(Miss { page: number });
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
        let shape = self.shape();
        self.update(read.page, |page| page.fill(read, shape));
    }

    /// Keeps a page that the array does not have, and never will.
    pub(super) fn keep(&mut self, page: TuplePage) {
        let number = page.page;
        let kept = CachedPage::kept(page);
        self.used += kept.cost();
        match self.pages.insert(number, kept) {
            Some(before) => self.used -= before.cost(),
            None => self.clock.push_back(number),
        }
    }

    /// All changes up to page `seq` of the log are in the array now.
    pub(super) fn checkpointed(&mut self, seq: u64) {
        self.dirty.forget(seq - self.checkpointed);
        self.checkpointed = seq;
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
        while self.used + bytes > self.limit {
            // where hardly a page is free to go, looking for it would cost more than it is worth
            if steps == 0 || self.dirty.total > self.limit / 4 * 3 {
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
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;
    use crate::sidecar::{PAGE_SIZE, Superblock};
    use crate::{Guard, IntegrityProfile, PiType};

    fn cache(pages: usize) -> TupleCache {
        let profile = IntegrityProfile::new(Guard::Crc64Nvme, PiType::Type1, 4096).unwrap();
        let layout = Superblock::new([1; 16], profile, 1 << 30).unwrap().layout().clone();
        TupleCache::new(layout, pages * PAGE_SIZE, 0)
    }

    fn page(number: u64, byte: u8) -> TuplePage {
        TuplePage { page: number, tuples: vec![byte; 248 * 16], lost: Vec::new() }
    }

    #[test]
    fn what_was_written_is_newer_than_what_is_fetched() {
        let mut cache = cache(256);
        assert!(cache.pin(&(7..8)));
        let mut tuples = [0; 32];
        let miss = cache.copy(&(6..8), &mut tuples).unwrap_err();
        cache.change(&(7..8), Change::Written(&[9; 16]), 1);
        cache.fill(&miss, Some(&page(0, 5)));
        cache.copy(&(6..8), &mut tuples).unwrap();
        assert_eq!((&tuples[..16], &tuples[16..]), (&[5; 16][..], &[9; 16][..]));
    }

    #[test]
    fn a_range_over_two_pages_needs_both() {
        let mut cache = cache(256);
        let mut tuples = [0; 32];
        for (number, byte) in [(0, 1), (1, 2)] {
            let miss = cache.copy(&(247..249), &mut tuples).unwrap_err();
            assert_eq!(miss.page, number);
            cache.fill(&miss, Some(&page(number, byte)));
        }
        cache.copy(&(247..249), &mut tuples).unwrap();
        assert_eq!((tuples[0], tuples[16]), (1, 2));
    }

    #[test]
    fn all_missing_pages_of_a_range_are_named_at_once() {
        let mut cache = cache(256);
        let three_pages = 100..600;
        let mut tuples = vec![0; 500 * 16];
        let miss = cache.copy(&(248..249), &mut tuples).unwrap_err();
        cache.fill(&miss, Some(&page(1, 7)));
        let kept = cache.copy_or_keep(&three_pages, &mut tuples).unwrap_err();
        assert_eq!(kept.missing(), [0, 2]);
        for number in kept.missing() {
            cache.supply(&page(*number, 5));
        }
        cache.copy(&three_pages, &mut tuples).unwrap();
        cache.release(kept);
        assert!(cache.pages.values().all(|page| page.pins == 0));
        assert_eq!((tuples[0], tuples[200 * 16], tuples[499 * 16]), (5, 7, 5));
    }

    #[test]
    fn a_page_that_cannot_be_read_is_asked_for_again() {
        let mut cache = cache(256);
        for _ in 0..2 {
            let miss = cache.copy(&(0..1), &mut [0; 16]).unwrap_err();
            cache.fill(&miss, None);
        }
        assert_eq!(cache.pages[&0].pins, 0);
    }

    #[test]
    fn changes_stay_until_they_are_checkpointed_and_memory_is_bounded() {
        let mut cache = cache(8);
        let interval = |page: u64| page * 248..page * 248 + 1;
        let mut changed = 0;
        while cache.pin(&interval(changed)) {
            cache.change(&interval(changed), Change::Written(&[1; 16]), changed + 1);
            changed += 1;
        }
        // a change of one tuple takes a small part of a page
        assert!(changed > 8 * 8 && cache.used <= cache.limit, "{changed} changes in {} bytes", cache.used);
        assert!(cache.is_half_dirty());
        let mut tuple = [0; 16];
        for number in 0..changed {
            cache.copy(&interval(number), &mut tuple).unwrap();
        }
        cache.checkpointed(changed);
        assert_eq!(cache.dirty.total, 0);
        for number in 0..100 {
            if let Err(miss) = cache.copy(&interval(number), &mut tuple) {
                cache.fill(&miss, Some(&page(number, 1)));
            }
        }
        assert!(cache.used <= cache.limit + PAGE_SIZE + 256);
        assert!(cache.pin(&interval(200)));
    }

    /// An action of a test on three pages.
    #[derive(Debug, Clone)]
    enum Action {
        Write(Range<u64>, u8),
        Discard(Range<u64>),
        Read(Range<u64>),
        Checkpoint,
    }

    fn actions() -> impl Strategy<Value = Vec<Action>> {
        let range =
            || (0_u64..3 * 248, 1_u64..100).prop_map(|(first, count)| first..(first + count).min(3 * 248));
        let one = || (0_u64..3 * 248).prop_map(|first| first..first + 1);
        let action = prop_oneof![
            4 => (one(), 1_u8..).prop_map(|(range, byte)| Action::Write(range, byte)),
            1 => (range(), 1_u8..).prop_map(|(range, byte)| Action::Write(range, byte)),
            1 => range().prop_map(Action::Discard),
            2 => range().prop_map(Action::Read),
            1 => Just(Action::Checkpoint),
        ];
        vec(action, 1..60)
    }

    proptest! {
        /// Of an array of tuples, each as long as the byte that it is made of.
        #[test]
        fn tuples_are_those_of_a_plain_array(actions in actions()) {
            let mut cache = cache(3);
            let (mut newest, mut array) = ([0_u8; 3 * 248], [0_u8; 3 * 248]);
            let at = |interval: u64| usize::try_from(interval).unwrap();
            for (seq, action) in (1..).zip(actions) {
                match action {
                    Action::Write(range, byte) => {
                        let tuples = vec![byte; at(range.end - range.start) * 16];
                        if cache.pin(&range) {
                            cache.change(&range, Change::Written(&tuples), seq);
                            newest[at(range.start)..at(range.end)].fill(byte);
                        }
                    }
                    Action::Discard(range) => if cache.pin(&range) {
                        cache.change(&range, Change::Unwritten, seq);
                        newest[at(range.start)..at(range.end)].fill(0);
                    },
                    Action::Read(range) => {
                        let mut tuples = vec![0xEE; at(range.end - range.start) * 16];
                        if let Err(kept) = cache.copy_or_keep(&range, &mut tuples) {
                            for page in kept.missing() {
                                let stored = array[at(*page) * 248..][..248].iter();
                                let tuples = stored.flat_map(|byte| [*byte; 16]).collect();
                                cache.supply(&TuplePage { page: *page, tuples, lost: Vec::new() });
                            }
                            cache.copy(&range, &mut tuples).unwrap();
                            cache.release(kept);
                        }
                        let expected = newest[at(range.start)..at(range.end)].iter().flat_map(|byte| [*byte; 16]);
                        prop_assert_eq!(tuples, expected.collect::<Vec<_>>());
                    }
                    Action::Checkpoint => {
                        array = newest;
                        cache.checkpointed(seq);
                        prop_assert_eq!(cache.dirty.total, 0);
                    }
                }
                let (used, dirty) = cache.pages.values().fold((0, 0), |(used, dirty), page| {
                    let is_dirty = page.newest > cache.checkpointed;
                    (used + page.cost(), dirty + if is_dirty { page.cost() } else { 0 })
                });
                prop_assert_eq!((cache.used, cache.dirty.total), (used, dirty));
            }
        }
    }
}
