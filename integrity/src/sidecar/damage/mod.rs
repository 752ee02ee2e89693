//! The damage list: the blocks whose verification has failed, and how far a scrub has come.
//!
//! The list is for people. No rule of the sidecar relies on it: each read verifies its blocks
//! whatever the list says. So it needs no order with other writes and no sync of its own, and one
//! that is torn or made up costs no more than its entries. [`encoding`] has its bytes, [`area`] its
//! place in the file.

mod area;
mod encoding;
mod scrub;

use std::collections::BTreeMap;
use std::ops::Range;

pub use self::area::{DamageArea, DamageNotes};
pub(super) use self::encoding::AREA_LEN;
pub use self::scrub::{ScrubRecord, ScrubState};

use super::tuples::Mismatch;
use crate::{PiError, Tag};

/// The largest number of ranges in a list.
pub const DAMAGED_RANGES_MAX: usize = encoding::RANGES_MAX;

/// The check that a block has failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FailedCheck {
    /// A tag is not as it should be.
    Tag(Tag),
    /// The tuple says that the block was never written, and the block is not all zeros.
    UnwrittenNotZero,
    /// The block's tuple was lost with its sector of the sidecar.
    TupleLost,
    /// The medium cannot read the block.
    Unreadable,
    /// The device has refused the read for a tag, and does not say which.
    Device,
}

/// The expected and the actual value of a tag.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TagValues {
    /// The expected value.
    pub expected: u64,
    /// The value found.
    pub actual: u64,
    /// Bits of the tag, up to 64.
    pub bits: u8,
}

/// The finder of a block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FoundBy {
    /// A request of the guest.
    Guest,
    /// A scrub.
    Scrub,
}

/// One block whose verification has failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Finding {
    /// The number of the block's interval.
    pub lba: u64,
    /// The check that failed.
    pub check: FailedCheck,
    /// The values of the tag, if a tag is wrong.
    pub tag: Option<TagValues>,
}

/// Blocks in a row that have failed the same check.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DamagedRange {
    /// The first block.
    pub first: u64,
    /// The number of blocks, at least one.
    pub blocks: u32,
    /// The check that they failed.
    pub check: FailedCheck,
    /// The values of the first block's tag, if a tag is wrong and they are known.
    pub tag: Option<TagValues>,
    /// Whether a request of the guest has found one of them.
    pub by_guest: bool,
    /// Whether a scrub has found one of them.
    pub by_scrub: bool,
    /// When the first of them was found, in seconds since 1970.
    pub first_seen: u64,
    /// When one of them was found last, in seconds since 1970.
    pub last_seen: u64,
}

/// The blocks whose verification has failed, and which were not written since.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DamageList {
    /// By their first block. They do not overlap.
    ranges: BTreeMap<u64, DamagedRange>,
    blocks: u64,
    unlisted: u64,
}

impl From<&Mismatch> for Finding {
    fn from(mismatch: &Mismatch) -> Self {
        let (check, tag) = match mismatch {
            Mismatch::Pi(error) => (FailedCheck::Tag(error.tag), Some(TagValues::of(error))),
            Mismatch::UnwrittenNotZero { .. } => (FailedCheck::UnwrittenNotZero, None),
            Mismatch::TupleLost { .. } => (FailedCheck::TupleLost, None),
        };
        Self { lba: mismatch.lba(), check, tag }
    }
}

impl TagValues {
    fn of(error: &PiError) -> Self {
        let bits = u8::try_from(error.tag_size).unwrap_or(64).min(64);
        Self { expected: error.expected, actual: error.actual, bits }
    }
}

impl DamagedRange {
    /// The blocks.
    #[must_use]
    pub fn lbas(&self) -> Range<u64> {
        self.first..self.first + u64::from(self.blocks)
    }

    /// Notes that one of its blocks was found again.
    fn seen(&mut self, by: FoundBy, now: u64) {
        self.last_seen = self.last_seen.max(now);
        self.by_guest |= by == FoundBy::Guest;
        self.by_scrub |= by == FoundBy::Scrub;
    }

    /// Takes in `next` if it begins where this range ends, and its blocks have failed the same
    /// check.
    fn join(&mut self, next: &Self) -> bool {
        let Some(blocks) = self.blocks.checked_add(next.blocks) else {
            return false;
        };
        if self.lbas().end != next.first || self.check != next.check {
            return false;
        }
        self.blocks = blocks;
        self.by_guest |= next.by_guest;
        self.by_scrub |= next.by_scrub;
        self.first_seen = self.first_seen.min(next.first_seen);
        self.last_seen = self.last_seen.max(next.last_seen);
        true
    }
}

impl DamageList {
    /// The ranges, in the order of their blocks.
    pub fn ranges(&self) -> impl Iterator<Item = &DamagedRange> {
        self.ranges.values()
    }

    /// The number of blocks in all ranges.
    #[must_use]
    pub fn blocks(&self) -> u64 {
        self.blocks
    }

    /// How often a block was found for which there was no room.
    #[must_use]
    pub fn unlisted(&self) -> u64 {
        self.unlisted
    }

    /// Whether it says nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.blocks == 0 && self.unlisted == 0
    }

    /// The blocks from the first that is listed to the last.
    #[must_use]
    pub fn span(&self) -> Range<u64> {
        let first = self.ranges.keys().next().copied().unwrap_or(0);
        first..self.ranges.values().next_back().map_or(0, |last| last.lbas().end)
    }

    /// Whether one of `lbas` is listed.
    #[must_use]
    pub fn has_any_of(&self, lbas: &Range<u64>) -> bool {
        self.overlapping(lbas).next().is_some()
    }

    /// Adds a block that was found at `now`, in seconds since 1970. Neighbours are joined only when
    /// there is no room, so that each block keeps its own values for as long as possible.
    pub fn add(&mut self, finding: &Finding, by: FoundBy, now: u64) {
        let Finding { lba, check, tag } = *finding;
        let known = self.overlapping(&(lba..lba + 1)).next().map(|range| range.first);
        if let Some(range) = known.and_then(|first| self.ranges.get_mut(&first)) {
            range.seen(by, now);
            if range.blocks == 1 {
                (range.check, range.tag) = (check, tag);
            }
            return;
        }
        let (by_guest, by_scrub) = (by == FoundBy::Guest, by == FoundBy::Scrub);
        let (first_seen, last_seen) = (now, now);
        self.insert(DamagedRange {
            first: lba,
            blocks: 1,
            check,
            tag,
            by_guest,
            by_scrub,
            first_seen,
            last_seen,
        });
    }

    /// Takes `lbas` out, because they were written or accepted. Returns how many were listed.
    pub fn clear(&mut self, lbas: &Range<u64>) -> u64 {
        let before = self.blocks;
        let touched: Vec<_> = self.overlapping(lbas).map(|range| range.first).collect();
        for first in touched {
            let Some(range) = self.ranges.remove(&first) else { continue };
            self.blocks -= u64::from(range.blocks);
            let all = range.lbas();
            let left = all.start..lbas.start.clamp(all.start, all.end);
            let right = lbas.end.clamp(all.start, all.end)..all.end;
            for (part, tag) in [(left, range.tag), (right, None)] {
                let blocks = u32::try_from(part.end - part.start).unwrap_or(u32::MAX);
                if blocks > 0 {
                    self.insert(DamagedRange { first: part.start, blocks, tag, ..range });
                }
            }
        }
        if self.ranges.is_empty() {
            self.unlisted = 0;
        }
        before.saturating_sub(self.blocks)
    }

    /// Adds a range that overlaps no other, or counts its blocks if there is no room.
    fn insert(&mut self, range: DamagedRange) {
        if self.ranges.len() >= DAMAGED_RANGES_MAX && !self.extend_neighbour(&range) {
            self.join_neighbours();
        }
        if self.has_any_of(&range.lbas()) {
            return;
        }
        if self.ranges.len() >= DAMAGED_RANGES_MAX {
            self.unlisted = self.unlisted.saturating_add(range.blocks.into());
            return;
        }
        self.blocks += u64::from(range.blocks);
        self.ranges.insert(range.first, range);
    }

    /// Makes the range before `next` include it, if the two can be joined.
    fn extend_neighbour(&mut self, next: &DamagedRange) -> bool {
        let before = self.ranges.range_mut(..next.first).next_back();
        let is_joined = before.is_some_and(|(_, before)| before.join(next));
        if is_joined {
            self.blocks += u64::from(next.blocks);
        }
        is_joined
    }

    fn join_neighbours(&mut self) {
        let mut joined: Vec<DamagedRange> = Vec::new();
        for range in std::mem::take(&mut self.ranges).into_values() {
            if !joined.last_mut().is_some_and(|last| last.join(&range)) {
                joined.push(range);
            }
        }
        self.ranges = joined.into_iter().map(|range| (range.first, range)).collect();
    }

    fn overlapping(&self, lbas: &Range<u64>) -> impl Iterator<Item = &DamagedRange> {
        let before = self.ranges.range(..lbas.start).next_back().map(|(_, range)| range);
        let (start, end) = (lbas.start, lbas.end.max(lbas.start));
        let within = self.ranges.range(start..end).map(|(_, range)| range);
        before.into_iter().filter(move |range| range.lbas().end > start && end > start).chain(within)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn guard(lba: u64) -> Finding {
        let tag = Some(TagValues { expected: lba, actual: !lba, bits: 64 });
        Finding { lba, check: FailedCheck::Tag(Tag::Guard), tag }
    }

    fn listed(list: &DamageList) -> Vec<u64> {
        list.ranges().flat_map(DamagedRange::lbas).collect()
    }

    #[test]
    fn a_block_that_is_found_again_keeps_its_first_time() {
        let mut list = DamageList::default();
        list.add(&guard(7), FoundBy::Guest, 100);
        list.add(&guard(7), FoundBy::Scrub, 200);
        let range = *list.ranges().next().unwrap();
        assert_eq!((range.first_seen, range.last_seen, range.blocks), (100, 200, 1));
        assert!(range.by_guest && range.by_scrub);
        assert_eq!((list.blocks(), list.clear(&(0..7)), list.clear(&(7..8))), (1, 0, 1));
        assert!(list.is_empty());
    }

    #[test]
    fn neighbours_keep_their_values_until_there_is_no_room() {
        let mut list = DamageList::default();
        let max = DAMAGED_RANGES_MAX as u64;
        (0..max).for_each(|lba| list.add(&guard(lba), FoundBy::Guest, 1));
        assert_eq!(list.ranges().filter(|range| range.tag == guard(range.first).tag).count() as u64, max);
        list.add(&guard(max), FoundBy::Guest, 2);
        list.add(&guard(max + 7), FoundBy::Guest, 3);
        assert_eq!((list.blocks(), list.ranges().count(), list.unlisted()), (max + 2, 2, 0));
    }

    #[test]
    fn blocks_without_room_are_counted() {
        let mut list = DamageList::default();
        let max = DAMAGED_RANGES_MAX as u64;
        (0..max + 3).for_each(|index| list.add(&guard(2 * index), FoundBy::Guest, 1));
        assert_eq!((list.blocks(), list.unlisted()), (max, 3));
        assert_eq!(list.clear(&(0..u64::MAX)), max);
        assert!(list.is_empty());
    }

    proptest! {
        /// Against a set of blocks.
        #[test]
        fn it_lists_exactly_what_was_found_and_not_cleared(
            steps in prop::collection::vec((any::<bool>(), 0u64..64, 1u64..9), 0..80), joins in any::<bool>()
        ) {
            let (mut list, mut model) = (DamageList::default(), BTreeSet::new());
            for (finds, lba, len) in steps {
                if finds {
                    list.add(&guard(lba), FoundBy::Guest, lba);
                    model.insert(lba);
                } else {
                    let before = model.len();
                    model.retain(|it| !(lba..lba + len).contains(it));
                    prop_assert_eq!(list.clear(&(lba..lba + len)), (before - model.len()) as u64);
                }
                if joins {
                    list.join_neighbours();
                }
                prop_assert_eq!(&listed(&list), &model.iter().copied().collect::<Vec<_>>());
                prop_assert_eq!(list.blocks(), model.len() as u64);
                let (first, end) = (model.first().copied(), model.last().map(|last| last + 1));
                prop_assert_eq!(list.span(), first.unwrap_or(0)..end.unwrap_or(0));
            }
        }
    }
}
