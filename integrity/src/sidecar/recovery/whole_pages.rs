//! Pages of the array that recovery need not read: records make them unwritten as a whole, or they
//! lie in holes.

use std::io;
use std::ops::Range;

use super::{Judge, Recovery};
use crate::sidecar::array::{TuplePage, zero_pages};
use crate::sidecar::holes::Holes;
use crate::sidecar::layout::Layout;
use crate::sidecar::media::Media;
use crate::sidecar::replay::{Cover, CoveredPages};

/// Pages of the array as recovery leaves them, which have to be written.
#[derive(Debug, Clone)]
pub enum RecoveredPages {
    /// A page, and whether any tuple in it changes. A page of which none does may be in the page
    /// cache only, and has to be written to be durable.
    One(TuplePage, bool),
    /// Pages of which all tuples are unwritten.
    Unwritten(Range<u64>),
}

impl RecoveredPages {
    pub(in crate::sidecar) fn write(&self, layout: &Layout, media: &impl Media) -> io::Result<()> {
        match self {
            Self::One(page, _) => page.write(layout, media),
            Self::Unwritten(pages) => zero_pages(layout, media, pages),
        }
    }
}

impl<M: Media> Judge<'_, M> {
    /// Does pages of the array that the log names. Those that become unwritten are runs.
    pub(super) fn pages(
        &self,
        covered: &CoveredPages,
        holes: &mut Holes<'_, M>,
        found: &mut Recovery,
        visit: &mut impl FnMut(RecoveredPages) -> io::Result<()>,
    ) -> io::Result<()> {
        let are_unwritten = covered.are_unwritten(self.layout, self.replay);
        let mut unwritten = covered.pages.start..covered.pages.start;
        for number in covered.pages.clone() {
            if are_unwritten && self.is_unwritten(number, &covered.covers, holes, found) {
                unwritten.end = number + 1;
                continue;
            }
            visit_unwritten(&unwritten, covered, found, visit)?;
            unwritten = number + 1..number + 1;
            self.page(number, &covered.covers_of(self.layout, number), found, visit)?;
        }
        visit_unwritten(&unwritten, covered, found, visit)
    }

    /// Whether all blocks of a page are unwritten that `covers`, the newest first, make unwritten
    /// as a whole: they are in no doubt, or lie in a hole.
    fn is_unwritten(
        &self,
        number: u64,
        covers: &[Cover],
        holes: &mut Holes<'_, M>,
        found: &mut Recovery,
    ) -> bool {
        let intervals = self.layout.intervals_of(number);
        let count = intervals.end - intervals.start;
        let is_named = covers.first().is_some_and(|newest| !self.replay.is_committed(newest.record));
        if self.is_doubted(&intervals, is_named) {
            if !holes.has_blocks(number) {
                return false;
            }
            found.judged_blocks += count;
        }
        found.changed_tuples += if holes.has_tuples(number) { 0 } else { count };
        true
    }

    /// Does a page of the array with tuples of a dirty region that no record names.
    pub(super) fn unnamed_page(
        &self,
        number: u64,
        holes: &mut Holes<'_, M>,
        found: &mut Recovery,
        visit: &mut impl FnMut(RecoveredPages) -> io::Result<()>,
    ) -> io::Result<()> {
        if holes.has_tuples(number) && holes.has_blocks(number) {
            let intervals = self.layout.intervals_of(number);
            found.judged_blocks += self.doubted_intervals(&intervals);
            return Ok(());
        }
        self.page(number, &[], found, visit)
    }

    /// The number of the intervals that are judged though no record names them.
    fn doubted_intervals(&self, intervals: &Range<u64>) -> u64 {
        let parts = self.layout.regions_of(intervals).map(|region| {
            let within = self.layout.intervals_in(region);
            within.start.max(intervals.start)..within.end.min(intervals.end)
        });
        parts.filter(|part| self.is_doubted(part, false)).map(|part| part.end - part.start).sum()
    }
}

fn visit_unwritten(
    pages: &Range<u64>,
    covered: &CoveredPages,
    found: &mut Recovery,
    visit: &mut impl FnMut(RecoveredPages) -> io::Result<()>,
) -> io::Result<()> {
    if pages.is_empty() {
        return Ok(());
    }
    found.looked_up_records += covered.covers.len() as u64;
    visit(RecoveredPages::Unwritten(pages.clone()))
}
