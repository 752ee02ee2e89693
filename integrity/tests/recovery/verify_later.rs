//! Regions that are verified while the disk is served.

use std::io;

use stableblk_integrity::sidecar::{
    self, Change, File, Intent, IntentMode, Journal, PAGE_SIZE, Permission, REGION_SIZE, RegionFindings,
    Rules, State, Superblock, TuplePage, Verify,
};

use crate::medium::Medium;
use crate::{TUPLE_SIZE, open_sidecar, put_dirty_map, tuple_of};

const INTERVAL: u32 = 4096;
const PER_REGION: u64 = REGION_SIZE / INTERVAL as u64;
const CACHE: usize = 1 << 20;

/// A disk that a crash has left, with the `dirty` ones of its first eight regions.
fn crashed(dirty: u8) -> Medium {
    let medium = Medium::default();
    let superblock = open_sidecar(&medium, INTERVAL, 64 << 20, IntentMode::Region);
    put_dirty_map(&medium, superblock.layout(), dirty);
    medium
}

/// Fills blocks from `first` on with data that no tuple is of.
fn tear(medium: &Medium, first: u64, count: u64) {
    for interval in first..first + count {
        medium.put(File::Image, interval * u64::from(INTERVAL), &[7; INTERVAL as usize]);
    }
}

fn open(medium: &Medium) -> Journal {
    let verify = Verify::WhileServing { above: 0 };
    let opened = sidecar::open_and_verify(medium, IntentMode::Region, CACHE, verify, Rules::all());
    opened.expect("a sidecar").journal
}

fn superblock(medium: &Medium) -> Superblock {
    sidecar::Loaded::from(medium).expect("a superblock").superblock
}

fn verify(journal: &mut Journal, medium: &Medium) -> Option<RegionFindings> {
    let check = journal.begin_verification().expect("a region");
    let checked = check.run(medium);
    journal.end_verification(&check, checked)
}

fn tuple(journal: &mut Journal, medium: &Medium, interval: u64) -> Vec<u8> {
    let (intervals, mut tuple) = (interval..interval + 1, vec![0; TUPLE_SIZE]);
    while let Err(miss) = journal.tuples(&intervals, &mut tuple) {
        let page = TuplePage::read(journal.layout(), medium, miss.page).expect("nothing fails");
        journal.fill(&miss, Some(&page));
    }
    tuple
}

/// Asks for leave to write a block, once.
fn ask(journal: &mut Journal, intent: &mut Intent) -> io::Result<Permission> {
    let tuple = vec![1; TUPLE_SIZE];
    let permission = journal.intend(intent, Change::Written(&tuple))?;
    if permission == Permission::Granted {
        journal.complete(intent, Change::Written(&tuple));
    }
    Ok(permission)
}

#[test]
fn a_disk_is_open_before_its_dirty_regions_are_read() {
    let medium = crashed(0xFF);
    tear(&medium, 0, 8 * PER_REGION);
    let journal = open(&medium);
    assert_eq!((medium.image_bytes_read.get(), journal.verification().left), (0, 8));
}

#[test]
fn a_request_waits_until_its_region_is_verified_which_is_the_next() {
    let medium = crashed(0b1010_0000);
    tear(&medium, 7 * PER_REGION + 3, 1);
    let mut journal = open(&medium);
    let mut intent = Intent::new(7 * PER_REGION..7 * PER_REGION + 1);
    assert_eq!(ask(&mut journal, &mut intent).expect("nothing fails"), Permission::Later);
    assert!(journal.is_verification_wanted());
    let mut waits = None;
    let other = 2 * PER_REGION..2 * PER_REGION + 1;
    assert!(journal.is_verified(&other, &mut waits).expect("nothing fails"), "it is in no doubt");
    let found = verify(&mut journal, &medium).expect("there is room");
    let adopted: Vec<_> = found.recovery.adoptions.iter().map(|adoption| adoption.lba).collect();
    assert_eq!(adopted, [7 * PER_REGION + 3]);
    assert_eq!(ask(&mut journal, &mut intent).expect("nothing fails"), Permission::Granted);
    let held = tuple(&mut journal, &medium, 7 * PER_REGION + 3);
    let profile = *journal.layout().profile();
    assert!(sidecar::is_adopted(&profile, &held));
    assert_eq!(held[..8], tuple_of(&profile, 7 * PER_REGION + 3, 7)[..8], "the guard of its data");
    assert_eq!((journal.verification().left, journal.is_verification_wanted()), (1, false));
}

#[test]
fn regions_that_are_not_verified_at_the_end_of_a_session_are_left_to_the_next() {
    let medium = crashed(0b0000_0111);
    tear(&medium, 2 * PER_REGION, 1);
    let mut journal = open(&medium);
    verify(&mut journal, &medium).expect("there is room");
    sidecar::close(&mut journal, &medium).expect("nothing fails");
    assert_eq!(superblock(&medium).state(), State::Open(IntentMode::Region));
    let mut journal = open(&medium);
    assert_eq!(journal.verification().left, 2, "one was verified");
    verify(&mut journal, &medium).expect("there is room");
    let found = verify(&mut journal, &medium).expect("there is room");
    assert_eq!(found.recovery.adopted_blocks, 1);
    sidecar::close(&mut journal, &medium).expect("nothing fails");
    assert_eq!(superblock(&medium).state(), State::Clean);
    assert!(sidecar::is_adopted(
        journal.layout().profile(),
        &tuple(&mut open(&medium), &medium, 2 * PER_REGION)
    ));
}

#[test]
fn no_more_blocks_are_adopted_than_a_crash_leaves() {
    let medium = crashed(0xFF);
    let most = superblock(&medium).doubt_max();
    assert_eq!(most, 4 * PER_REGION);
    tear(&medium, 0, 5 * PER_REGION);
    let mut journal = open(&medium);
    for region in 0..5 {
        let found = verify(&mut journal, &medium).expect("there is room");
        let expected = if region < 4 { (PER_REGION, 0) } else { (0, PER_REGION) };
        assert_eq!((found.recovery.adopted_blocks, found.not_adopted), expected, "region {region}");
        while let Some(commit) = journal.begin_commit() {
            let result = commit.run(&medium);
            journal.end_commit(commit, &result);
        }
    }
    assert!(sidecar::is_unwritten(&tuple(&mut journal, &medium, 4 * PER_REGION)), "so that a read fails");
    assert_eq!(journal.verification().left, 3);
}

#[test]
fn a_request_fails_when_its_region_cannot_be_verified() {
    const ENOMEM: i32 = 12;
    let medium = crashed(1);
    tear(&medium, 0, 1);
    let mut journal = open(&medium);
    let mut intent = Intent::new(0..1);
    assert_eq!(ask(&mut journal, &mut intent).expect("nothing has failed yet"), Permission::Later);
    medium.sidecar_errno.set(ENOMEM);
    assert!(verify(&mut journal, &medium).is_none());
    let error = ask(&mut journal, &mut intent).expect_err("it was waited for");
    assert_eq!(error.raw_os_error(), Some(ENOMEM));
    medium.sidecar_errno.set(0);
    assert_eq!(ask(&mut journal, &mut Intent::new(0..1)).expect("a new request"), Permission::Later);
    assert_eq!(verify(&mut journal, &medium).expect("there is room").recovery.adopted_blocks, 1);
}

#[test]
fn regions_stay_in_doubt_when_the_image_grows() {
    let medium = crashed(0b110);
    let mut journal = open(&medium);
    let growth = sidecar::Growth::to(&journal, 128 << 20).expect("room in the map");
    growth.prepare(&medium, |_| Ok(None)).expect("nothing fails");
    sidecar::grow(&mut journal, &medium, &growth, CACHE).expect("nothing fails");
    assert_eq!(journal.verification().left, 2);
    drop(journal);
    assert_eq!(open(&medium).verification().left, 2);
}

#[test]
fn a_damaged_sector_of_the_map_leaves_all_its_regions_in_doubt() {
    let medium = crashed(0);
    let layout = superblock(&medium).layout().clone();
    medium.put(File::Sidecar, layout.map_offset(), &[0xEE; PAGE_SIZE]);
    assert_eq!(open(&medium).verification().left, layout.regions());
}
