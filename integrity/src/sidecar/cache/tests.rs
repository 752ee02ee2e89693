//! Tests of the tuples in memory.

use std::collections::BTreeSet;

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;
use crate::sidecar::{PAGE_SIZE, Superblock};
use crate::{Guard, IntegrityProfile, PiType};

/// A change of which only the kind counts.
const WRITE: Change<'static> = Change::Written(&[]);

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
    assert!(cache.pin(&(7..8), WRITE));
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
    while cache.pin(&interval(changed), WRITE) {
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
    assert!(cache.pin(&interval(200), WRITE));
}

#[test]
fn a_discard_of_any_size_costs_as_much_as_its_pieces() {
    let profile = IntegrityProfile::new(Guard::Crc64Nvme, PiType::Type1, 4096).unwrap();
    let layout = Superblock::new([1; 16], profile, 1 << 40).unwrap().layout().clone();
    let (intervals, middle) = (layout.intervals(), layout.intervals() / 2);
    let mut cache = TupleCache::new(layout, 2048 * PAGE_SIZE, 0);
    assert!(cache.pin(&(middle..middle + 1), WRITE));
    cache.change(&(middle..middle + 1), Change::Written(&[9; 16]), 1);
    assert!(cache.pin(&(0..intervals), Change::Unwritten));
    cache.change(&(0..intervals), Change::Unwritten, 2);
    assert_eq!(cache.pages.len(), 1);
    for (seq, piece) in (3..).zip(0..1000) {
        // none begins or ends where a page does
        let piece = piece * (intervals / 1000) + 7..(piece + 1) * (intervals / 1000) + 7;
        assert!(cache.pin(&piece, Change::Unwritten));
        cache.change(&piece, Change::Unwritten, seq);
    }
    assert!(cache.pages.len() <= 1001 && cache.used + cache.unwritten.bytes() <= cache.limit);
    let mut tuples = [1; 3 * 16];
    cache.copy(&(middle - 1..middle + 2), &mut tuples).unwrap();
    assert_eq!(tuples, [0; 3 * 16]);
    cache.checkpointed(1003);
    assert_eq!(cache.unwritten.bytes(), 0);
}

/// An action of a test on some pages.
#[derive(Debug, Clone)]
enum Action {
    Write(Range<u64>, u8),
    Discard(Range<u64>),
    /// A zeroing that has failed, and left these tuples in the part that is written.
    FailedDiscard(Range<u64>, u8),
    Read(Range<u64>),
    /// A read of an interval whose page has not arrived yet.
    BeginRead(u64),
    EndRead,
    Checkpoint,
}

const PAGES: usize = 6;
const INTERVALS: usize = PAGES * 248;

fn actions() -> impl Strategy<Value = Vec<Action>> {
    let range = |most: u64| {
        let end = INTERVALS as u64;
        (0..end, 1..most).prop_map(move |(first, count)| first..(first + count).min(end))
    };
    let one = || (0..INTERVALS as u64).prop_map(|first| first..first + 1);
    let action = prop_oneof![
        4 => (one(), 1_u8..).prop_map(|(range, byte)| Action::Write(range, byte)),
        1 => (range(100), 1_u8..).prop_map(|(range, byte)| Action::Write(range, byte)),
        1 => range(100).prop_map(Action::Discard),
        2 => range(INTERVALS as u64).prop_map(Action::Discard),
        1 => (range(INTERVALS as u64), 1_u8..).prop_map(|(range, byte)| Action::FailedDiscard(range, byte)),
        2 => range(100).prop_map(Action::Read),
        1 => range(600).prop_map(Action::Read),
        1 => (0..INTERVALS as u64).prop_map(Action::BeginRead),
        1 => Just(Action::EndRead),
        1 => Just(Action::Checkpoint),
    ];
    vec(action, 1..60)
}

/// The cache, beside plain arrays of tuples, each as long as the byte that it is made of.
struct Model {
    cache: TupleCache,
    newest: [u8; INTERVALS],
    array: [u8; INTERVALS],
    /// The interval that a read waits for, and the bytes that were in the array.
    reading: Option<(u64, KeptPages, TuplePage)>,
}

fn place(interval: u64) -> usize {
    usize::try_from(interval).unwrap()
}

fn places(range: &Range<u64>) -> Range<usize> {
    place(range.start)..place(range.end)
}

fn tuples_of(bytes: &[u8]) -> Vec<u8> {
    bytes.iter().flat_map(|byte| [*byte; 16]).collect()
}

impl Model {
    fn stored(&self, page: u64) -> TuplePage {
        let tuples = tuples_of(&self.array[place(page) * 248..][..248]);
        TuplePage { page, tuples, lost: Vec::new() }
    }

    fn is_read(&self, range: &Range<u64>) -> bool {
        self.reading.as_ref().is_some_and(|(interval, ..)| range.contains(interval))
    }

    fn apply(&mut self, action: Action, seq: u64) {
        match action {
            Action::Write(range, _) | Action::Discard(range) | Action::FailedDiscard(range, _)
                if self.is_read(&range) => {}
            Action::Write(range, byte) => {
                let tuples = vec![byte; places(&range).len() * 16];
                if self.cache.pin(&range, Change::Written(&tuples)) {
                    self.cache.change(&range, Change::Written(&tuples), seq);
                    self.newest[places(&range)].fill(byte);
                }
            }
            Action::Discard(range) => {
                if self.cache.pin(&range, Change::Unwritten) {
                    self.cache.change(&range, Change::Unwritten, seq);
                    self.newest[places(&range)].fill(0);
                }
            }
            Action::FailedDiscard(range, byte) => {
                if self.cache.pin(&range, Change::Unwritten) {
                    let written = range.start..range.start + (range.end - range.start).div_ceil(2);
                    let tuples = vec![byte; places(&written).len() * 16];
                    self.cache.change(&range, Change::Unwritten, seq);
                    self.cache.write_unpinned(&written, &tuples, seq);
                    self.newest[places(&range)].fill(0);
                    self.newest[places(&written)].fill(byte);
                }
            }
            Action::Read(range) => self.read(&range),
            Action::BeginRead(interval) if self.reading.is_none() => {
                let kept = self.cache.copy_or_keep(&(interval..interval + 1), &mut [0; 16]);
                let stored = self.stored(interval / 248);
                self.reading = kept.err().map(|kept| (interval, kept, stored));
            }
            Action::BeginRead(_) => {}
            Action::EndRead => {
                if let Some((interval, kept, stored)) = self.reading.take() {
                    self.cache.supply(&stored);
                    let mut tuple = [0xEE; 16];
                    self.cache.copy(&(interval..interval + 1), &mut tuple).unwrap();
                    assert_eq!(tuple, [self.newest[place(interval)]; 16]);
                    self.cache.release(kept);
                }
            }
            Action::Checkpoint => {
                self.array = self.newest;
                self.cache.checkpointed(seq);
                assert_eq!(self.cache.bytes_dirty(), 0);
            }
        }
    }

    fn read(&mut self, range: &Range<u64>) {
        let mut tuples = vec![0xEE; places(range).len() * 16];
        if let Err(kept) = self.cache.copy_or_keep(range, &mut tuples) {
            for page in kept.missing() {
                let stored = self.stored(*page);
                self.cache.supply(&stored);
            }
            self.cache.copy(range, &mut tuples).unwrap();
            self.cache.release(kept);
        }
        assert_eq!(tuples, tuples_of(&self.newest[places(range)]));
    }
}

proptest! {
    #[test]
    fn tuples_are_those_of_a_plain_array(actions in actions()) {
        let (newest, array) = ([0; INTERVALS], [0; INTERVALS]);
        let mut model = Model { cache: cache(3), newest, array, reading: None };
        for (seq, action) in (1..).zip(actions) {
            model.apply(action, seq);
            let cache = &model.cache;
            let (used, dirty) = cache.pages.values().fold((0, 0), |(used, dirty), page| {
                let is_dirty = page.newest > cache.checkpointed;
                (used + page.cost(), dirty + if is_dirty { page.cost() } else { 0 })
            });
            prop_assert_eq!((cache.used, cache.dirty.total), (used, dirty));
            let numbers: BTreeSet<_> = cache.pages.keys().copied().collect();
            prop_assert_eq!(cache.numbers.within(&(0..PAGES as u64)), Vec::from_iter(numbers));
        }
    }
}
