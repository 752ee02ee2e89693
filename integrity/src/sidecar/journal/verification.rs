//! The verification of regions that a crash has left in doubt, beside the requests.

use std::io;
use std::ops::Range;

use super::Journal;
use super::work::{Task, Waits};
use crate::sidecar::array::Change;
use crate::sidecar::layout::REGION_SIZE;
use crate::sidecar::log::pages_for;
use crate::sidecar::recovery::Recovery;
use crate::sidecar::rules::Rules;
use crate::sidecar::unverified::{CheckedRegion, RegionCheck, Verification};

/// Regions that a crash would leave in doubt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Marks {
    /// Regions that are marked.
    pub dirty: u64,
    /// Regions that may be marked before the coldest are cleaned.
    pub limit: u64,
}

/// The findings in a region that was verified beside the requests.
#[derive(Debug)]
pub struct RegionFindings {
    /// The findings, as a recovery reports them.
    pub recovery: Recovery,
    /// Blocks that match nothing and were not adopted, because a crash leaves no more than were
    /// adopted before: reads of them fail.
    pub not_adopted: u64,
}

impl Journal {
    /// Whether `intervals` are not in doubt since the last crash. Regions in doubt are
    /// verified next, by the log's thread. Fails when that has failed since the wait began.
    pub fn is_verified(&mut self, intervals: &Range<u64>, waits: &mut Option<Waits>) -> io::Result<bool> {
        self.refuse_if_given_up()?;
        if !self.rules.contains(Rules::VERIFY_LATER) {
            return Ok(true);
        }
        if !self.regions.unverified.ask(self.layout.regions_of(intervals)) {
            return Ok(true);
        }
        self.work.wait(waits, Task::Verification).map(|()| false)
    }

    /// How far the verification has come.
    #[must_use]
    pub fn verification(&self) -> Verification {
        self.regions.unverified.progress()
    }

    /// The regions that a crash now would leave in doubt, beside those that are not verified yet:
    /// how many there are, and how many there may be before the coldest are cleaned.
    #[must_use]
    pub fn marks(&self) -> Marks {
        Marks { dirty: self.regions.dirty(), limit: self.regions.limit() }
    }

    /// Limits the part of the image, in bytes, that is marked where nothing is written any more.
    pub fn limit_marks(&mut self, bytes: u64) {
        self.regions.set_limit(bytes.div_ceil(REGION_SIZE));
    }

    /// Whether there is a region to verify.
    #[must_use]
    pub fn is_unverified(&self) -> bool {
        self.verification().left > 0 && !self.given_up
    }

    /// Whether a request waits for a region to be verified.
    #[must_use]
    pub fn is_verification_wanted(&self) -> bool {
        self.regions.unverified.is_any_wanted() && !self.given_up
    }

    /// Begins to verify a region, for the log's thread to run.
    pub fn begin_verification(&mut self) -> Option<RegionCheck> {
        if self.given_up || !self.rules.contains(Rules::VERIFY_LATER) {
            return None;
        }
        let region = self.regions.unverified.take_next()?;
        let (layout, rules) = (self.layout.clone(), self.rules);
        Some(RegionCheck { attempt: self.work.begin(), region, layout, rules })
    }

    /// A region was verified. Returns the findings; `None` if the region is still in doubt, because
    /// it could not be read or there is no room for its tuples.
    pub fn end_verification(
        &mut self,
        check: &RegionCheck,
        result: io::Result<CheckedRegion>,
    ) -> Option<RegionFindings> {
        let ended = result.as_ref().map(drop).map_err(copy_of);
        self.work.verification.end(check.attempt, &ended);
        let CheckedRegion { found: mut recovery, pages } = result.ok()?;
        if self.is_more_than_a_crash_leaves(&recovery) {
            // they stay as they are, and reads of them fail
            let not_adopted = std::mem::take(&mut recovery.adopted_blocks);
            recovery.adoptions.clear();
            self.regions.verified(check.region, 0);
            return Some(RegionFindings { recovery, not_adopted });
        }
        let adopted: Vec<_> = recovery.adoptions.iter().map(|adoption| adoption.lba).collect();
        let tuple_size = self.layout.profile().tuple_size();
        // each has a record of its own, which is at most three times as long as its tuple
        let needed = 3 * pages_for(adopted.len() as u64, Change::Written(&[]), tuple_size);
        if !adopted.is_empty() && !self.has_room(needed) {
            return self.verify_later(check);
        }
        let mut newest = 0;
        for lba in adopted {
            let interval = lba..lba + 1;
            let page = pages.iter().find(|page| page.page == self.layout.page_of(lba));
            let tuple = page.map(|page| &page.tuples[page.range(&self.layout, &interval)])?;
            if !self.cache.pin(&interval, Change::Written(tuple)) {
                return self.verify_later(check);
            }
            let record = self.records.append(&interval, Change::Written(tuple));
            self.cache.change(&interval, Change::Written(tuple), record.last);
            newest = record.last;
        }
        self.adoptable = self.adoptable.saturating_sub(recovery.unnamed_adoptions);
        self.regions.verified(check.region, newest);
        Some(RegionFindings { recovery, not_adopted: 0 })
    }

    fn is_more_than_a_crash_leaves(&self, found: &Recovery) -> bool {
        self.rules.contains(Rules::BOUNDED_ADOPTION) && found.unnamed_adoptions > self.adoptable
    }

    /// A checkpoint makes room for the tuples of a region. If the last one has failed, requests do
    /// not wait for that.
    fn verify_later(&mut self, check: &RegionCheck) -> Option<RegionFindings> {
        if self.work.checkpoint.failing {
            self.work.verification.end(check.attempt, &Err(io::ErrorKind::StorageFull.into()));
        }
        self.work.checkpoint.wanted = true;
        None
    }
}

fn copy_of(error: &io::Error) -> io::Error {
    error.raw_os_error().map_or_else(|| error.kind().into(), io::Error::from_raw_os_error)
}
