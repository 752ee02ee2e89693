//! The dirty map: one bit for each region of the image that may hold writes whose tuples are not in
//! the array yet.
//!
//! | offset in the sector | what |
//! |-|-|
//! | 0 | 4032 bits, region 0 in the lowest bit of byte 0 |
//! | 504 | CRC-64/NVME of bytes 0 to 503 |
//!
//! A sector of zeros has no dirty region. One that does not match its checksum has rotted: all its
//! regions count as dirty, which costs recovery time and certainty, but never an error. So it is
//! with a sector that cannot be read; that is why sectors are written by whole pages: to write a
//! part of a page that cannot be read, the page cache would have to read it.

use std::collections::BTreeSet;
use std::io;

use super::layout::{Layout, REGION_SIZE};
use super::media::Media;
use super::unreadable::read_sidecar;
use super::{PAGE_SIZE, SECTOR_SIZE, crc_of, field, is_zero, put};

const CRC_AT: usize = SECTOR_SIZE - 8;
const BITS: u64 = CRC_AT as u64 * 8;

/// A page of the map, with its offset in the sidecar.
pub(super) type MapPage = (u64, Box<[u8; PAGE_SIZE]>);

const SECTORS_PER_PAGE: usize = PAGE_SIZE / SECTOR_SIZE;

/// Bytes of the map of an image of `image_size` bytes.
pub(super) fn map_len(image_size: u64) -> u64 {
    image_size.div_ceil(REGION_SIZE).div_ceil(BITS) * SECTOR_SIZE as u64
}

/// The map as it is, or is about to be, on disk.
#[derive(Debug)]
pub(super) struct DirtyMap {
    bits: Vec<[u8; CRC_AT]>,
    /// Pages that differ from those on disk.
    changed: BTreeSet<usize>,
}

impl DirtyMap {
    /// A map without a dirty region.
    pub(super) fn clean(layout: &Layout) -> Self {
        let sectors = layout.regions().div_ceil(BITS);
        Self { bits: vec![[0; CRC_AT]; index(sectors)], changed: BTreeSet::new() }
    }

    /// Reads the map, and returns the number of its sectors that are damaged too.
    pub(super) fn read(layout: &Layout, media: &impl Media) -> io::Result<(Self, usize)> {
        let mut map = Self::clean(layout);
        let mut bytes = vec![0; map.bits.len() * SECTOR_SIZE];
        read_sidecar(media, layout.map_offset(), &mut bytes)?;
        let mut rotten = 0;
        for (sector, bits) in bytes.chunks_exact(SECTOR_SIZE).zip(&mut map.bits) {
            if is_zero(sector) || u64::from_be_bytes(field(sector, CRC_AT)) == crc_of(&sector[..CRC_AT]) {
                bits.copy_from_slice(&sector[..CRC_AT]);
            } else {
                bits.fill(u8::MAX);
                rotten += 1;
            }
        }
        Ok((map, rotten))
    }

    pub(super) fn is_dirty(&self, region: u64) -> bool {
        let (sector, byte, bit) = place(region);
        self.bits[sector][byte] & bit != 0
    }

    pub(super) fn set(&mut self, region: u64, dirty: bool) {
        let (sector, byte, bit) = place(region);
        if dirty {
            self.bits[sector][byte] |= bit;
        } else {
            self.bits[sector][byte] &= !bit;
        }
        self.changed.insert(sector / SECTORS_PER_PAGE);
    }

    /// The dirty regions among the first `regions`.
    pub(super) fn dirty(&self, regions: u64) -> impl Iterator<Item = u64> {
        let bytes = self.bits.iter().flatten().zip((0u64..).step_by(8)).filter(|(byte, _)| **byte != 0);
        let of_byte = |(byte, region): (&u8, u64)| {
            let byte = *byte;
            (0..8).filter(move |bit| byte & 1 << bit != 0).map(move |bit| region + bit)
        };
        bytes.flat_map(of_byte).take_while(move |region| *region < regions)
    }

    pub(super) fn has_changes(&self) -> bool {
        !self.changed.is_empty()
    }

    /// The pages that have changed since the last call.
    pub(super) fn take_changes(&mut self, layout: &Layout) -> Vec<MapPage> {
        let changed = std::mem::take(&mut self.changed);
        let page = |number| (layout.map_offset() + (number * PAGE_SIZE) as u64, self.page(number));
        changed.into_iter().map(page).collect()
    }

    /// These pages did not get to the disk.
    pub(super) fn changed_again(&mut self, layout: &Layout, pages: &[MapPage]) {
        let number = |page: &MapPage| index((page.0 - layout.map_offset()) / PAGE_SIZE as u64);
        self.changed.extend(pages.iter().map(number));
    }

    /// A page as it lies on disk; the part without regions is zero.
    fn page(&self, number: usize) -> Box<[u8; PAGE_SIZE]> {
        let mut page = Box::new([0; PAGE_SIZE]);
        let sectors = self.bits.iter().skip(number * SECTORS_PER_PAGE);
        for (sector, bits) in
            page.chunks_exact_mut(SECTOR_SIZE).zip(sectors).filter(|(_, bits)| !is_zero(*bits))
        {
            put(sector, 0, bits);
            let crc = crc_of(bits);
            put(sector, CRC_AT, &crc.to_be_bytes());
        }
        page
    }
}

fn place(region: u64) -> (usize, usize, u8) {
    (index(region / BITS), index(region % BITS / 8), 1 << (region % 8))
}

#[expect(clippy::cast_possible_truncation, reason = "the map was allocated, so its indices fit")]
fn index(number: u64) -> usize {
    number as usize
}
