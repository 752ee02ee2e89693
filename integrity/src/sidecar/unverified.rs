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
use super::recovery::Recovery;
use super::rules::Rules;

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

    /// All of them, in order.
    pub(super) fn iter(&self) -> impl Iterator<Item = u64> {
        (0..self.bits.len() as u64 * 64).filter(|&region| self.contains(region))
    }

    /// Whether any of `regions` is not verified yet. Such regions are the next.
    pub(super) fn ask(&mut self, regions: Range<u64>) -> bool {
        if self.progress.left == 0 {
            return false;
        }
        let mut is_any = false;
        for region in regions {
            if self.contains(region) {
                is_any = true;
                if !self.wanted.contains(&region) {
                    self.wanted.push_back(region);
                }
            }
        }
        is_any
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
        let end = self.bits.len() as u64 * 64;
        let next = (self.next..end).find(|&region| self.contains(region)).or_else(|| {
            // one that could not be verified before
            (0..self.next.min(end)).find(|&region| self.contains(region))
        })?;
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
        let found = Recovery::of_region(media, &self.layout, self.rules, self.region, |page, changes| {
            if changes {
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
