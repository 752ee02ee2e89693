//! A sector of the sidecar that cannot be read: it costs the blocks that it is of, no other one,
//! and the next write mends it.

use std::ops::Range;
use std::rc::Rc;

use stableblk_integrity::sidecar::{self, File, IntentMode, Opened, PAGE_SIZE, SECTOR_SIZE, SUPERBLOCK_SIZE};

use crate::damage;
use crate::host::{self, Command, Host, read_block, tuples_of};
use crate::medium::Medium;
use crate::oracle;
use crate::promise::{BlockPromise, Promise, Version};
use crate::recorder::Recorder;
use crate::setup::Setup;
use crate::violation::Violation;

/// Versions of blocks that no other session has written.
const WRITES: u64 = 1 << 20;

/// The part of the sidecar that the sector belongs to.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Area {
    Superblock,
    DirtyMap,
    Log,
    /// The tuples of these intervals.
    Array(Range<u64>),
}

impl Area {
    /// That of sector `at`.
    fn of(setup: &Setup, at: u64) -> Self {
        let (layout, offset) = (setup.layout(), at * SECTOR_SIZE as u64);
        if offset < layout.map_offset() {
            return Self::Superblock;
        }
        if offset < layout.log_offset() {
            return Self::DirtyMap;
        }
        if offset < layout.array_offset() {
            return Self::Log;
        }
        let per_sector = layout.tuples_per_sector() as u64;
        let first = (offset - layout.array_offset()) / SECTOR_SIZE as u64 * per_sector;
        Self::Array(first..first + per_sector)
    }

    /// Whether block `lba` may be one that cannot be read.
    fn costs(&self, setup: &Setup, lba: u64) -> bool {
        match self {
            Self::Superblock | Self::DirtyMap => false,
            // with intents by region all that the page names is in a dirty region
            Self::Log => setup.mode == IntentMode::Block,
            Self::Array(intervals) => intervals.contains(&lba),
        }
    }
}

/// The sector of the sidecar that is to be tried in the state of this `key`; none where that says
/// nothing.
pub(crate) fn sector(medium: &Medium, key: u128) -> Option<u64> {
    let places: Vec<_> = medium.sidecar.current.places(0..u64::MAX).collect();
    let at = places[usize::try_from(key >> 96).expect("32 bits") % places.len()];
    let superblock = |copy: u64| medium.sidecar.current.get(copy * SUPERBLOCK_SIZE / SECTOR_SIZE as u64);
    // a copy that the power cut has kept from being written stands in for none
    let is_alone = at < 2 * SUPERBLOCK_SIZE / SECTOR_SIZE as u64 && superblock(0) != superblock(1);
    (!is_alone).then_some(at)
}

/// Opens what is on `medium`, of which sector `at` of the sidecar cannot be read, and compares it
/// with the promise of before. If `mends`, then writes all blocks.
pub(crate) fn check(
    setup: &Setup,
    mut medium: Medium,
    promise: &Promise,
    at: u64,
    mends: bool,
) -> Result<(), Violation> {
    medium.make_unreadable(File::Sidecar, at);
    let media = setup.recorder(medium, Rc::default());
    let mut opened = host::open(setup, &media).map_err(|_| Violation::CannotOpen)?;
    let area = Area::of(setup, at);
    if matches!(area, Area::Superblock | Area::DirtyMap) {
        oracle::check(setup, &media, &mut opened, promise, None, true)?;
    } else {
        read(setup, &media, &mut opened, promise, &area)?;
    }
    if mends { mend(setup, &media, opened, &area, at) } else { Ok(()) }
}

/// Reads all blocks.
fn read(
    setup: &Setup,
    media: &Recorder,
    opened: &mut Opened,
    promise: &Promise,
    area: &Area,
) -> Result<(), Violation> {
    if promise.owed && !opened.durability_lost {
        return Err(Violation::LossForgotten);
    }
    host::verify(media, opened);
    for (&lba, promise) in setup.lbas.iter().zip(&**promise) {
        if lba >= opened.journal.layout().intervals() {
            continue;
        }
        let data = read_block(setup, media, lba);
        let tuple = tuples_of(&mut opened.journal, media, &(lba..lba + 1));
        if !promise.allows(&Version::of(&data)) {
            return Err(Violation::WrongData);
        }
        if sidecar::verify(&setup.profile(), lba, &data, &tuple).is_err() && !area.costs(setup, lba) {
            return Err(Violation::FalseError);
        }
    }
    Ok(())
}

/// Writes all blocks and ends the session: all is as if it had never been, but for the log, which
/// comes round some day.
fn mend(setup: &Setup, media: &Recorder, opened: Opened, area: &Area, at: u64) -> Result<(), Violation> {
    let held = setup.lbas.iter().map(|&lba| BlockPromise::of(Version::of(&read_block(setup, media, lba))));
    let promise = Promise::of(held.collect(), opened.durability_lost);
    let mut host = Host::new(setup, media, opened, promise, WRITES);
    for block in (0..setup.lbas.len()).filter(|&block| host.has(&(block..block + 1))).collect::<Vec<_>>() {
        host.submit(Command::Write, block..block + 1);
        host.finish(&(block..block + 1))?;
    }
    // one may fail for durability that was lost
    for _ in 0..2 {
        host.begin_flush();
        host.finish_flushes()?;
    }
    host.read_all()?;
    if !host.close()? {
        return Err(Violation::Failed);
    }
    // the log's thread writes a list of which a sector is damaged
    damage::note(setup, media, false);
    let page = at * SECTOR_SIZE as u64 / PAGE_SIZE as u64 * PAGE_SIZE as u64;
    let is_mended = media.medium().is_readable(File::Sidecar, page, PAGE_SIZE as u64);
    if *area != Area::Log && !is_mended {
        return Err(Violation::NotMended);
    }
    let promise = host.promised().clone();
    drop(host);
    media.opened_again();
    let mut opened = host::open(setup, media).map_err(|_| Violation::CannotOpen)?;
    oracle::check(setup, media, &mut opened, &promise, None, true).map(drop)
}
