//! Whether what is there after a crash is what the guest was promised.

use std::collections::HashSet;

use stableblk_integrity::sidecar::{self, File, IntentMode, Layout, Opened, REGION_SIZE, SECTOR_SIZE};

use crate::damage;
use crate::host::{self, read_block, tuples_of};
use crate::medium::Medium;
use crate::promise::{BlockPromise, Promise, Version};
use crate::recorder::Recorder;
use crate::setup::Setup;
use crate::violation::Violation;

/// A block whose data was changed without the sidecar, and whether recovery may take that for a
/// write that was cut off.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Corruption {
    pub(crate) block: usize,
    pub(crate) may_be_adopted: bool,
}

/// Compares a sidecar that was just opened with the promise of before. Returns what may be promised
/// from now on.
///
/// A recovery that was itself cut off before it could report leaves its marks in the tuples:
/// `is_first` says that there was none.
pub(crate) fn check(
    setup: &Setup,
    media: &Recorder,
    opened: &mut Opened,
    promise: &Promise,
    corruption: Option<Corruption>,
    is_first: bool,
) -> Result<Promise, Violation> {
    if promise.owed && !opened.durability_lost {
        return Err(Violation::LossForgotten);
    }
    host::verify(media, opened);
    damage::check(media)?;
    let recovered = opened.recovered.as_ref();
    let adopted: HashSet<u64> =
        recovered.iter().flat_map(|found| found.adoptions.iter().map(|adoption| adoption.lba)).collect();
    let profile = setup.profile();
    let mut now = Vec::with_capacity(promise.len());
    for (block, (&lba, promise)) in setup.lbas.iter().zip(&**promise).enumerate() {
        if lba >= opened.journal.layout().intervals() {
            if !promise.allows(&setup.zeros()) {
                return Err(Violation::WrongData);
            }
            now.push(BlockPromise::of(setup.zeros()));
            continue;
        }
        let data = read_block(setup, media, lba);
        let tuple = tuples_of(&mut opened.journal, media, &(lba..lba + 1));
        let is_good = sidecar::verify(&profile, lba, &data, &tuple).is_ok();
        let is_adopted = sidecar::is_adopted(&profile, &tuple);
        let held = Version { is_adopted, ..Version::of(&data) };
        if let Some(corruption) = corruption.filter(|corruption| corruption.block == block) {
            if is_good && !(corruption.may_be_adopted && is_adopted) {
                return Err(Violation::MissedCorruption);
            }
        } else if !is_good {
            return Err(Violation::FalseError);
        } else if !promise.allows(&held) {
            return Err(Violation::WrongData);
        } else if promise.is_settled() && !promise.may_be_adopted() && adopted.contains(&lba) {
            return Err(Violation::NeedlesslyAdopted);
        } else if !promise.has(&held) {
            if !is_adopted {
                return Err(Violation::UnmarkedMixture);
            }
            if is_first && !promise.may_be_adopted() && !adopted.contains(&lba) {
                return Err(Violation::SilentlyAdopted);
            }
        }
        now.push(BlockPromise::of(held));
    }
    Ok(Promise::of(now, opened.durability_lost))
}

/// Whether recovery may take corruption of a block for a write that was cut off.
pub(crate) fn may_be_adopted(setup: &Setup, medium: &Medium, promise: &BlockPromise, lba: u64) -> bool {
    match setup.mode {
        IntentMode::Region => {
            // recovery reads what the medium has
            let mut medium = medium.clone();
            medium.drop_cache(File::Sidecar);
            is_marked(&setup.layout(), &medium, lba * u64::from(setup.interval) / REGION_SIZE)
        }
        IntentMode::Block => !promise.quiet,
    }
}

/// The dirty bit of a region, of those in the first sector of the map.
pub(crate) fn is_marked(layout: &Layout, medium: &Medium, region: u64) -> bool {
    let mut map = [0; SECTOR_SIZE];
    medium.read(File::Sidecar, layout.map_offset(), &mut map);
    map[usize::try_from(region / 8).expect("few regions")] & 1 << (region % 8) != 0
}
