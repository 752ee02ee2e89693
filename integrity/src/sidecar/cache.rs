//! The tuples in memory: those that the array does not have yet, which must stay, and others as far
//! as there is room.
//!
//! It holds pages of the array. A page need not be whole: a write puts its own tuples in without a
//! read, and only a read of others fetches the page. The caller's range lock keeps a tuple that is
//! being fetched or written from changing in between.

use std::collections::{HashMap, VecDeque};
use std::ops::Range;

use foldhash::fast::RandomState;

use super::array::{Change, TuplePage};
use super::layout::Layout;
use super::{PAGE_SIZE, SECTOR_SIZE};

/// Words of a bit for each tuple of a page: 504 at most, of 8 bytes.
const WORDS: usize = (PAGE_SIZE - PAGE_SIZE / SECTOR_SIZE * 8) / 8 / 64 + 1;

/// A page that has to be read before its tuples can be had. It is kept in memory until it was
/// filled, or forgotten.
#[derive(Debug)]
#[must_use]
pub struct Miss {
    /// The number of the page.
    pub page: u64,
}

#[derive(Debug)]
struct CachedPage {
    tuples: Box<[u8]>,
    /// One bit for each tuple that is here.
    valid: [u64; WORDS],
    /// The last page of the log with a change of this page. Until that is checkpointed the array
    /// lacks the change.
    newest: u64,
    /// Changes and fetches under way.
    pins: u32,
    /// Used since the clock's hand came by.
    referenced: bool,
}

#[derive(Debug)]
pub(super) struct TupleCache {
    layout: Layout,
    pages: HashMap<u64, CachedPage, RandomState>,
    /// The clock of the second-chance eviction: all pages, the next to be looked at first.
    clock: VecDeque<u64>,
    /// Pages there may be; only fetches go beyond, by one page each.
    limit: usize,
    /// Changes up to this page of the log are in the array.
    checkpointed: u64,
    /// Pages with changes that are not.
    dirty: usize,
}

impl TupleCache {
    pub(super) fn new(layout: Layout, bytes: usize, checkpointed: u64) -> Self {
        let limit = bytes / PAGE_SIZE;
        let (pages, clock) = (HashMap::default(), VecDeque::new());
        Self { layout, pages, clock, limit, checkpointed, dirty: 0 }
    }

    /// Whether half of the memory waits for a checkpoint, which should begin then.
    pub(super) fn is_half_dirty(&self) -> bool {
        self.dirty > self.limit / 2
    }

    /// Keeps the pages of `intervals` in memory until the change for which they are pinned. False
    /// when there is no room.
    pub(super) fn pin(&mut self, intervals: &Range<u64>) -> bool {
        let pages = self.layout.page_of(intervals.start)..self.layout.page_of(intervals.end - 1) + 1;
        let missing = pages.clone().filter(|page| !self.pages.contains_key(page)).count();
        if !self.make_room(missing) {
            return false;
        }
        for page in pages {
            self.pin_page(page);
        }
        true
    }

    /// Makes a change whose record is in page `seq` of the log, and unpins its pages.
    pub(super) fn change(&mut self, intervals: &Range<u64>, change: Change<'_>, seq: u64) {
        let tuple_size = self.layout.profile().tuple_size();
        for part in self.layout.parts(intervals) {
            let slots = self.slots(&part);
            let Some(page) = self.pages.get_mut(&self.layout.page_of(part.start)) else {
                continue;
            };
            let bytes = slots.start * tuple_size..slots.end * tuple_size;
            change.part(intervals, &part, tuple_size).apply(&mut page.tuples[bytes]);
            for slot in slots {
                page.valid[slot / 64] |= 1 << (slot % 64);
            }
            self.dirty += usize::from(page.newest <= self.checkpointed && seq > self.checkpointed);
            page.newest = page.newest.max(seq);
            page.pins -= 1;
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
            these.copy_from_slice(&page.tuples[slots.start * tuple_size..slots.end * tuple_size]);
            rest = others;
        }
        Ok(())
    }

    /// Puts in the tuples of a page that was read, but for those that are here already: they may be
    /// newer. Without a page, because it could not be read, only gives up the fetch.
    pub(super) fn fill(&mut self, miss: &Miss, read: Option<&TuplePage>) {
        let tuple_size = self.layout.profile().tuple_size();
        let Some(page) = self.pages.get_mut(&miss.page) else {
            return;
        };
        page.pins -= 1;
        let read = read.into_iter().flat_map(|read| read.tuples.chunks_exact(tuple_size));
        for (slot, (mine, read)) in page.tuples.chunks_exact_mut(tuple_size).zip(read).enumerate() {
            let (word, bit) = (slot / 64, 1 << (slot % 64));
            if page.valid[word] & bit == 0 {
                mine.copy_from_slice(read);
                page.valid[word] |= bit;
            }
        }
    }

    /// Keeps a page that the array does not have, and never will.
    pub(super) fn keep(&mut self, page: TuplePage) {
        let kept = CachedPage {
            tuples: page.tuples.into(),
            valid: [u64::MAX; WORDS],
            newest: u64::MAX,
            pins: 0,
            referenced: true,
        };
        self.dirty += usize::from(self.pages.insert(page.page, kept).is_none());
        self.clock.push_back(page.page);
    }

    /// All changes up to page `seq` of the log are in the array now.
    pub(super) fn checkpointed(&mut self, seq: u64) {
        self.checkpointed = seq;
        self.dirty = self.pages.values().filter(|page| page.newest > seq).count();
    }

    fn miss(&mut self, page: u64) -> Miss {
        if !self.pages.contains_key(&page) {
            // a read succeeds even when changes fill the memory
            self.make_room(1);
        }
        self.pin_page(page);
        Miss { page }
    }

    fn pin_page(&mut self, number: u64) {
        let len = self.layout.tuples_per_page() * self.layout.profile().tuple_size();
        let page = self.pages.entry(number).or_insert_with(|| {
            self.clock.push_back(number);
            let tuples = vec![0; len].into();
            CachedPage { tuples, valid: [0; WORDS], newest: 0, pins: 0, referenced: false }
        });
        page.pins += 1;
        page.referenced = true;
    }

    /// Evicts until `pages` more are within the limit. False when what is here must stay.
    fn make_room(&mut self, pages: usize) -> bool {
        // each page may have to be passed once to take its reference away, and once more
        let mut steps = self.clock.len() * 2;
        while self.pages.len() + pages > self.limit {
            // where hardly a page is free to go, looking for it would cost more than it is worth
            if steps == 0 || self.dirty > self.limit / 4 * 3 {
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
                self.pages.remove(&number);
            }
        }
        true
    }

    /// The places in their page of the tuples of `part`.
    #[expect(clippy::cast_possible_truncation, reason = "places in a page")]
    fn slots(&self, part: &Range<u64>) -> Range<usize> {
        let per_page = self.layout.tuples_per_page() as u64;
        let first = (part.start % per_page) as usize;
        first..first + (part.end - part.start) as usize
    }
}

impl CachedPage {
    fn has(&self, mut slots: Range<usize>) -> bool {
        slots.all(|slot| self.valid[slot / 64] & (1 << (slot % 64)) != 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sidecar::Superblock;
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
        assert_eq!(changed, 8);
        let mut tuple = [0; 16];
        for number in 0..changed {
            cache.copy(&interval(number), &mut tuple).unwrap();
        }
        cache.checkpointed(changed);
        for number in 0..100 {
            if let Err(miss) = cache.copy(&interval(number), &mut tuple) {
                cache.fill(&miss, Some(&page(number, 1)));
            }
        }
        assert_eq!(cache.pages.len(), 8);
        assert!(cache.pin(&interval(200)));
    }
}
