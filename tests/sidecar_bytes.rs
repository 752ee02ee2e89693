//! The bytes of a sidecar file: to be damaged, or forged with checksums that are good.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::Path;

use integrity::sidecar::{Layout, PAGE_SIZE, SECTOR_SIZE, SUPERBLOCK_SIZE, Superblock, TuplePage};

fn open(path: &Path) -> File {
    OpenOptions::new().read(true).write(true).open(path).unwrap()
}

/// Flips one bit of the file at `path`, at byte `offset`.
pub(crate) fn flip_bit(path: &Path, offset: u64) {
    let file = open(path);
    let mut byte = [0];
    file.read_exact_at(&mut byte, offset).unwrap();
    file.write_all_at(&[byte[0] ^ 0x10], offset).unwrap();
}

/// The copy of the superblock that counts.
pub(crate) fn superblock(sidecar: &Path) -> Superblock {
    let file = open(sidecar);
    let copies = [0, SUPERBLOCK_SIZE].map(|copy| {
        let mut bytes = [0; SECTOR_SIZE];
        file.read_exact_at(&mut bytes, copy).unwrap();
        Superblock::decode(&bytes).ok()
    });
    copies.into_iter().flatten().max_by_key(Superblock::generation).unwrap()
}

/// Where the tuple of `interval` lies.
pub(crate) fn tuple_offset(layout: &Layout, interval: u64) -> u64 {
    let (sector, index) =
        (interval / layout.tuples_per_sector() as u64, interval % layout.tuples_per_sector() as u64);
    layout.array_offset() + sector * SECTOR_SIZE as u64 + index * layout.profile().tuple_size() as u64
}

/// Changes the tuple of `interval`, and makes the checksum of its sector good again.
pub(crate) fn forge_tuple<T>(sidecar: &Path, interval: u64, change: impl FnOnce(&mut [u8]) -> T) -> T {
    let superblock = superblock(sidecar);
    let (file, layout) = (open(sidecar), superblock.layout());
    let number = layout.page_of(interval);
    let mut bytes = [0; PAGE_SIZE];
    file.read_exact_at(&mut bytes, layout.page_offset(number)).unwrap();
    let mut page = TuplePage::decode(layout, number, &bytes);
    let tuple = page.range(layout, &(interval..interval + 1));
    let changed = change(&mut page.tuples[tuple]);
    file.write_all_at(&page.encode(layout)[..], layout.page_offset(number)).unwrap();
    changed
}
