//! The holes of image and sidecar, where all of it is zero, for pages of the array in their order.

use std::io;
use std::ops::Range;

use super::PAGE_SIZE;
use super::layout::Layout;
use super::media::Media;

/// The holes that were found last: a long one is looked up once.
#[derive(Debug)]
pub(super) struct Holes<'a, M> {
    media: &'a M,
    layout: &'a Layout,
    image: Range<u64>,
    array: Range<u64>,
}

impl<'a, M: Media> Holes<'a, M> {
    pub(super) fn new(media: &'a M, layout: &'a Layout) -> Self {
        Self { media, layout, image: 0..0, array: 0..0 }
    }

    /// Whether all blocks whose tuples are in page `number` of the array lie in a hole of the
    /// image.
    pub(super) fn has_blocks(&mut self, number: u64) -> bool {
        let interval_size = self.layout.profile().interval_size() as u64;
        let intervals = self.layout.intervals_of(number);
        let bytes = intervals.start * interval_size..intervals.end * interval_size;
        holds(&mut self.image, &bytes, |offset| self.media.next_data(offset))
    }

    /// Whether page `number` of the array lies in a hole of the sidecar.
    pub(super) fn has_tuples(&mut self, number: u64) -> bool {
        let start = self.layout.page_offset(number);
        let bytes = start..start + PAGE_SIZE as u64;
        holds(&mut self.array, &bytes, |offset| self.media.next_sidecar_data(offset))
    }
}

/// Whether `hole`, or the one that begins with `bytes` and takes its place, has all of `bytes`.
fn holds(
    hole: &mut Range<u64>,
    bytes: &Range<u64>,
    next_data: impl FnOnce(u64) -> io::Result<Option<u64>>,
) -> bool {
    if bytes.start < hole.start || hole.end < bytes.end {
        let end = match next_data(bytes.start) {
            Ok(next) => next.unwrap_or(u64::MAX),
            // only a saving
            Err(_) => bytes.start,
        };
        *hole = bytes.start..end;
    }
    bytes.end <= hole.end
}
