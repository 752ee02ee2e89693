//! Recovery: the state that a crash has left, and what becomes of it.
//!
//! A block that the log or the dirty map names may hold any of several writes. The guard of its
//! data shows which one: it is that of one of the candidates. A block that holds none of them was
//! torn or damaged, which cannot be distinguished; it gets a tuple for the data that is there,
//! marked as adopted, and is reported. A block whose only candidate is known to be durable is not
//! looked at: its tuple goes to the array, and if its data has rotted, a read will find out.
//!
//! The image is never written, and a crash in here means only that it is done again.

mod whole_pages;

use std::io;
use std::ops::Range;

pub use self::whole_pages::RecoveredPages;

use super::PAGE_SIZE;
use super::array::{Change, TuplePage};
use super::dirty_map::DirtyMap;
use super::holes::Holes;
use super::layout::Layout;
use super::log::LogId;
use super::media::{File, Media};
use super::read_ahead::ReadAhead;
use super::replay::{Cover, Replay};
use super::rules::Rules;
use super::superblock::{IntentMode, State, Superblock};
use super::tuples::is_lost;
use super::verdict::{Candidates, Verdict};
use crate::IntegrityProfile;
use crate::tuple::TUPLE_SIZE_MAX;

/// Bytes of the image that are read at once.
const READ_MAX: usize = 1 << 20;

/// Adopted blocks that are remembered one by one; the rest is only counted.
const ADOPTIONS_MAX: usize = 1 << 16;

/// Guards that an [`Adoption`] names at most, the likeliest ones.
const GUARDS_MAX: usize = 16;

/// A block that was given a tuple for what it holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Adoption {
    /// The interval's number in the image.
    pub lba: u64,
    /// The guard of what it holds.
    pub guard: u64,
    /// The guards of what it might have held, the likeliest first and no more than 16; `None` for
    /// zeros that were never written.
    pub candidates: Vec<Option<u64>>,
}

/// The findings of a recovery.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Recovery {
    /// Pages of the log that count.
    pub log_pages: u64,
    /// A page that is missing in the log though a later one is there: it never got to the medium,
    /// or has rotted.
    pub log_gap: Option<u64>,
    /// Dirty regions.
    pub dirty_regions: u64,
    /// Sectors of the dirty map that have rotted; their regions count as dirty.
    pub rotten_map_sectors: usize,
    /// Blocks whose data was looked at. Those in holes of the image are not read: they hold zeros.
    pub judged_blocks: u64,
    /// The number of times that a record of the log was looked up for one of its blocks, or for a
    /// run of pages that it makes unwritten: the cost of a recovery, besides what it reads.
    pub looked_up_records: u64,
    /// Blocks whose data cannot be read; they keep the tuple that they have.
    pub unreadable_blocks: u64,
    /// Tuples of the array that change; of pages that become unwritten as a whole, all but those in
    /// holes.
    pub changed_tuples: u64,
    /// Blocks that were adopted.
    pub adopted_blocks: u64,
    /// The first of them.
    pub adoptions: Vec<Adoption>,
    /// Adopted blocks that no record names which may have been cut off, and whose tuples are not
    /// lost: no more than could be written while their records were not durable.
    pub unnamed_adoptions: u64,
    /// Intervals whose tuples are lost, because their sectors of the array have rotted.
    pub lost: Vec<Range<u64>>,
    /// Intervals that pages behind the gap name, or that the missing ones can have named.
    pub(super) behind_gap: u64,
    /// The page of the log that comes next.
    pub(super) next: u64,
}

impl Recovery {
    /// Finds out what a crash has left, and gives the pages of the array that have to be written to
    /// `visit`, in order.
    ///
    /// A clean sidecar has nothing to recover. Ends at the first error, of the medium or of
    /// `visit`.
    pub fn run(
        media: &impl Media,
        superblock: &Superblock,
        rules: Rules,
        visit: impl FnMut(RecoveredPages) -> io::Result<()>,
    ) -> io::Result<Self> {
        Self::run_in(media, superblock, rules, &|_| true, visit)
    }

    /// As [`Self::run`], but of dirty regions for which `is_read` is false only those blocks are
    /// judged that the log names as in doubt. The others must be verified later, by
    /// [`Self::of_region`].
    pub(super) fn run_in(
        media: &impl Media,
        superblock: &Superblock,
        rules: Rules,
        is_read: &dyn Fn(u64) -> bool,
        mut visit: impl FnMut(RecoveredPages) -> io::Result<()>,
    ) -> io::Result<Self> {
        let (layout, tail) = (superblock.layout(), superblock.tail);
        let State::Open(mode) = superblock.state else {
            return Ok(Self { next: tail, ..Self::default() });
        };
        let id = LogId { uuid: superblock.uuid, epoch: superblock.epoch };
        let replay = Replay::read(layout, media, id, tail..tail + layout.log_pages())?;
        let (map, rotten_map_sectors) = match mode {
            IntentMode::Region => DirtyMap::read(layout, media)?,
            IntentMode::Block => (DirtyMap::clean(layout), 0),
        };
        let next = tail + replay.pages;
        let gap = find_gap(layout, media, id, next)?;
        let mut found = Self {
            log_pages: replay.pages,
            log_gap: gap.is_some().then_some(next),
            behind_gap: gap.unwrap_or_else(|| unreadable(layout, media, next)),
            rotten_map_sectors,
            next,
            ..Self::default()
        };
        found.dirty_regions = map.dirty(layout.regions()).count() as u64;
        let is_dirty = |region| map.is_dirty(region);
        let judge = Judge { media, layout, replay: &replay, is_dirty: &is_dirty, is_read, mode, rules };
        let to_read = map.dirty(layout.regions()).filter(|&region| is_read(region));
        let mut dirty_pages = pages_of(to_read, layout).peekable();
        let mut named_pages = ReadAhead::over(replay.candidates());
        let mut holes = Holes::new(media, layout);
        while let Some(covered) = named_pages.next_pages(layout, media, &replay) {
            while let Some(dirty) = dirty_pages.next_if(|dirty| *dirty < covered.pages.start) {
                judge.unnamed_page(dirty, &mut holes, &mut found, &mut visit)?;
            }
            while dirty_pages.next_if(|dirty| *dirty < covered.pages.end).is_some() {}
            judge.pages(&covered, &mut holes, &mut found, &mut visit)?;
        }
        for page in dirty_pages {
            judge.unnamed_page(page, &mut holes, &mut found, &mut visit)?;
        }
        Ok(found)
    }

    /// Judges all blocks of one region, which the log does not name.
    pub(super) fn of_region(
        media: &impl Media,
        layout: &Layout,
        rules: Rules,
        region: u64,
        mut visit: impl FnMut(RecoveredPages) -> io::Result<()>,
    ) -> io::Result<Self> {
        let (replay, is_dirty) = (Replay::default(), |other| other == region);
        let (mode, is_read) = (IntentMode::Region, &is_dirty);
        let judge = Judge { media, layout, replay: &replay, is_dirty: &is_dirty, is_read, mode, rules };
        let mut found = Self { dirty_regions: 1, ..Self::default() };
        let mut holes = Holes::new(media, layout);
        for page in pages_of(std::iter::once(region), layout) {
            judge.unnamed_page(page, &mut holes, &mut found, &mut visit)?;
        }
        Ok(found)
    }

    /// Notes ranges that follow those before; neighbours are one range.
    fn lose(&mut self, lost: Vec<Range<u64>>) {
        for range in lost.into_iter().filter(|range| !range.is_empty()) {
            match self.lost.last_mut() {
                Some(before) if before.end == range.start => before.end = range.end,
                _ => self.lost.push(range),
            }
        }
    }

    fn adopt(&mut self, profile: &IntegrityProfile, doubt: &BlockInDoubt, verdict: &Verdict) {
        let BlockInDoubt { interval: lba, ref candidates, is_named } = *doubt;
        self.adopted_blocks += 1;
        self.unnamed_adoptions += u64::from(!is_named);
        if self.adoptions.len() < ADOPTIONS_MAX {
            let guard = verdict.guard(profile).unwrap_or(0);
            self.adoptions.push(Adoption {
                lba,
                guard,
                candidates: candidates.guards(profile).take(GUARDS_MAX).collect(),
            });
        }
    }
}

/// The pages of the array with tuples of `regions`, in order. They are not gathered: where the map
/// has rotted, all are dirty.
fn pages_of(regions: impl Iterator<Item = u64>, layout: &Layout) -> impl Iterator<Item = u64> {
    let mut next = 0;
    regions.flat_map(move |region| {
        let intervals = layout.intervals_in(region);
        // two regions may have tuples in one page
        let first = layout.page_of(intervals.start).max(next);
        next = layout.page_of(intervals.end - 1) + 1;
        first..next
    })
}

/// The number of intervals that pages behind `missing` name, if any is there: then `missing` should
/// be too. Pages that are missing before them count with all intervals that they can have named.
fn find_gap(layout: &Layout, media: &impl Media, id: LogId, missing: u64) -> io::Result<Option<u64>> {
    let per_page = (PAGE_SIZE / layout.profile().tuple_size()) as u64;
    let (mut named, mut end) = (0, missing);
    for seq in missing + 1..missing + layout.log_pages() {
        let page = Replay::read(layout, media, id, seq..seq + 1)?;
        if page.pages > 0 {
            named += page.named() + (seq - end) * per_page;
            end = seq + 1;
        }
    }
    Ok((end > missing).then_some(named))
}

/// The number of intervals that page `seq`, which does not count, can have named all the same: it
/// may be the last of the log, and unreadable.
fn unreadable(layout: &Layout, media: &impl Media, seq: u64) -> u64 {
    match media.read(File::Sidecar, layout.log_page_offset(seq), &mut [0; PAGE_SIZE]) {
        Ok(()) => 0,
        Err(_) => (PAGE_SIZE / layout.profile().tuple_size()) as u64,
    }
}

/// Everything that is needed to find out the contents of a block.
struct Judge<'a, M> {
    media: &'a M,
    layout: &'a Layout,
    replay: &'a Replay,
    is_dirty: &'a dyn Fn(u64) -> bool,
    /// Whether all blocks of a dirty region are judged, or only those that the log names as in
    /// doubt.
    is_read: &'a dyn Fn(u64) -> bool,
    mode: IntentMode,
    rules: Rules,
}

/// The knowledge of one block that the log gives.
enum Known {
    /// Nothing, and it is in no doubt.
    Settled,
    /// It holds what this tuple says.
    Durable(Verdict),
    /// It holds one of several.
    OneOf(BlockInDoubt),
}

/// A block in doubt, and what it may hold.
struct BlockInDoubt {
    interval: u64,
    candidates: Candidates,
    /// A record of the log says that it may have been cut off, or the tuple that it had is lost.
    is_named: bool,
}

impl<M: Media> Judge<'_, M> {
    /// Whether any of `intervals` is to be judged, by the dirty map, and by the log if a record
    /// that is not committed names them.
    fn is_doubted(&self, intervals: &Range<u64>, is_named: bool) -> bool {
        match self.mode {
            IntentMode::Block => is_named,
            // a clean region's data was durable before the region became clean
            IntentMode::Region => self
                .layout
                .regions_of(intervals)
                .any(|region| (self.is_dirty)(region) && (is_named || (self.is_read)(region))),
        }
    }

    /// Does a page of the array, with what the log says of its intervals.
    fn page(
        &self,
        number: u64,
        covers: &[Cover],
        found: &mut Recovery,
        visit: &mut impl FnMut(RecoveredPages) -> io::Result<()>,
    ) -> io::Result<()> {
        let mut page = TuplePage::read(self.layout, self.media, number)?;
        found.lose(std::mem::take(&mut page.lost));
        let (mut doubts, mut verdicts) = (Vec::new(), Vec::new());
        let intervals = self.layout.intervals_of(number);
        for (interval, records) in intervals.clone().zip(records_by_interval(&intervals, covers)) {
            found.looked_up_records += records.len() as u64;
            let range = page.range(self.layout, &(interval..interval + 1));
            match self.known(interval, &records, &page.tuples[range]) {
                Known::Settled => {}
                Known::Durable(verdict) => verdicts.push((interval, verdict)),
                Known::OneOf(doubt) => doubts.push(doubt),
            }
        }
        for run in self.runs(&doubts) {
            self.judge(run, found, &mut verdicts);
        }
        let before = found.changed_tuples;
        for (interval, verdict) in &verdicts {
            let range = page.range(self.layout, &(*interval..interval + 1));
            let tuple = &mut page.tuples[range];
            if tuple != verdict.tuple() {
                found.changed_tuples += 1;
                tuple.copy_from_slice(verdict.tuple());
            }
        }
        let changes = found.changed_tuples > before;
        // a page that the log names may hold what it should only in a cache that has given up
        // writing it
        if changes || !covers.is_empty() { visit(RecoveredPages::One(page, changes)) } else { Ok(()) }
    }

    /// The knowledge of an interval that these `records` give, the newest first.
    fn known(&self, interval: u64, records: &[usize], array: &[u8]) -> Known {
        let itself = interval..interval + 1;
        let tuple_size = self.layout.profile().tuple_size();
        let mut candidates = Candidates::default();
        let (mut is_named, mut committed) = (false, false);
        for &record in records {
            match self.replay.change_in(record, &itself, tuple_size) {
                Change::Written(tuple) => candidates.push(tuple),
                Change::Unwritten => candidates.push(&[0; TUPLE_SIZE_MAX][..tuple_size]),
            }
            if self.replay.is_committed(record) {
                // its data was durable, so nothing older can be there
                committed = true;
                break;
            }
            is_named = true;
        }
        if self.is_doubted(&itself, is_named) {
            if !committed {
                candidates.push(array);
                is_named |= is_lost(self.layout.profile(), array);
            }
            return Known::OneOf(BlockInDoubt { interval, candidates, is_named });
        }
        candidates.likeliest(self.layout.profile()).map_or(Known::Settled, Known::Durable)
    }

    /// `doubts` in runs of neighbours that one read can fetch.
    fn runs<'d>(&self, doubts: &'d [BlockInDoubt]) -> impl Iterator<Item = &'d [BlockInDoubt]> + use<'d, M> {
        let most = (READ_MAX / self.layout.profile().interval_size()).max(1);
        doubts
            .chunk_by(|first, second| first.interval + 1 == second.interval)
            .flat_map(move |run| run.chunks(most))
    }

    /// Finds out what neighbouring blocks hold.
    fn judge(&self, run: &[BlockInDoubt], found: &mut Recovery, verdicts: &mut Vec<(u64, Verdict)>) {
        let interval_size = self.layout.profile().interval_size();
        let (holes, others) = run.split_at(self.holes(run));
        for doubt in holes {
            self.decide(doubt, &vec![0; interval_size], found, verdicts);
        }
        let Some(BlockInDoubt { interval: first, .. }) = others.first() else {
            return;
        };
        let mut data = vec![0; others.len() * interval_size];
        if self.media.read(File::Image, first * interval_size as u64, &mut data).is_err() {
            if others.len() == 1 {
                found.unreadable_blocks += 1;
                return;
            }
            // perhaps it is only one of them
            for doubt in others.chunks(1) {
                self.judge(doubt, found, verdicts);
            }
            return;
        }
        for (doubt, data) in others.iter().zip(data.chunks_exact(interval_size)) {
            self.decide(doubt, data, found, verdicts);
        }
    }

    /// The number of the first of these neighbouring blocks that lie in a hole of the image, which
    /// reads as zeros.
    fn holes(&self, run: &[BlockInDoubt]) -> usize {
        let interval_size = self.layout.profile().interval_size() as u64;
        let Some(BlockInDoubt { interval: first, .. }) = run.first() else {
            return 0;
        };
        match self.media.next_data(first * interval_size) {
            Ok(None) => run.len(),
            Ok(Some(data)) => {
                let holes = (data / interval_size).saturating_sub(*first);
                usize::try_from(holes).map_or(run.len(), |holes| holes.min(run.len()))
            }
            // only a saving
            Err(_) => 0,
        }
    }

    /// Finds out what a block holds whose bytes are `data`.
    fn decide(
        &self,
        doubt: &BlockInDoubt,
        data: &[u8],
        found: &mut Recovery,
        verdicts: &mut Vec<(u64, Verdict)>,
    ) {
        let profile = self.layout.profile();
        found.judged_blocks += 1;
        let verdict = doubt.candidates.judge(profile, doubt.interval, data);
        if verdict.adopted {
            if !self.rules.contains(Rules::ADOPTION) {
                return;
            }
            found.adopt(profile, doubt, &verdict);
        }
        verdicts.push((doubt.interval, verdict));
    }
}

/// For each of the `intervals` the records that matter to it, the newest first, as `covers` are.
fn records_by_interval(intervals: &Range<u64>, covers: &[Cover]) -> Vec<Vec<usize>> {
    let place =
        |interval: u64| usize::try_from(interval - intervals.start).expect("within a page of the array");
    let mut records = vec![Vec::new(); place(intervals.end)];
    for cover in covers {
        for records in &mut records[place(cover.intervals.start)..place(cover.intervals.end)] {
            records.push(cover.record);
        }
    }
    records
}
