//! Regions that a crash has left in doubt, and that are verified while the disk is served.
//!
//! Blocks that the log names are judged before a sidecar is opened. The other blocks of a dirty
//! region hold what their tuples say, unless they were being written when the crash came. To find
//! those, the region has to be read. That is done region by region, by the log's thread: first
//! those that a request waits for, and all others in order. Until then the region stays dirty on
//! the medium, so another crash, or the end of the session, only means that it is verified later.

use std::collections::VecDeque;
use std::io;
use std::ops::Range;

use super::array::TuplePage;
use super::dirty_map::DirtyMap;
use super::layout::Layout;
use super::media::Media;
use super::recovery::{RecoveredPages, Recovery};
use super::rules::Rules;

/// Regions that one question puts before the others, at most.
const ASKED_MAX: usize = 32;

/// How far the verification after a crash has come.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Verification {
    /// Regions that are not verified yet.
    pub left: u64,
    /// Regions that the crash has left in doubt.
    pub total: u64,
}

/// The regions that are not verified yet.
#[derive(Debug, Default)]
pub(super) struct Unverified {
    /// One bit for each region of the image, region 0 in the lowest bit.
    bits: Vec<u64>,
    progress: Verification,
    /// Regions that requests wait for.
    wanted: VecDeque<u64>,
    /// All regions before this one are verified, or are being verified.
    next: u64,
}

impl Unverified {
    /// The dirty regions of `map`.
    pub(super) fn of(map: &DirtyMap, layout: &Layout) -> Self {
        let mut unverified = Self::default();
        for region in map.dirty(layout.regions()) {
            let (word, bit) = place(region);
            unverified.bits.resize(unverified.bits.len().max(word + 1), 0);
            unverified.bits[word] |= bit;
            unverified.progress.total += 1;
        }
        unverified.progress.left = unverified.progress.total;
        unverified
    }

    pub(super) fn progress(&self) -> Verification {
        self.progress
    }

    pub(super) fn contains(&self, region: u64) -> bool {
        let (word, bit) = place(region);
        self.bits.get(word).is_some_and(|bits| bits & bit != 0)
    }

    /// All of them from region `first` on, in order.
    pub(super) fn starting_at(&self, first: u64) -> impl Iterator<Item = u64> {
        let words = self.bits.iter().zip((0u64..).step_by(64)).skip(place(first).0);
        let of_word = |(word, region): (&u64, u64)| {
            let word = *word;
            (0..64).filter(move |bit| word & 1 << bit != 0).map(move |bit| region + bit)
        };
        words.filter(|(word, _)| **word != 0).flat_map(of_word).filter(move |region| *region >= first)
    }

    /// Whether any of `regions` is not verified yet. Such regions are the next, a few of them: a
    /// request can cover any number, and asks again.
    pub(super) fn ask(&mut self, regions: Range<u64>) -> bool {
        if self.progress.left == 0 {
            return false;
        }
        let within = self.starting_at(regions.start).take_while(|region| *region < regions.end);
        let asked: Vec<_> = within.take(ASKED_MAX).collect();
        for region in &asked {
            if !self.wanted.contains(region) {
                self.wanted.push_back(*region);
            }
        }
        !asked.is_empty()
    }

    /// Whether a request waits for a region.
    pub(super) fn is_any_wanted(&self) -> bool {
        !self.wanted.is_empty()
    }

    /// The next region to verify.
    pub(super) fn take_next(&mut self) -> Option<u64> {
        while let Some(region) = self.wanted.pop_front() {
            if self.contains(region) {
                return Some(region);
            }
        }
        // else one that could not be verified before
        let next = self.starting_at(self.next).next().or_else(|| self.starting_at(0).next())?;
        self.next = next + 1;
        Some(next)
    }

    pub(super) fn remove(&mut self, region: u64) {
        if self.contains(region) {
            let (word, bit) = place(region);
            self.bits[word] &= !bit;
            self.progress.left -= 1;
        }
    }
}

/// A region that is to be verified.
#[derive(Debug)]
pub struct RegionCheck {
    pub(super) attempt: u64,
    pub(super) region: u64,
    pub(super) layout: Layout,
    pub(super) rules: Rules,
}

/// The findings in one region.
#[derive(Debug)]
pub struct CheckedRegion {
    pub(super) found: Recovery,
    /// Pages of the array as they should be, of blocks that are adopted.
    pub(super) pages: Vec<TuplePage>,
}

impl RegionCheck {
    /// Reads the region and compares it with the tuples of the array: no request has it meanwhile.
    pub fn run(&self, media: &impl Media) -> io::Result<CheckedRegion> {
        let mut pages = Vec::new();
        let found = Recovery::of_region(media, &self.layout, self.rules, self.region, |page| {
            if let RecoveredPages::One(page, true) = page {
                pages.push(page);
            }
            Ok(())
        })?;
        Ok(CheckedRegion { found, pages })
    }
}

/// The word that has the bit of a region; of one that no image has, a word that is never there.
fn place(region: u64) -> (usize, u64) {
    (usize::try_from(region / 64).unwrap_or(usize::MAX), 1 << (region % 64))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;
    use crate::sidecar::Superblock;
    use crate::{Guard, IntegrityProfile, PiType};

    fn unverified(regions: impl IntoIterator<Item = u64>) -> Unverified {
        let profile = IntegrityProfile::new(Guard::Crc64Nvme, PiType::Type1, 4096).unwrap();
        let superblock = Superblock::new([1; 16], profile, 10_000 << 20).unwrap();
        let mut map = DirtyMap::clean(superblock.layout());
        for region in regions {
            map.set(region, true);
        }
        Unverified::of(&map, superblock.layout())
    }

    #[test]
    fn a_request_for_all_of_the_disk_puts_a_few_regions_before_the_others() {
        let mut unverified = unverified(0..10_000);
        assert!(unverified.ask(500..10_000) && unverified.ask(500..10_000));
        assert_eq!(unverified.wanted, (500..500 + ASKED_MAX as u64).collect::<Vec<_>>());
    }

    proptest! {
        #[test]
        fn each_region_is_verified_once_and_those_asked_for_first(
            regions in prop::collection::btree_set(0u64..10_000, 1..200), asked in prop::collection::vec(0u64..10_000, 0..20)
        ) {
            let mut unverified = unverified(regions.iter().copied());
            let mut wanted: Vec<u64> = Vec::new();
            for region in asked {
                prop_assert_eq!(unverified.ask(region..region + 1), regions.contains(&region));
                if regions.contains(&region) && !wanted.contains(&region) {
                    wanted.push(region);
                }
            }
            let mut order = Vec::new();
            while let Some(region) = unverified.take_next() {
                unverified.remove(region);
                order.push(region);
            }
            prop_assert_eq!(&order[..wanted.len()], &wanted[..]);
            prop_assert!(order[wanted.len()..].is_sorted());
            prop_assert_eq!(order.into_iter().collect::<BTreeSet<_>>(), regions);
            prop_assert_eq!(unverified.progress().left, 0);
        }
    }
}
