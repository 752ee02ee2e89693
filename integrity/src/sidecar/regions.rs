//! The regions that may be written: their dirty bits, and what is marked ahead.
//!
//! The first write to a clean region waits until its dirty bit is durable, which takes a sync. So
//! that a guest which writes all over its disk does not pay one for each MiB, a sync marks
//! neighbours of what was asked for along with it. Regions marked ahead cost nothing while the
//! disk is served. After a crash they are read like any dirty region, and damage there is adopted
//! and reported instead of found by a read. So their number follows that of the regions written,
//! and that of the writes that had to wait: where those are spread, each marks a quarter more than
//! is marked, up to the limit, and a few dozen cover a disk of any size. The first write of a
//! session marks the regions that it needs, and no more.
//!
//! A region stays marked when its records are in the array: a guest writes again where it has
//! written before. Only when more regions are marked than the limit, or after a long rest of the
//! disk, bits are taken away, those of the regions first whose last write is the oldest.

use std::collections::{BTreeSet, HashMap};
use std::ops::Range;

use foldhash::fast::RandomState;

use super::commit::Commit;
use super::dirty_map::{DirtyMap, MapPage};
use super::layout::Layout;
use super::unverified::Unverified;

/// Regions, an aligned run of them, that one sync marks for a write at most.
const RUN_MAX: u64 = 4096;

/// Regions marked ahead for each one that has been written since it was marked.
const AHEAD_FACTOR: u64 = 16;

/// For each group of marked regions of this size, a sync that a write waits for may mark
/// [`AHEAD_FACTOR`] more, whatever was written: a quarter of them.
const SPREAD: u64 = 64;

/// The dirty bits of all regions, on disk and to be written.
#[derive(Debug)]
pub(super) struct Regions {
    count: u64,
    map: DirtyMap,
    /// The regions whose dirty bit is durable, with the newest page of the log that has a record of
    /// theirs; 0: none has.
    dirty: HashMap<u64, u64, RandomState>,
    /// The number of regions in `dirty` that have a record.
    written: u64,
    /// The regions whose dirty bit a change waits for.
    unmarked: BTreeSet<u64>,
    /// Regions that may be dirty before the coldest are cleaned, and that are marked ahead.
    limit: u64,
    /// Regions whose bits are set since the last crash. They have no records.
    pub(super) unverified: Unverified,
}

impl Regions {
    /// No region is dirty. More than `limit` are only when writes need that.
    pub(super) fn clean(layout: &Layout, limit: u64) -> Self {
        Self {
            limit,
            count: layout.regions(),
            map: DirtyMap::clean(layout),
            dirty: HashMap::default(),
            written: 0,
            unmarked: BTreeSet::new(),
            unverified: Unverified::default(),
        }
    }

    /// The dirty regions of `map`, which is on disk, are not verified yet.
    pub(super) fn unverified(layout: &Layout, limit: u64, map: DirtyMap) -> Self {
        let unverified = Unverified::of(&map, layout);
        Self { map, unverified, ..Self::clean(layout, limit) }
    }

    /// The regions of a larger image: those that are not verified yet stay dirty.
    pub(super) fn grown(self, layout: &Layout) -> Self {
        let mut map = DirtyMap::clean(layout);
        for region in self.unverified.starting_at(0) {
            map.set(region, true);
        }
        Self { map, unverified: self.unverified, ..Self::clean(layout, self.limit) }
    }

    /// Sets the number of regions that may be dirty while nothing is written to them.
    pub(super) fn set_limit(&mut self, limit: u64) {
        self.limit = limit;
    }

    pub(super) fn limit(&self) -> u64 {
        self.limit
    }

    /// A region was verified. Page `seq` of the log has the newest record of its blocks; 0: none.
    pub(super) fn verified(&mut self, region: u64, seq: u64) {
        self.unverified.remove(region);
        self.written += u64::from(seq > 0);
        self.dirty.insert(region, seq);
    }

    /// Whether `regions` are known, durably, to be dirty. Those that are not will be.
    pub(super) fn ask(&mut self, regions: Range<u64>) -> bool {
        let mut marked = true;
        for region in regions.filter(|region| !self.dirty.contains_key(region)) {
            self.unmarked.insert(region);
            marked = false;
        }
        marked
    }

    /// Page `seq` of the log has a record of `regions`.
    pub(super) fn record(&mut self, regions: Range<u64>, seq: u64) {
        for region in regions {
            if let Some(newest) = self.dirty.get_mut(&region) {
                self.written += u64::from(*newest == 0);
                *newest = seq;
            }
        }
    }

    /// Sets the bits of all that were asked for, and of some beside them: the regions that are
    /// dirty when the map is durable.
    pub(super) fn begin_marking(&mut self) -> BTreeSet<u64> {
        let mut regions = std::mem::take(&mut self.unmarked);
        // one may have been asked for again while the commit that marks it was running
        regions.retain(|region| !self.dirty.contains_key(region));
        let mut ahead = self.room_ahead();
        let share = ahead / (regions.len() as u64).max(1) + 1;
        for region in regions.clone() {
            let run = run_around(region, (ahead + 1).min(share).min(RUN_MAX));
            let neighbours = run.start..run.end.min(self.count);
            let is_clean = |it: &u64| !self.dirty.contains_key(it) && !self.unverified.contains(*it);
            for neighbour in neighbours.filter(is_clean) {
                ahead = ahead.saturating_sub(u64::from(regions.insert(neighbour)));
            }
        }
        for &region in &regions {
            self.map.set(region, true);
        }
        regions
    }

    /// Notes that the bits which [`Self::begin_marking`] set are durable.
    pub(super) fn are_marked(&mut self, regions: BTreeSet<u64>) {
        self.dirty.extend(regions.into_iter().map(|region| (region, 0)));
    }

    /// The commit that was to make it durable has failed.
    pub(super) fn are_not_marked(&mut self, layout: &Layout, commit: &Commit) {
        for &region in &commit.regions {
            self.map.set(region, false);
        }
        self.map.changed_again(layout, &commit.map);
    }

    /// Takes the dirty bits of all regions of which no page from `tail` on has a record.
    pub(super) fn clean_before(&mut self, tail: u64) {
        for (region, newest) in self.dirty.extract_if(|_, newest| *newest < tail) {
            self.written -= u64::from(newest > 0);
            self.map.set(region, false);
        }
    }

    /// Takes the dirty bits of the coldest regions of which no page from `tail` on has a record, if
    /// more regions are dirty than the limit. Some more are cleaned than need be, so that this is
    /// seldom done.
    pub(super) fn clean_coldest_before(&mut self, tail: u64) {
        let dirty = self.dirty.len() as u64;
        if dirty <= self.limit {
            return;
        }
        let excess = usize::try_from(dirty - self.limit / 4 * 3).unwrap_or(usize::MAX);
        let by_age = self.dirty.iter().map(|(region, newest)| (*newest, *region));
        let mut coldest: Vec<_> = by_age.filter(|(newest, _)| *newest < tail).collect();
        if coldest.len() > excess {
            coldest.select_nth_unstable(excess);
            coldest.truncate(excess);
        }
        for (newest, region) in coldest {
            self.dirty.remove(&region);
            self.written -= u64::from(newest > 0);
            self.map.set(region, false);
        }
    }

    /// The number of regions that are marked, but for those that are not verified yet.
    pub(super) fn dirty(&self) -> u64 {
        self.dirty.len() as u64
    }

    /// Whether the map on disk is another one.
    pub(super) fn has_changes(&self) -> bool {
        self.map.has_changes()
    }

    /// The pages of the map that have changed since the last call.
    pub(super) fn take_changes(&mut self, layout: &Layout) -> Vec<MapPage> {
        self.map.take_changes(layout)
    }

    /// The number of regions that the next sync may mark ahead.
    fn room_ahead(&self) -> u64 {
        let dirty = self.dirty.len() as u64;
        let ahead = dirty - self.written;
        let by_writes = (self.written * AHEAD_FACTOR).saturating_sub(ahead);
        let by_spread = (dirty / SPREAD * AHEAD_FACTOR).min(RUN_MAX);
        by_writes.max(by_spread).min(self.limit.saturating_sub(dirty))
    }
}

/// The largest aligned run around `region` of a power of two, at most `len` (not 0), regions.
fn run_around(region: u64, len: u64) -> Range<u64> {
    let len = 1 << len.ilog2();
    let start = region / len * len;
    start..start + len
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::sidecar::Superblock;
    use crate::{Guard, IntegrityProfile, PiType};

    /// The regions of an image that has `count` of them.
    fn regions(count: u64) -> (Layout, Regions) {
        limited_regions(count, count)
    }

    /// The same, where `limit` may be dirty.
    fn limited_regions(count: u64, limit: u64) -> (Layout, Regions) {
        let profile = IntegrityProfile::new(Guard::Crc64Nvme, PiType::Type1, 4096).unwrap();
        let layout = Superblock::new([1; 16], profile, count << 20).unwrap().layout().clone();
        let regions = Regions::clean(&layout, limit);
        (layout, regions)
    }

    /// Writes to `order`, one after the other; how many had to wait for a sync.
    fn syncs(layout: &Layout, regions: &mut Regions, order: impl IntoIterator<Item = u64>) -> usize {
        let waits = |region| {
            let waits = !regions.ask(region..region + 1);
            if waits {
                let marked = regions.begin_marking();
                regions.take_changes(layout);
                regions.are_marked(marked);
            }
            assert!(regions.ask(region..region + 1));
            regions.record(region..region + 1, 1);
            waits
        };
        order.into_iter().map(waits).filter(|waits| *waits).count()
    }

    #[test]
    fn a_write_here_or_there_marks_no_more_than_it_needs() {
        let (layout, mut regions) = regions(1024);
        assert_eq!(syncs(&layout, &mut regions, [100]), 1);
        assert_eq!(regions.map.dirty(1024).collect::<Vec<_>>(), [100]);
    }

    #[test]
    fn sequential_writes_wait_for_few_syncs() {
        let (layout, mut regions) = regions(1024);
        assert!(syncs(&layout, &mut regions, 0..1024) < 16);
    }

    #[test]
    fn random_writes_wait_for_fewer_syncs_than_regions() {
        let (layout, mut regions) = regions(1024);
        // a permutation: 389 is odd
        assert!(syncs(&layout, &mut regions, (0..1024).map(|at| at * 389 % 1024)) < 100);
    }

    #[test]
    fn writes_all_over_a_large_disk_soon_wait_no_more() {
        const REGIONS: u64 = 16 << 10;
        let (layout, mut regions) = regions(REGIONS);
        // 5,003 is odd, so no region comes twice
        let mut order = (0..REGIONS).map(|at| at * 5003 % REGIONS);
        assert!(syncs(&layout, &mut regions, order.by_ref().take(100)) < 50);
        assert!(syncs(&layout, &mut regions, order) < 50);
    }

    #[test]
    fn what_was_cleaned_counts_as_written_no_more() {
        let (layout, mut regions) = regions(1024);
        syncs(&layout, &mut regions, 0..40);
        regions.clean_before(2);
        regions.take_changes(&layout);
        assert_eq!(syncs(&layout, &mut regions, [500]), 1);
        assert_eq!(regions.map.dirty(1024).collect::<Vec<_>>(), [500]);
    }

    #[test]
    fn the_coldest_regions_are_cleaned_when_more_are_dirty_than_the_limit() {
        let (layout, mut regions) = limited_regions(1024, 8);
        for region in 0..16 {
            syncs(&layout, &mut regions, [region * 64]);
            // two regions have their newest records in a page of the log
            regions.record(region * 64..region * 64 + 1, region / 2 + 1);
        }
        regions.clean_coldest_before(8);
        let dirty: Vec<_> = regions.map.dirty(1024).map(|region| region / 64).collect();
        assert_eq!(dirty, [10, 11, 12, 13, 14, 15]);
        regions.clean_coldest_before(9);
        assert_eq!(regions.map.dirty(1024).count(), 6, "no more than the limit are dirty");
    }

    #[test]
    fn what_a_failed_commit_was_to_mark_is_marked_by_the_next() {
        let (layout, mut regions) = regions(1024);
        syncs(&layout, &mut regions, 0..40);
        let dirty: Vec<_> = regions.map.dirty(1024).collect();
        assert!(!regions.ask(500..501));
        let failed = Commit {
            attempt: 1,
            regions: regions.begin_marking(),
            map: regions.take_changes(&layout),
            pages: Vec::new(),
            through: 0,
        };
        assert!(failed.regions.len() > 1);
        regions.are_not_marked(&layout, &failed);
        assert_eq!(regions.map.dirty(1024).collect::<Vec<_>>(), dirty);
        assert!(regions.has_changes() && !regions.ask(500..501));
        assert_eq!(regions.begin_marking(), failed.regions);
    }

    proptest! {
        #[test]
        fn what_is_marked_ahead_is_bounded_by_what_was_written_and_what_had_to_wait(
            count in 1u64..6000, limit in 1u64..6000,
            order in prop::collection::vec(any::<prop::sample::Index>(), 1..300)
        ) {
            let (layout, mut regions) = limited_regions(count, limit);
            let (mut written, mut most) = (BTreeSet::new(), 0);
            for index in order {
                let region = index.index(usize::try_from(count).unwrap()) as u64;
                written.insert(region);
                let before = regions.dirty();
                let waits = syncs(&layout, &mut regions, [region]);
                let dirty: BTreeSet<_> = regions.map.dirty(count).collect();
                prop_assert!(dirty.is_superset(&written) && dirty.iter().eq(regions.dirty.keys().collect::<BTreeSet<_>>()));
                prop_assert_eq!(regions.written, written.len() as u64);
                let added = dirty.len() as u64 - before;
                prop_assert!(waits > 0 || added == 0);
                most = (before + before / SPREAD * AHEAD_FACTOR + 1).max(regions.written * (AHEAD_FACTOR + 1)).max(most);
                prop_assert!(regions.dirty() <= most);
                prop_assert!(added <= 1 || regions.dirty() <= limit + 1);
            }
        }
    }
}
