//! Bits that flip at rest, and sectors that cannot be read: each is found, by the name of what it
//! hit, and the rest is served.

use std::rc::Rc;

use stableblk_integrity::sidecar::{
    self, File, IntentMode, Loaded, Mismatch, Opened, SECTOR_SIZE, SUPERBLOCK_SIZE, SidecarError,
};

use crate::host::{self, Command, Host, read_block, tuples_of};
use crate::medium::Medium;
use crate::play::{Op, Play};
use crate::recorder::Recorder;
use crate::sectors::Sector;
use crate::setup::Setup;

const MODES: [IntentMode; 2] = [IntentMode::Region, IntentMode::Block];

/// The medium after `ops` were done and the process was killed, all being durable.
fn left_by(setup: &Setup, ops: &[Op]) -> Medium {
    let media = setup.recorder(setup.created(), Rc::new(setup.unwritten()));
    let mut play = Play::begin(setup, &media).expect("a session");
    for op in ops {
        play.apply(op).expect("no violation");
    }
    let mut medium = media.medium();
    medium.sync(File::Image);
    medium.sync(File::Sidecar);
    medium
}

fn written(setup: &Setup) -> Vec<Op> {
    (0..setup.lbas.len()).map(|block| Op::Do(Command::Write, block..block + 1)).chain([Op::Flush]).collect()
}

fn flip(medium: &mut Medium, file: File, offset: u64) {
    let (sector, byte) = (offset / SECTOR_SIZE as u64, offset % SECTOR_SIZE as u64);
    let mut bytes = [0; SECTOR_SIZE];
    medium.read(file, sector * SECTOR_SIZE as u64, &mut bytes);
    bytes[usize::try_from(byte).expect("within a sector")] ^= 0x10;
    medium.damage(file, sector * SECTOR_SIZE as u64, Sector::of(&bytes));
}

/// The sector with the byte at `offset` cannot be read.
fn make_unreadable(medium: &mut Medium, file: File, offset: u64) {
    medium.make_unreadable(file, offset / SECTOR_SIZE as u64);
}

/// The kinds of damage of a byte of the sidecar.
const DAMAGES: [fn(&mut Medium, File, u64); 2] = [flip, make_unreadable];

/// Each mode with each damage.
fn cases() -> impl Iterator<Item = (IntentMode, fn(&mut Medium, File, u64))> {
    MODES.into_iter().flat_map(|mode| DAMAGES.into_iter().map(move |damage| (mode, damage)))
}

fn opened(setup: &Setup, medium: Medium) -> (Recorder, Opened) {
    let media = setup.recorder(medium, Rc::default());
    let opened = host::open(setup, &media).expect("it can be opened");
    (media, opened)
}

/// The result of a read of each block.
fn read(setup: &Setup, media: &Recorder, opened: &mut Opened) -> Vec<Result<(), SidecarError>> {
    let verified = |&lba| {
        let tuple = tuples_of(&mut opened.journal, media, &(lba..lba + 1));
        sidecar::verify(&setup.profile(), lba, &read_block(setup, media, lba), &tuple)
    };
    setup.lbas.iter().map(verified).collect()
}

#[test]
fn data_is_found_by_its_guard() {
    for mode in MODES {
        let setup = Setup::small(mode);
        let mut medium = left_by(&setup, &[written(&setup), vec![Op::Reopen]].concat());
        flip(&mut medium, File::Image, 1500);
        let (media, mut opened) = opened(&setup, medium);
        let found = read(&setup, &media, &mut opened);
        assert!(found[0].is_ok());
        assert!(
            matches!(found[1], Err(SidecarError::Mismatch(Mismatch::Pi(error))) if error.lba == 1),
            "{found:?}"
        );
    }
}

#[test]
fn tuples_are_lost_by_the_sector() {
    for (mode, damage) in cases() {
        let setup = Setup::tight_cache(mode);
        let mut medium = left_by(&setup, &[written(&setup), vec![Op::Reopen]].concat());
        damage(&mut medium, File::Sidecar, setup.layout().page_offset(1) + 40);
        let (media, mut opened) = opened(&setup, medium);
        let found = read(&setup, &media, &mut opened);
        for (lba, found) in setup.lbas.iter().zip(found) {
            let lost = Err(SidecarError::Mismatch(Mismatch::TupleLost { lba: *lba }));
            assert_eq!(found, if [248, 249].contains(lba) { lost } else { Ok(()) });
        }
        // a lost tuple is one until its block is written
        let promise = setup.unwritten();
        let mut host = Host::new(&setup, &media, opened, promise, 100);
        host.submit(Command::Write, 2..3);
        host.finish_requests().expect("the disk is served");
    }
}

#[test]
fn a_page_of_the_log_is_missed() {
    for (mode, damage) in cases() {
        let setup = Setup::small(mode);
        let mut medium = left_by(&setup, &vec![written(&setup); 3].concat());
        damage(&mut medium, File::Sidecar, setup.layout().log_page_offset(2) + 100);
        let (media, mut opened) = opened(&setup, medium);
        let recovered = opened.recovered.take().expect("a recovery");
        assert_eq!((recovered.log_pages, recovered.log_gap), (1, Some(2)));
        if mode == IntentMode::Region {
            assert!(read(&setup, &media, &mut opened).iter().all(Result::is_ok));
        }
    }
}

#[test]
fn a_sector_of_the_map_makes_its_regions_dirty() {
    for damage in DAMAGES {
        let setup = Setup::small(IntentMode::Region);
        let mut medium = left_by(&setup, &written(&setup));
        damage(&mut medium, File::Sidecar, setup.layout().map_offset() + 8);
        let (media, mut opened) = opened(&setup, medium);
        let recovered = opened.recovered.take().expect("a recovery");
        assert_eq!((recovered.rotten_map_sectors, recovered.adopted_blocks), (1, 0));
        assert!(read(&setup, &media, &mut opened).iter().all(Result::is_ok));
    }
}

#[test]
fn one_superblock_stands_in_for_the_other() {
    for (mode, damage) in cases() {
        for ops in [vec![], vec![Op::Reopen], vec![Op::Checkpoint]] {
            for copy in 0..2 {
                let setup = Setup::small(mode);
                let mut medium = left_by(&setup, &[written(&setup), ops.clone()].concat());
                damage(&mut medium, File::Sidecar, copy * SUPERBLOCK_SIZE + 60);
                let (media, mut opened) = opened(&setup, medium);
                assert_eq!(opened.damaged.as_ref().map(|damaged| damaged.0 as u64), Some(copy));
                assert!(read(&setup, &media, &mut opened).iter().all(Result::is_ok));
                assert!(Loaded::from(&media).expect("both are good").damaged.is_none());
            }
        }
    }
}

#[test]
fn without_a_superblock_there_is_no_sidecar() {
    for (damage, says) in DAMAGES.into_iter().zip(["damaged superblock", "unreadable superblock"]) {
        let setup = Setup::small(IntentMode::Region);
        let mut medium = left_by(&setup, &written(&setup));
        damage(&mut medium, File::Sidecar, 60);
        damage(&mut medium, File::Sidecar, SUPERBLOCK_SIZE + 60);
        let media = setup.recorder(medium, Rc::default());
        let error = host::open(&setup, &media).expect_err("nothing to go by");
        assert!(error.to_string().starts_with(says), "{error}");
    }
}
