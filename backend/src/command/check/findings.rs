//! Blocks that a check reports, gathered into ranges by all its threads.

use std::fmt;
use std::ops::Range;

use integrity::sidecar::{Finding, Mismatch};
use serde::Serialize;

use crate::control::damage::{FailedCheck, hexadecimal};

/// The number of ranges that are remembered. The blocks of an image with more are only counted.
const RANGES_MAX: usize = 1 << 20;

/// The findings of all threads so far, in no order.
#[derive(Debug, Default)]
pub(in crate::command) struct Findings {
    pub(in crate::command) bad: Vec<BadRange>,
    pub(in crate::command) mismatched_blocks: u64,
    pub(in crate::command) unreadable_blocks: u64,
    /// The number of bad blocks in none of the ranges.
    pub(in crate::command) unlisted_blocks: u64,
    pub(in crate::command) adopted: Vec<LbaRange>,
    pub(in crate::command) adopted_blocks: u64,
}

impl Findings {
    pub(in crate::command) fn add_mismatch(&mut self, mismatch: &Mismatch) {
        self.mismatched_blocks += 1;
        self.add_bad(mismatch.into());
    }

    pub(in crate::command) fn add_unreadable(&mut self, intervals: &Range<u64>) {
        self.unreadable_blocks += intervals.end - intervals.start;
        let range = LbaRange { first_lba: intervals.start, last_lba: intervals.end - 1 };
        self.add_bad(BadRange { range, check: FailedCheck::Unreadable, first_tag: None });
    }

    pub(in crate::command) fn add_adopted(&mut self, lba: u64) {
        self.adopted_blocks += 1;
        join(&mut self.adopted, LbaRange { first_lba: lba, last_lba: lba });
    }

    fn add_bad(&mut self, bad: BadRange) {
        let blocks = bad.range.blocks();
        if !join(&mut self.bad, bad) {
            self.unlisted_blocks += blocks;
        }
    }

    /// Whether a guest could read every block.
    pub(in crate::command) fn all_match(&self) -> bool {
        self.mismatched_blocks + self.unreadable_blocks == 0
    }

    /// The findings in the order of LBAs. Ranges that different threads have found are joined.
    pub(in crate::command) fn sorted(self) -> Self {
        Self { bad: sorted(self.bad), adopted: sorted(self.adopted), ..self }
    }
}

/// A range that may be joined with its neighbour.
trait Joined {
    fn range(&self) -> LbaRange;

    fn extend_to(&mut self, last_lba: u64);

    /// Whether the two may be joined if they are neighbours.
    fn is_like(&self, other: &Self) -> bool;
}

/// Adds `new` to `ranges`. False: there was no room for it.
fn join<T: Joined>(ranges: &mut Vec<T>, new: T) -> bool {
    if let Some(last) = ranges.last_mut()
        && last.is_like(&new)
        && last.range().last_lba + 1 == new.range().first_lba
    {
        last.extend_to(new.range().last_lba);
        return true;
    }
    let room = ranges.len() < RANGES_MAX;
    if room {
        ranges.push(new);
    }
    room
}

fn sorted<T: Joined>(mut ranges: Vec<T>) -> Vec<T> {
    ranges.sort_unstable_by_key(|it| it.range().first_lba);
    ranges.into_iter().fold(Vec::new(), |mut joined, range| {
        // there are no more ranges than before
        join(&mut joined, range);
        joined
    })
}

/// Neighbouring blocks.
#[derive(Debug, Clone, Copy, Serialize)]
pub(in crate::command) struct LbaRange {
    pub(in crate::command) first_lba: u64,
    pub(in crate::command) last_lba: u64,
}

impl LbaRange {
    /// Adds `lba`, which lies behind all of `ranges`, to them. False when there is no room for
    /// another range.
    pub(in crate::command) fn add(ranges: &mut Vec<Self>, lba: u64) -> bool {
        join(ranges, Self { first_lba: lba, last_lba: lba })
    }

    pub(in crate::command) fn blocks(self) -> u64 {
        self.last_lba - self.first_lba + 1
    }
}

impl fmt::Display for LbaRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.blocks() {
            1 => write!(f, "LBA {}", self.first_lba),
            _ => write!(f, "LBA {}-{}", self.first_lba, self.last_lba),
        }
    }
}

impl Joined for LbaRange {
    fn range(&self) -> LbaRange {
        *self
    }

    fn extend_to(&mut self, last_lba: u64) {
        self.last_lba = last_lba;
    }

    fn is_like(&self, _: &Self) -> bool {
        true
    }
}

/// Neighbouring blocks that fail the same check.
#[derive(Debug, Clone, Serialize)]
pub(in crate::command) struct BadRange {
    #[serde(flatten)]
    pub(in crate::command) range: LbaRange,
    pub(in crate::command) check: FailedCheck,
    /// The tags of the first block.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(in crate::command) first_tag: Option<TagValues>,
}

impl Joined for BadRange {
    fn range(&self) -> LbaRange {
        self.range
    }

    fn extend_to(&mut self, last_lba: u64) {
        self.range.extend_to(last_lba);
    }

    fn is_like(&self, other: &Self) -> bool {
        self.check == other.check
    }
}

impl From<&Mismatch> for BadRange {
    fn from(mismatch: &Mismatch) -> Self {
        let Finding { lba, check, tag } = mismatch.into();
        let first_tag = tag.map(|tag| {
            let (expected, actual) = hexadecimal(&tag);
            TagValues { expected, actual }
        });
        Self { range: LbaRange { first_lba: lba, last_lba: lba }, check: check.into(), first_tag }
    }
}

/// The values of a tag, in hexadecimal, because JSON's numbers do not hold 64 bits everywhere.
#[derive(Debug, Clone, Serialize)]
pub(in crate::command) struct TagValues {
    pub(in crate::command) expected: String,
    pub(in crate::command) actual: String,
}
