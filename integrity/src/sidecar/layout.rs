//! The places of all areas of a sidecar file.
//!
//! ```text
//! 0             4096          8192        + map bytes    + 4096 * log pages
//! +-------------+-------------+-----------+--------------+-----------------------------+
//! | superblock  | its copy    | dirty map | log, a ring  | tuple array                 |
//! +-------------+-------------+-----------+--------------+-----------------------------+
//! ```
//!
//! The array is last, so that it can grow. The map has room for a much larger image than it was
//! made for; the unused part is a hole, but for its last pages, which have the damage list.

use std::ops::Range;

use super::{damage, dirty_map};
use crate::IntegrityProfile;

/// The bytes that a medium writes as a whole or not at all.
pub const SECTOR_SIZE: usize = 512;

/// The page of the log and of the array, in bytes.
pub const PAGE_SIZE: usize = 4096;

/// Bytes that a copy of the superblock occupies.
pub const SUPERBLOCK_SIZE: u64 = 4096;

/// Bytes of the image that one dirty bit stands for.
pub const REGION_SIZE: u64 = 1 << 20;

/// Fewest pages of a log: the records of any one write fit many times.
const LOG_PAGES_MIN: u64 = 64;
/// Pages of the log of a small image: 1 MiB.
const LOG_PAGES_SMALL: u64 = 256;
/// Most pages of a log, those of a large image: 64 MiB, the tags of some gigabytes of small writes.
/// Recovery has all records in memory, so a superblock with a longer log is refused.
const LOG_PAGES_MAX: u64 = 16384;

/// The image that the map of a new sidecar has room for at least: 64 TiB.
const MAPPED_MIN: u64 = 1 << 46;

/// The largest image: 1 PiB. While it is served its dirty map is in memory, and has 128 MiB then.
const IMAGE_SIZE_MAX: u64 = 1 << 50;

/// The longest area of a dirty map that is accepted. With it and the largest image no offset is
/// more than a file can have.
const MAP_LEN_MAX: u64 = 1 << 40;

/// Regions that may be dirty on any disk: 16 GiB.
const DIRTY_MIN: u64 = (16 << 30) / REGION_SIZE;
/// Regions that may be dirty on the largest disk: 512 GiB. Each takes some bytes of memory while
/// the disk is served, and after a crash they are all read.
const DIRTY_MAX: u64 = (512 << 30) / REGION_SIZE;

const MAP_OFFSET: u64 = 2 * SUPERBLOCK_SIZE;

/// Areas that cannot be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LayoutError {
    /// The image does not consist of whole intervals.
    #[error("image size {image_size} is not a positive multiple of the {interval_size}-byte interval")]
    UnevenImageSize {
        /// The image's size in bytes.
        image_size: u64,
        /// The interval's size in bytes.
        interval_size: usize,
    },
    /// The image is larger than any that is protected.
    #[error("image size {0} is more than {IMAGE_SIZE_MAX}, which is the most")]
    ImageTooLarge(u64),
    /// The dirty map has no room for the image, or an odd length.
    #[error("a dirty map of {map_len} bytes cannot cover an image of {image_size}")]
    Map {
        /// The map's length in bytes.
        map_len: u64,
        /// The image's size in bytes.
        image_size: u64,
    },
    /// The log is too short to work, or too long to be true.
    #[error("a log of {0} pages is not from {LOG_PAGES_MIN} to {LOG_PAGES_MAX}")]
    Log(u64),
}

/// The areas of one sidecar. All offsets and lengths are in bytes, intervals and regions are
/// counted from the start of the image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layout {
    profile: IntegrityProfile,
    image_size: u64,
    map_len: u64,
    log_pages: u64,
}

impl Layout {
    /// The areas of a new sidecar.
    pub(super) fn new(profile: IntegrityProfile, image_size: u64) -> Result<Self, LayoutError> {
        let map_used = dirty_map::map_len(image_size.max(MAPPED_MIN)).next_multiple_of(PAGE_SIZE as u64);
        let map_len = map_used + damage::AREA_LEN;
        // in proportion, so that small images have small sidecars
        let log_pages = (image_size / 128 / PAGE_SIZE as u64).clamp(LOG_PAGES_SMALL, LOG_PAGES_MAX);
        Self::of_areas(profile, image_size, map_len, log_pages)
    }

    /// The areas that a superblock names, if they can be.
    pub(super) fn of_areas(
        profile: IntegrityProfile,
        image_size: u64,
        map_len: u64,
        log_pages: u64,
    ) -> Result<Self, LayoutError> {
        let interval_size = profile.interval_size();
        if image_size == 0 || !image_size.is_multiple_of(interval_size as u64) {
            return Err(LayoutError::UnevenImageSize { image_size, interval_size });
        }
        if image_size > IMAGE_SIZE_MAX {
            return Err(LayoutError::ImageTooLarge(image_size));
        }
        let covers = (dirty_map::map_len(image_size)..=MAP_LEN_MAX).contains(&map_len);
        if !covers || !map_len.is_multiple_of(PAGE_SIZE as u64) {
            return Err(LayoutError::Map { map_len, image_size });
        }
        if !(LOG_PAGES_MIN..=LOG_PAGES_MAX).contains(&log_pages) {
            return Err(LayoutError::Log(log_pages));
        }
        Ok(Self { profile, image_size, map_len, log_pages })
    }

    /// The same areas for a larger image. Fails when the map has no room for it.
    pub(super) fn grown_to(&self, image_size: u64) -> Result<Self, LayoutError> {
        let grown = Self::of_areas(self.profile, image_size, self.map_len, self.log_pages)?;
        if self.damage_area().is_some() && grown.damage_area().is_none() {
            // the map would grow into the damage list
            return Err(LayoutError::Map { map_len: self.map_len, image_size });
        }
        Ok(grown)
    }

    /// Guard, PI type and interval of the tuples.
    #[must_use]
    pub fn profile(&self) -> &IntegrityProfile {
        &self.profile
    }

    /// Pages of the log after which the data of their records is made durable, if no flush does
    /// that; twice as many while changes wait for commits. A recovery reads the blocks that they
    /// name before the disk is served: 8,000 in 64 pages, if they were written one by one.
    pub(super) fn unsynced_pages_max(&self) -> u64 {
        (self.log_pages / 64).min(64)
    }

    /// Regions that may stay marked as dirty while nothing is written to them: an eighth of the
    /// image, but not less than 16 GiB of it, and not more than 512 GiB.
    pub(super) fn dirty_limit(&self) -> u64 {
        (self.regions() / 8).clamp(DIRTY_MIN, DIRTY_MAX)
    }

    /// Size of the image in bytes; a positive multiple of the interval.
    #[must_use]
    pub fn image_size(&self) -> u64 {
        self.image_size
    }

    /// Number of intervals in the image, and so of tuples.
    #[must_use]
    pub fn intervals(&self) -> u64 {
        self.image_size / self.profile.interval_size() as u64
    }

    /// The offset of the dirty map.
    #[must_use]
    pub fn map_offset(&self) -> u64 {
        MAP_OFFSET
    }

    /// Length of the dirty map's area; [`Self::map_used`] is what this image needs of it.
    #[must_use]
    pub fn map_len(&self) -> u64 {
        self.map_len
    }

    /// Bytes of the dirty map that this image uses.
    #[must_use]
    pub fn map_used(&self) -> u64 {
        dirty_map::map_len(self.image_size)
    }

    /// Pages of the log.
    #[must_use]
    pub fn log_pages(&self) -> u64 {
        self.log_pages
    }

    /// The offset of the log.
    #[must_use]
    pub fn log_offset(&self) -> u64 {
        MAP_OFFSET + self.map_len
    }

    /// The offset of the page of the log with sequence number `seq`.
    #[must_use]
    pub fn log_page_offset(&self, seq: u64) -> u64 {
        self.log_offset() + seq % self.log_pages * PAGE_SIZE as u64
    }

    /// The offset of the tuple array.
    #[must_use]
    pub fn array_offset(&self) -> u64 {
        self.log_offset() + self.log_pages * PAGE_SIZE as u64
    }

    /// Tuples in one page of the array.
    #[must_use]
    pub fn tuples_per_page(&self) -> usize {
        self.tuples_per_sector() * (PAGE_SIZE / SECTOR_SIZE)
    }

    /// Tuples in one sector of the array: what its checksum leaves room for.
    #[must_use]
    pub fn tuples_per_sector(&self) -> usize {
        (SECTOR_SIZE - size_of::<u64>()) / self.profile.tuple_size()
    }

    /// The page of the array with the tuple of `interval`.
    #[must_use]
    pub fn page_of(&self, interval: u64) -> u64 {
        interval / self.tuples_per_page() as u64
    }

    /// The intervals whose tuples page `page` of the array holds.
    #[must_use]
    pub fn intervals_of(&self, page: u64) -> Range<u64> {
        let per_page = self.tuples_per_page() as u64;
        page * per_page..((page + 1) * per_page).min(self.intervals())
    }

    /// `intervals`, cut where a page of the array ends.
    pub fn parts(&self, intervals: &Range<u64>) -> impl Iterator<Item = Range<u64>> + use<> {
        let (per_page, end) = (self.tuples_per_page() as u64, intervals.end);
        let mut next = intervals.start;
        std::iter::from_fn(move || {
            let start = next;
            next = ((start / per_page + 1) * per_page).min(end);
            (start < end).then_some(start..next)
        })
    }

    /// The pages of the array that hold tuples of `intervals` and of no others.
    pub(super) fn whole_pages(&self, intervals: &Range<u64>) -> Range<u64> {
        let per_page = self.tuples_per_page() as u64;
        let start = intervals.start.div_ceil(per_page);
        let end = if intervals.end == self.intervals() { self.pages() } else { intervals.end / per_page };
        start..end.max(start)
    }

    /// The intervals whose tuples `pages` of the array hold.
    pub(super) fn intervals_of_pages(&self, pages: &Range<u64>) -> Range<u64> {
        let per_page = self.tuples_per_page() as u64;
        pages.start * per_page..(pages.end * per_page).min(self.intervals())
    }

    /// The offset of page `page` of the array.
    #[must_use]
    pub fn page_offset(&self, page: u64) -> u64 {
        self.array_offset() + page * PAGE_SIZE as u64
    }

    /// Pages of the array.
    #[must_use]
    pub fn pages(&self) -> u64 {
        self.intervals().div_ceil(self.tuples_per_page() as u64)
    }

    /// Size of the whole sidecar in bytes.
    #[must_use]
    pub fn sidecar_size(&self) -> u64 {
        self.page_offset(self.pages())
    }

    /// The regions that `intervals`, not empty, lie in.
    #[must_use]
    pub fn regions_of(&self, intervals: &Range<u64>) -> Range<u64> {
        let interval_size = self.profile.interval_size() as u64;
        intervals.start * interval_size / REGION_SIZE..(intervals.end * interval_size).div_ceil(REGION_SIZE)
    }

    /// The intervals that lie in `region`.
    #[must_use]
    pub fn intervals_in(&self, region: u64) -> Range<u64> {
        let per_region = REGION_SIZE / self.profile.interval_size() as u64;
        region * per_region..((region + 1) * per_region).min(self.intervals())
    }

    /// Regions of the image.
    #[must_use]
    pub fn regions(&self) -> u64 {
        self.image_size.div_ceil(REGION_SIZE)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Guard, PiType};

    fn profile(guard: Guard, interval_size: u32) -> IntegrityProfile {
        IntegrityProfile::new(guard, PiType::Type1, interval_size).unwrap()
    }

    #[test]
    fn areas_follow_each_other() {
        let layout = Layout::new(profile(Guard::Crc64Nvme, 4096), 1 << 30).unwrap();
        assert_eq!((layout.tuples_per_sector(), layout.tuples_per_page()), (31, 248));
        assert_eq!(layout.log_pages(), 2048);
        assert_eq!(layout.log_offset(), 8192 + layout.map_len());
        assert_eq!(layout.array_offset(), layout.log_offset() + (8 << 20));
        assert_eq!(layout.pages(), 262_144_u64.div_ceil(248));
        assert_eq!(layout.sidecar_size(), layout.array_offset() + 1058 * 4096);
        assert_eq!(layout.intervals_of(1057), 262_136..262_144);
        let parts: Vec<_> = layout.parts(&(247..497)).collect();
        assert_eq!(parts, [247..248, 248..496, 496..497]);
    }

    #[test]
    fn whole_pages_hold_no_tuples_of_others() {
        let layout = Layout::new(profile(Guard::Crc64Nvme, 4096), 1000 * 4096).unwrap();
        assert_eq!(layout.whole_pages(&(0..1000)), 0..5);
        assert_eq!(layout.intervals_of_pages(&(3..5)), 744..1000);
        assert_eq!(layout.whole_pages(&(1..999)), 1..4);
        assert_eq!(layout.whole_pages(&(248..496)), 1..2);
        assert!(layout.whole_pages(&(249..496)).is_empty());
        assert!(layout.whole_pages(&(1..2)).is_empty());
    }

    #[test]
    fn tuples_of_eight_bytes_fill_a_sector() {
        let layout = Layout::new(profile(Guard::Crc16T10Dif, 512), 1 << 20).unwrap();
        assert_eq!((layout.tuples_per_sector(), layout.tuples_per_page()), (63, 504));
    }

    #[test]
    fn largest_images_are_refused_not_wrapped() {
        let tuples = profile(Guard::Crc64Nvme, 512);
        assert!(Layout::new(tuples, 1 << 50).is_ok());
        for size in [(1 << 50) + 512, 1 << 63, u64::MAX / 512 * 512] {
            assert_eq!(Layout::new(tuples, size), Err(LayoutError::ImageTooLarge(size)));
        }
    }

    #[test]
    fn it_grows_within_its_map() {
        let layout = Layout::new(profile(Guard::Crc64Nvme, 4096), 1 << 20).unwrap();
        let grown = layout.grown_to(1 << 46).unwrap();
        assert_eq!(grown.array_offset(), layout.array_offset());
        assert!(matches!(layout.grown_to(1 << 47), Err(LayoutError::Map { .. })));
    }

    #[test]
    fn regions_cover_their_intervals() {
        let layout = Layout::new(profile(Guard::Crc64Nvme, 4096), (5 << 20) + 4096).unwrap();
        assert_eq!(layout.regions(), 6);
        assert_eq!(layout.regions_of(&(255..257)), 0..2);
        assert_eq!(layout.regions_of(&(256..257)), 1..2);
        assert_eq!(layout.intervals_in(5), 1280..1281);
    }
}
