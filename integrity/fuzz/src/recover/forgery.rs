//! Damage and forgery of a sidecar and its image: with good checksums where the input
//! wants them, so that what lies behind the checksums is reached.

use stableblk_integrity::Guard;
use stableblk_integrity::sidecar::{
    self, File, Layout, Media, PAGE_SIZE, SECTOR_SIZE, SUPERBLOCK_SIZE, Superblock,
};

use super::medium::Medium;
use crate::input::Input;

/// Fields of the superblock: where, and how many bytes.
const SUPERBLOCK_FIELDS: [(usize, usize); 12] = [
    (8, 4),
    (12, 4),
    (12, 4),
    (32, 8),
    (40, 4),
    (44, 1),
    (46, 1),
    (48, 8),
    (56, 8),
    (64, 8),
    (72, 8),
    (80, 8),
];

/// Fields of a page of the log.
const LOG_FIELDS: [(usize, usize); 5] = [(24, 8), (32, 8), (40, 8), (48, 4), (52, 4)];

/// Where the records of a page begin, and end.
const RECORDS: std::ops::Range<usize> = 56..PAGE_SIZE - 8;

/// Changes image and sidecar, which `superblock` was the last of, as `input` says.
pub(super) fn forge(medium: &Medium, superblock: &Superblock, input: &mut Input<'_>) {
    let layout = superblock.layout();
    match input.u8() % 10 {
        0 => forge_superblock(medium, superblock, input),
        1 => {
            let regions_end = usize::try_from(layout.map_used()).expect("a small image");
            let at = usize::from(input.u16()) % regions_end;
            change_sector(medium, layout.map_offset(), at, input);
        }
        2 => {
            let seq = superblock.tail() + u64::from(input.u8() % 64);
            let (at, len) = input.choose(LOG_FIELDS);
            let mut page = medium.peek::<PAGE_SIZE>(File::Sidecar, layout.log_page_offset(seq));
            let value = number(input);
            put(&mut page, at, &value.to_be_bytes()[8 - len..]);
            write_page(medium, layout, seq, page, input.u8());
        }
        3 | 4 => forge_log_page(medium, superblock, input),
        5 => {
            let pages_end = usize::try_from(layout.pages()).expect("a small image") * PAGE_SIZE;
            let at = usize::from(input.u16()) * 7 % pages_end;
            change_sector(medium, layout.array_offset(), at, input);
        }
        6 => forge_tuple(medium, layout, input),
        7 => {
            let bytes = input.bytes::<8>();
            medium.write_image(u64::from(input.u16()) * 97 % layout.image_size(), &bytes);
        }
        8 => medium.make_unreadable(File::Image, u64::from(input.u16()) * 512 % layout.image_size()),
        _ => {
            let area = input.choose([0, layout.map_offset(), layout.log_offset(), layout.array_offset()]);
            let at = area + u64::from(input.u16());
            if input.u8().is_multiple_of(4) {
                medium.make_unreadable(File::Sidecar, at);
            } else {
                medium.write(at, &input.bytes::<8>()).expect("writes do not fail");
            }
        }
    }
}

/// Small numbers, round ones and any.
fn number(input: &mut Input<'_>) -> u64 {
    match input.u8() % 4 {
        0 => u64::from(input.u8()),
        1 => 1 << (input.u8() % 64),
        2 => (1 << (input.u8() % 64)) - 1,
        _ => input.u64(),
    }
}

fn forge_superblock(medium: &Medium, superblock: &Superblock, input: &mut Input<'_>) {
    let copies = input.choose([0..1, 1..2, 0..2, 0..2].map(|range| (range.start, range.end)));
    let (at, len) = input.choose(SUPERBLOCK_FIELDS);
    let value = number(input);
    let is_good = !input.u8().is_multiple_of(8);
    for copy in copies.0..copies.1 {
        let offset = copy * SUPERBLOCK_SIZE;
        let mut sector = medium.peek::<SECTOR_SIZE>(File::Sidecar, offset);
        if !sector.starts_with(b"STABLEPI") {
            sector = superblock.encode();
        }
        put(&mut sector, at, &value.to_be_bytes()[8 - len..]);
        if is_good {
            make_good(&mut sector);
        }
        medium.write(offset, &sector).expect("writes do not fail");
    }
}

/// A page of the log with records of all kinds.
fn forge_log_page(medium: &Medium, superblock: &Superblock, input: &mut Input<'_>) {
    let layout = superblock.layout();
    let seq = superblock.tail() + u64::from(input.u8() % 8);
    let committed = input.choose([seq, seq - 1, 0, u64::MAX]);
    let epoch = superblock.epoch() + input.choose([0, 0, 0, 1]);
    let mut page = [0; PAGE_SIZE];
    put(&mut page, 0, b"STABLELG");
    put(&mut page, 8, &superblock.uuid());
    put(&mut page, 24, &epoch.to_be_bytes());
    put(&mut page, 32, &seq.to_be_bytes());
    put(&mut page, 40, &committed.to_be_bytes());
    let tuple_size = layout.profile().tuple_size();
    let mut used = 0;
    for _ in 0..input.u8() % 8 {
        let first = u64::from(input.u16()) % (layout.intervals() + 1);
        let count = match input.u8() % 4 {
            0 => input.choose([0, u32::MAX, u32::try_from(layout.intervals() - first).expect("few")]),
            count => u32::from(count),
        };
        let kind = u32::from(input.u8() % 3);
        let tuples = if kind == 0 { 0 } else { count.min(3) as usize * tuple_size };
        let record = RECORDS.start + used;
        if record + 16 + tuples > RECORDS.end {
            break;
        }
        put(&mut page, record, &first.to_be_bytes());
        put(&mut page, record + 8, &count.to_be_bytes());
        put(&mut page, record + 12, &kind.to_be_bytes());
        used += 16;
        for (interval, at) in (first..).zip((0..tuples).step_by(tuple_size)) {
            let tuple = tuple_of(medium, layout, interval, input);
            put(&mut page, record + 16 + at, &tuple[..tuple_size]);
        }
        used += tuples;
    }
    put(&mut page, 48, &u32::try_from(used).expect("bytes of a page").to_be_bytes());
    write_page(medium, layout, seq, page, input.u8());
}

/// The tuples that an interval may have in the array or in the log.
fn tuple_of(medium: &Medium, layout: &Layout, interval: u64, input: &mut Input<'_>) -> [u8; 16] {
    let profile = layout.profile();
    let mut tuple = [0; 16];
    let mut data = vec![0; profile.interval_size()];
    match input.u8() % 5 {
        0 => return tuple,
        1 => return input.choose([[0xFF; 16], [0x4C; 16]]),
        2 => return input.bytes(),
        3 => data.fill(input.u8()),
        // right, unless the block is written later
        _ => drop(medium.read(File::Image, interval * profile.interval_size() as u64, &mut data)),
    }
    sidecar::generate(profile, interval, &data, &mut tuple[..profile.tuple_size()]).expect("one of one");
    tuple
}

fn forge_tuple(medium: &Medium, layout: &Layout, input: &mut Input<'_>) {
    let interval = u64::from(input.u16()) % layout.intervals();
    let tuple = tuple_of(medium, layout, interval, input);
    let (per_sector, tuple_size) = (layout.tuples_per_sector() as u64, layout.profile().tuple_size());
    let offset = layout.array_offset() + interval / per_sector * SECTOR_SIZE as u64;
    let at = usize::try_from(interval % per_sector).expect("few") * tuple_size;
    let mut sector = medium.peek::<SECTOR_SIZE>(File::Sidecar, offset);
    put(&mut sector, at, &tuple[..tuple_size]);
    make_good(&mut sector);
    medium.write(offset, &sector).expect("writes do not fail");
}

/// Another byte at `at` of the area at `offset`.
fn change_sector(medium: &Medium, offset: u64, at: usize, input: &mut Input<'_>) {
    let offset = offset + (at / SECTOR_SIZE * SECTOR_SIZE) as u64;
    let mut sector = medium.peek::<SECTOR_SIZE>(File::Sidecar, offset);
    sector[at % SECTOR_SIZE] = input.u8();
    if input.u8().is_multiple_of(2) {
        make_good(&mut sector);
    }
    medium.write(offset, &sector).expect("writes do not fail");
}

fn write_page(medium: &Medium, layout: &Layout, seq: u64, mut page: [u8; PAGE_SIZE], good: u8) {
    if !good.is_multiple_of(8) {
        make_good(&mut page);
    }
    medium.write(layout.log_page_offset(seq), &page).expect("writes do not fail");
}

/// Makes the checksum, the last eight bytes, that of the others.
fn make_good(bytes: &mut [u8]) {
    let crc_at = bytes.len() - 8;
    let crc = Guard::Crc64Nvme.compute(&bytes[..crc_at]);
    put(bytes, crc_at, &crc.to_be_bytes());
}

fn put(bytes: &mut [u8], at: usize, value: &[u8]) {
    bytes[at..at + value.len()].copy_from_slice(value);
}
