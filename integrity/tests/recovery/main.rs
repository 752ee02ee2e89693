//! Recovery by its rules, and what it costs: compared with rules that are written down one block
//! and one record at a time, over logs that no guest of ours would leave.

mod medium;
mod verify_later;

use std::collections::BTreeMap;
use std::ops::Range;

use proptest::prelude::*;
use stableblk_integrity::sidecar::{
    self, Change, File, Intent, IntentMode, Journal, Layout, PAGE_SIZE, Permission, REGION_SIZE,
    RecoveredPages, Recovery, Rules, SECTOR_SIZE, Superblock, TuplePage, Verify,
};
use stableblk_integrity::{Guard, IntegrityProfile, PiType};

use crate::medium::Medium;

const UUID: [u8; 16] = [0x5A; 16];
const TUPLE_SIZE: usize = 16;

/// Bytes of records in a page of the log.
const RECORDS_LEN: usize = 4032;

/// A record of the log.
#[derive(Debug, Clone)]
struct Record {
    intervals: Range<u64>,
    /// The bytes that fill each of the intervals; `None`: they become unwritten.
    fill: Option<u8>,
}

fn profile(interval_size: u32) -> IntegrityProfile {
    IntegrityProfile::new(Guard::Crc64Nvme, PiType::Type1, interval_size).expect("a usual profile")
}

fn tuple_of(profile: &IntegrityProfile, interval: u64, fill: u8) -> Vec<u8> {
    let mut tuple = vec![0; TUPLE_SIZE];
    let data = vec![fill; profile.interval_size()];
    sidecar::generate(profile, interval, &data, &mut tuple).expect("one interval, one tuple");
    tuple
}

/// A sidecar that is open, with nothing in it: its superblock.
fn open_sidecar(medium: &Medium, interval_size: u32, image_size: u64, mode: IntentMode) -> Superblock {
    let superblock = Superblock::new(UUID, profile(interval_size), image_size).expect("a small image");
    superblock.create(medium).expect("nothing fails");
    sidecar::open(medium, mode, 1 << 20, Rules::all()).expect("a new sidecar");
    sidecar::Loaded::from(medium).expect("a superblock").superblock
}

/// Page `seq` of the log, with `records`, of which all in pages up to `committed` had their data
/// durable.
fn put_log_page(medium: &Medium, superblock: &Superblock, seq: u64, committed: u64, records: &[Record]) {
    let layout = superblock.layout();
    let mut page = vec![0; PAGE_SIZE];
    page[..8].copy_from_slice(b"STABLELG");
    page[8..24].copy_from_slice(&UUID);
    for (at, value) in [(24, superblock.epoch()), (32, seq), (40, committed)] {
        page[at..at + 8].copy_from_slice(&value.to_be_bytes());
    }
    let mut bytes = Vec::new();
    for Record { intervals, fill } in records {
        let count = u32::try_from(intervals.end - intervals.start).expect("few");
        bytes.extend_from_slice(&intervals.start.to_be_bytes());
        bytes.extend_from_slice(&count.to_be_bytes());
        bytes.extend_from_slice(&u32::from(fill.is_some()).to_be_bytes());
        for interval in intervals.clone() {
            bytes.extend(fill.iter().flat_map(|&fill| tuple_of(layout.profile(), interval, fill)));
        }
    }
    assert!(bytes.len() <= RECORDS_LEN);
    page[48..52].copy_from_slice(&u32::try_from(bytes.len()).expect("a page").to_be_bytes());
    page[56..56 + bytes.len()].copy_from_slice(&bytes);
    let crc = Guard::Crc64Nvme.compute(&page[..4088]);
    page[4088..].copy_from_slice(&crc.to_be_bytes());
    medium.put(File::Sidecar, layout.log_page_offset(seq), &page);
}

/// One bit for each of the first regions.
fn put_dirty_map(medium: &Medium, layout: &Layout, dirty: u8) {
    let mut sector = [0; SECTOR_SIZE];
    sector[0] = dirty;
    let crc = Guard::Crc64Nvme.compute(&sector[..504]);
    sector[504..].copy_from_slice(&crc.to_be_bytes());
    medium.put(File::Sidecar, layout.map_offset(), &sector);
}

fn recover(medium: &Medium, superblock: &Superblock) -> (Recovery, BTreeMap<u64, TuplePage>) {
    let mut pages = BTreeMap::new();
    let recovery = Recovery::run(medium, superblock, Rules::all(), |recovered| {
        match recovered {
            RecoveredPages::One(page, _) => drop(pages.insert(page.page, page)),
            RecoveredPages::Unwritten(run) => pages.extend(run.map(|page| {
                let tuples = vec![0; superblock.layout().tuples_per_page() * TUPLE_SIZE];
                (page, TuplePage { page, tuples, lost: Vec::new() })
            })),
        }
        Ok(())
    });
    (recovery.expect("nothing fails"), pages)
}

/// An image of three regions, for the property.
const INTERVAL_SIZE: u32 = 8192;
const BLOCKS: u64 = 384;

fn records() -> impl Strategy<Value = Vec<Record>> {
    let record = (0..BLOCKS, 1..40_u64, prop_oneof![Just(None), (0..4_u8).prop_map(Some)]);
    let record = record.prop_map(|(first, count, fill)| {
        // the tuples of all records of a page have to fit
        let count = if fill.is_some() { count.min(12) } else { count * 8 };
        Record { intervals: first..(first + count).min(BLOCKS), fill }
    });
    prop::collection::vec(record, 0..15)
}

/// The input of a recovery.
struct Rulebook<'a> {
    log: &'a [(u64, Vec<Record>)],
    committed: u64,
    mode: IntentMode,
    dirty: u8,
    profile: IntegrityProfile,
}

impl Rulebook<'_> {
    /// The result of the rules for a block that holds `fill`: its tuple, and whether it is adopted.
    fn verdict(&self, block: u64, array: &[u8], fill: u8) -> (Vec<u8>, bool) {
        let region = block * u64::from(INTERVAL_SIZE) / REGION_SIZE;
        let mut in_doubt = self.mode == IntentMode::Region && self.dirty & 1 << region != 0;
        let mut candidates: Vec<Vec<u8>> = Vec::new();
        let records = self.log.iter().flat_map(|(seq, records)| records.iter().map(move |it| (*seq, it)));
        let mut is_settled = false;
        for (seq, record) in records.rev().filter(|(_, record)| record.intervals.contains(&block)) {
            let tuple = record.fill.map(|fill| tuple_of(&self.profile, block, fill));
            candidates.push(tuple.unwrap_or(vec![0; TUPLE_SIZE]));
            is_settled = seq <= self.committed;
            if is_settled {
                break;
            }
            in_doubt |= self.mode == IntentMode::Block;
        }
        if !is_settled {
            candidates.push(array.to_vec());
        }
        if !in_doubt {
            return (candidates[0].clone(), false);
        }
        let actual = tuple_of(&self.profile, block, fill);
        let fits =
            |candidate: &&Vec<u8>| **candidate == actual || (fill == 0 && **candidate == [0; TUPLE_SIZE]);
        match candidates.iter().find(fits) {
            Some(found) => (found.clone(), false),
            None => (actual, true),
        }
    }
}

proptest! {
    #[test]
    fn it_follows_the_rules_block_by_block(
        pages in prop::collection::vec(records(), 0..5),
        committed in 0..5_u64,
        dirty in 0..8_u8,
        block_mode: bool,
        fills in prop::collection::vec(0..5_u8, 384),
        old in prop::collection::vec(0..3_u8, 384),
    ) {
        let medium = Medium::default();
        let mode = if block_mode { IntentMode::Block } else { IntentMode::Region };
        let image_size = BLOCKS * u64::from(INTERVAL_SIZE);
        let superblock = open_sidecar(&medium, INTERVAL_SIZE, image_size, mode);
        let (layout, profile) = (superblock.layout(), profile(INTERVAL_SIZE));
        put_dirty_map(&medium, layout, dirty);
        let mut array = Vec::new();
        for (block, (&fill, &old)) in (0..).zip(fills.iter().zip(&old)) {
            if fill != 0 {
                medium.put(File::Image, block * u64::from(INTERVAL_SIZE), &vec![fill; INTERVAL_SIZE as usize]);
            }
            let tuple = if old == 0 { vec![0; TUPLE_SIZE] } else { tuple_of(&profile, block, old) };
            sidecar::change_tuples(layout, &medium, &(block..block + 1), Change::Written(&tuple)).unwrap();
            array.push(tuple);
        }
        let first = superblock.tail();
        let committed = first - 1 + committed.min(pages.len() as u64);
        let mut log = Vec::new();
        for (seq, records) in (first..).zip(pages) {
            put_log_page(&medium, &superblock, seq, committed.min(seq - 1), &records);
            log.push((seq, records));
        }
        // a page names what was committed before it was sealed
        let committed = log.last().map_or(0, |(seq, _)| committed.min(seq - 1));
        let rulebook = Rulebook { log: &log, committed, mode, dirty, profile };
        let (recovery, found) = recover(&medium, &superblock);
        let mut adopted = Vec::new();
        for block in 0..BLOCKS {
            let place = usize::try_from(block).unwrap();
            let (mut tuple, is_adopted) = rulebook.verdict(block, &array[place], fills[place]);
            if is_adopted {
                adopted.push(block);
            }
            let page = found.get(&layout.page_of(block));
            let mut actual = page.map_or_else(
                || array[place].clone(),
                |page| page.tuples[page.range(layout, &(block..block + 1))].to_vec(),
            );
            prop_assert_eq!(sidecar::is_adopted(&profile, &actual), is_adopted, "block {}", block);
            if is_adopted {
                // but for the mark
                (tuple[9], actual[9]) = (0, 0);
            }
            prop_assert_eq!(actual, tuple, "block {}", block);
        }
        let reported: Vec<_> = recovery.adoptions.iter().map(|adoption| adoption.lba).collect();
        prop_assert_eq!(reported, adopted);
    }
}

/// A log with as many records as it has room for, all of the same intervals.
fn full_log(record: &Record, tuples: usize) -> (Medium, Superblock, u64) {
    let medium = Medium::default();
    let superblock = open_sidecar(&medium, 4096, 8 << 20, IntentMode::Block);
    let len = 16 + tuples * TUPLE_SIZE;
    let records = vec![record.clone(); RECORDS_LEN / len];
    let pages = superblock.layout().log_pages();
    for seq in superblock.tail()..superblock.tail() + pages {
        put_log_page(&medium, &superblock, seq, 0, &records);
    }
    (medium, superblock, pages * records.len() as u64)
}

#[test]
fn many_records_of_the_whole_image_cost_no_more_than_one() {
    let (medium, superblock, records) = full_log(&Record { intervals: 0..2048, fill: None }, 0);
    assert_eq!(records, 64_512);
    let (recovery, _) = recover(&medium, &superblock);
    assert_eq!((recovery.judged_blocks, recovery.looked_up_records), (2048, 1));
}

#[test]
fn many_records_with_tuples_cost_no_more_than_their_tuples() {
    let (medium, superblock, records) = full_log(&Record { intervals: 5..6, fill: Some(1) }, 1);
    medium.put(File::Image, 5 * 4096, &[2; 4096]);
    let (recovery, _) = recover(&medium, &superblock);
    assert_eq!((recovery.judged_blocks, recovery.looked_up_records), (1, records));
    assert_eq!((recovery.adopted_blocks, recovery.adoptions[0].candidates.len()), (1, 2));
}

#[test]
fn holes_of_the_image_are_not_read() {
    let (medium, superblock, _) = full_log(&Record { intervals: 0..2048, fill: None }, 0);
    medium.put(File::Image, 1000 * 4096, &[0; 4096]);
    let (recovery, _) = recover(&medium, &superblock);
    assert_eq!((recovery.judged_blocks, recovery.adopted_blocks), (2048, 0));
    // the rest of the run that the page of the array gives
    let read = medium.image_bytes_read.get();
    assert!((4096..=248 * 4096).contains(&read), "{read} bytes of the image were read");
}

/// Discards a block, with commits as they are asked for.
fn discard(journal: &mut Journal, medium: &Medium) {
    let mut intent = Intent::new(0..1);
    while journal.intend(&mut intent, Change::Unwritten).expect("nothing fails") == Permission::Later {
        let commit = journal.begin_commit().expect("what the discard waits for");
        let result = commit.run(medium);
        journal.end_commit(commit, &result);
    }
    journal.complete(&intent, Change::Unwritten);
}

#[test]
fn short_records_do_not_pile_up_until_the_log_is_half_full() {
    let medium = Medium::default();
    let superblock = Superblock::new(UUID, profile(4096), 8 << 30).expect("an image");
    superblock.create(&medium).expect("nothing fails");
    let mut journal =
        sidecar::open(&medium, IntentMode::Region, 1 << 20, Rules::all()).expect("a new sidecar").journal;
    for number in 0.. {
        assert!(number < (1 << 16) + 8, "{number} records without a checkpoint");
        discard(&mut journal, &medium);
        let commit = journal.begin_commit();
        if let Some(commit) = commit {
            journal.end_commit(commit, &Ok(()));
        }
        if journal.has_work() && journal.begin_checkpoint().is_some() {
            break;
        }
    }
}

/// Asks once for leave to write `intervals`, and does so if it is granted. The image is never
/// synced.
fn ask(journal: &mut Journal, intent: &mut Intent) -> Permission {
    let count = usize::try_from(intent.intervals().end - intent.intervals().start).expect("few");
    let tuples = vec![1; count * TUPLE_SIZE];
    let admission = journal.intend(intent, Change::Written(&tuples)).expect("nothing fails");
    if admission == Permission::Granted {
        journal.complete(intent, Change::Written(&tuples));
    }
    admission
}

fn commit(journal: &mut Journal) -> bool {
    let Some(commit) = journal.begin_commit() else { return false };
    journal.end_commit(commit, &Ok(()));
    true
}

#[test]
fn a_guest_that_never_flushes_leaves_few_blocks_to_compare() {
    const WRITES: u64 = 40_000;
    let medium = Medium::default();
    let superblock = Superblock::new(UUID, profile(4096), 8 << 30).expect("an image");
    superblock.create(&medium).expect("nothing fails");
    let open = || {
        let verify = Verify::WhileServing { above: 0 };
        sidecar::open_and_verify(&medium, IntentMode::Region, 64 << 20, verify, Rules::all())
            .expect("a sidecar that can be opened")
    };
    let mut journal = open().journal;
    let mut syncs = 0;
    let mut work = |journal: &mut Journal| {
        if let Some(commit) = journal.begin_commit() {
            let result = commit.run(&medium);
            journal.end_commit(commit, &result);
        }
        if let Some(sync) = journal.begin_data_sync() {
            journal.end_data_sync(&sync, &Ok(()));
            syncs += 1;
        }
        assert!(journal.begin_checkpoint().is_none(), "the log is far from half full");
    };
    for interval in 0..WRITES {
        let mut intent = Intent::new(interval * 2..interval * 2 + 1);
        while ask(&mut journal, &mut intent) == Permission::Later {
            work(&mut journal);
        }
        if journal.has_work() {
            work(&mut journal);
        }
    }
    // the records become durable, but the flush has not synced the image yet
    let _ = journal.begin_flush();
    work(&mut journal);
    assert!(syncs < 6, "{syncs} syncs of the image");
    let recovery = open().recovered.expect("it was not closed");
    // those that are read are found unwritten
    assert_eq!(recovery.changed_tuples + recovery.judged_blocks, WRITES);
    assert!(recovery.judged_blocks < 11_000, "{} blocks were read", recovery.judged_blocks);
}

#[test]
fn writes_have_their_records_written_before_any_waits_for_that() {
    let medium = Medium::default();
    let superblock = Superblock::new(UUID, profile(4096), 64 << 20).expect("an image");
    superblock.create(&medium).expect("nothing fails");
    let opened = sidecar::open(&medium, IntentMode::Region, 1 << 20, Rules::all());
    let mut journal = opened.expect("a new sidecar").journal;
    let most = sidecar::Loaded::from(&medium).expect("a superblock").superblock.doubt_max();
    assert_eq!(most, 1024);
    let write = |interval| Intent::new(interval..interval + 1);
    // the regions are marked first
    for region in 0..8 {
        let mut intent = write(region * 256);
        assert_eq!(ask(&mut journal, &mut intent), Permission::Later);
        assert!(commit(&mut journal));
    }
    for interval in 0..=most / 2 {
        assert!(!journal.has_work(), "a commit after {interval} writes");
        assert_eq!(ask(&mut journal, &mut write(interval)), Permission::Granted);
    }
    assert!(journal.has_work(), "no commit after {} writes", most / 2 + 1);
    let under_way = journal.begin_commit().expect("a commit");
    for interval in most / 2 + 1..most {
        assert_eq!(ask(&mut journal, &mut write(interval)), Permission::Granted, "interval {interval}");
    }
    // as many as there may be are in doubt now
    assert_eq!(ask(&mut journal, &mut write(most)), Permission::Later);
    journal.end_commit(under_way, &Ok(()));
    assert_eq!(ask(&mut journal, &mut write(most)), Permission::Granted);

    // a larger change waits for its own record, and then adds nothing
    let mut large = Intent::new(0..most + 1);
    assert_eq!(ask(&mut journal, &mut large), Permission::Later);
    assert!(large.is_logged() && commit(&mut journal));
    assert_eq!(ask(&mut journal, &mut large), Permission::Granted);
}
