//! The tuple array: the tuples of all intervals in order, in sectors that each carry a checksum.
//!
//! | offset in the sector | what |
//! |-|-|
//! | 0 | 31 tuples of 16 bytes, or 63 of 8 |
//! | behind them | zero, up to the checksum |
//! | 504 | CRC-64/NVME of bytes 0 to 503 |
//!
//! A sector of zeros is a sector of unwritten tuples, so the array can be sparse. A sector is
//! written whole, and a medium keeps 512 bytes together, so no crash leaves one that does not match
//! its checksum: such a sector has rotted, and its tuples are lost. So are those of a sector that
//! cannot be read.

use std::io;
use std::ops::Range;

use super::layout::Layout;
use super::media::Media;
use super::tuples::lost_tuple;
use super::unreadable::read_sidecar;
use super::{PAGE_SIZE, SECTOR_SIZE, crc_of, field, is_zero, put};

const CRC_AT: usize = SECTOR_SIZE - 8;

/// A page of the array as it lies on disk.
pub type PageBytes = [u8; PAGE_SIZE];

/// A change of the tuples of a range of intervals.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change<'a> {
    /// They become these.
    Written(&'a [u8]),
    /// The intervals become unwritten: they read as zeros.
    Unwritten,
}

impl Change<'_> {
    /// The change of `part` of the `whole` range of intervals.
    #[must_use]
    pub fn part(self, whole: &Range<u64>, part: &Range<u64>, tuple_size: usize) -> Self {
        let bytes = |interval: u64| count(interval - whole.start) * tuple_size;
        match self {
            Self::Written(tuples) => Self::Written(&tuples[bytes(part.start)..bytes(part.end)]),
            Self::Unwritten => Self::Unwritten,
        }
    }

    /// Does it to `tuples`, those of the whole range.
    pub fn apply(self, tuples: &mut [u8]) {
        match self {
            Self::Written(new) => tuples.copy_from_slice(new),
            Self::Unwritten => tuples.fill(0),
        }
    }
}

/// A page of the array in memory: its tuples without gaps, and the sectors that had rotted.
#[derive(Debug, Clone)]
pub struct TuplePage {
    /// The number of the page.
    pub page: u64,
    /// The tuples of all its intervals.
    pub tuples: Vec<u8>,
    /// Intervals whose tuples are lost, by ranges of a sector each.
    pub lost: Vec<Range<u64>>,
}

impl TuplePage {
    /// Takes the tuples out of the bytes of page `page`.
    #[must_use]
    pub fn decode(layout: &Layout, page: u64, bytes: &PageBytes) -> Self {
        let (per_sector, tuple_size) = (layout.tuples_per_sector(), layout.profile().tuple_size());
        let mut tuples = vec![0; layout.tuples_per_page() * tuple_size];
        let mut lost = Vec::new();
        let intervals = layout.intervals_of(page);
        let sectors = bytes.as_chunks::<SECTOR_SIZE>().0.iter();
        for (index, (sector, tuples)) in
            sectors.zip(tuples.chunks_exact_mut(per_sector * tuple_size)).enumerate()
        {
            if is_zero(sector) || u64::from_be_bytes(field(sector, CRC_AT)) == crc_of(&sector[..CRC_AT]) {
                tuples.copy_from_slice(&sector[..tuples.len()]);
                continue;
            }
            let first = intervals.start + (index * per_sector) as u64;
            lost.push(first.min(intervals.end)..(first + per_sector as u64).min(intervals.end));
            for tuple in tuples.chunks_exact_mut(tuple_size) {
                tuple.copy_from_slice(&lost_tuple(layout.profile())[..tuple_size]);
            }
        }
        Self { page, tuples, lost }
    }

    /// The page as it lies on disk.
    #[must_use]
    pub fn encode(&self, layout: &Layout) -> Box<PageBytes> {
        let mut bytes = Box::new([0; PAGE_SIZE]);
        let len = layout.tuples_per_sector() * layout.profile().tuple_size();
        for (sector, tuples) in bytes.chunks_exact_mut(SECTOR_SIZE).zip(self.tuples.chunks_exact(len)) {
            if is_zero(tuples) {
                continue;
            }
            sector[..len].copy_from_slice(tuples);
            let crc = crc_of(&sector[..CRC_AT]);
            put(sector, CRC_AT, &crc.to_be_bytes());
        }
        bytes
    }

    /// The bytes, within [`Self::tuples`], of the tuples of `intervals`, which lie in this page.
    #[must_use]
    pub fn range(&self, layout: &Layout, intervals: &Range<u64>) -> Range<usize> {
        let first = layout.intervals_of(self.page).start;
        let byte = |interval: u64| count(interval - first) * layout.profile().tuple_size();
        byte(intervals.start)..byte(intervals.end)
    }

    /// Reads page `page`; tuples of sectors that cannot be read are lost.
    pub fn read(layout: &Layout, media: &impl Media, page: u64) -> io::Result<Self> {
        let mut bytes = [0; PAGE_SIZE];
        read_sidecar(media, layout.page_offset(page), &mut bytes)?;
        Ok(Self::decode(layout, page, &bytes))
    }

    /// Writes the page; one without a written tuple becomes a hole.
    pub fn write(&self, layout: &Layout, media: &impl Media) -> io::Result<()> {
        let offset = layout.page_offset(self.page);
        if is_zero(&self.tuples) {
            media.zero(offset, PAGE_SIZE as u64)
        } else {
            media.write(offset, &self.encode(layout)[..])
        }
    }
}

/// Makes all tuples of `pages` unwritten.
pub(super) fn zero_pages(layout: &Layout, media: &impl Media, pages: &Range<u64>) -> io::Result<()> {
    media.zero(layout.page_offset(pages.start), (pages.end - pages.start) * PAGE_SIZE as u64)
}

/// Reads the tuples of `intervals` into `tuples`; tuples that have rotted are lost tuples.
pub fn read_tuples(
    layout: &Layout,
    media: &impl Media,
    intervals: &Range<u64>,
    tuples: &mut [u8],
) -> io::Result<()> {
    let tuple_size = layout.profile().tuple_size();
    for part in layout.parts(intervals) {
        let page = TuplePage::read(layout, media, layout.page_of(part.start))?;
        let at = count(part.start - intervals.start) * tuple_size;
        let from = page.range(layout, &part);
        tuples[at..at + from.len()].copy_from_slice(&page.tuples[from]);
    }
    Ok(())
}

/// Changes the tuples of `intervals` in place, without the log: for a sidecar that is not served.
pub fn change_tuples(
    layout: &Layout,
    media: &impl Media,
    intervals: &Range<u64>,
    change: Change<'_>,
) -> io::Result<()> {
    for part in layout.parts(intervals) {
        let mut page = TuplePage::read(layout, media, layout.page_of(part.start))?;
        let range = page.range(layout, &part);
        change.part(intervals, &part, layout.profile().tuple_size()).apply(&mut page.tuples[range]);
        page.write(layout, media)?;
    }
    Ok(())
}

#[expect(clippy::cast_possible_truncation, reason = "counts of intervals whose tuples are in memory")]
fn count(intervals: u64) -> usize {
    intervals as usize
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sidecar::{Mismatch, Superblock, generate, verify};
    use crate::{Guard, IntegrityProfile, PiType};

    #[test]
    fn a_rotten_sector_loses_its_tuples_and_no_other() {
        let profile = IntegrityProfile::new(Guard::Crc64Nvme, PiType::Type1, 512).unwrap();
        let layout = Superblock::new([1; 16], profile, 1 << 20).unwrap().layout;
        let data = vec![5; 248 * 512];
        let mut page = TuplePage { page: 1, tuples: vec![0; 248 * 16], lost: Vec::new() };
        generate(&profile, 248, &data, &mut page.tuples).unwrap();
        let mut bytes = page.encode(&layout);
        let read = TuplePage::decode(&layout, 1, &bytes);
        assert_eq!((&read.tuples, read.lost.len()), (&page.tuples, 0));
        bytes[512] ^= 1;
        let read = TuplePage::decode(&layout, 1, &bytes);
        assert_eq!(read.lost.iter().cloned().flatten().collect::<Vec<_>>(), (279..310).collect::<Vec<_>>());
        let bad: Vec<_> = crate::sidecar::mismatches(&profile, 248, &data, &read.tuples).unwrap().collect();
        assert_eq!(bad, (279..310).map(|lba| Mismatch::TupleLost { lba }).collect::<Vec<_>>());
        let kept = read.range(&layout, &(248..279));
        assert_eq!(verify(&profile, 248, &data[..31 * 512], &read.tuples[kept]), Ok(()));
    }
}
