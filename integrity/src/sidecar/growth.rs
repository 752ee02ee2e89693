//! A sidecar whose image grows while it is served.
//!
//! The new blocks get their tuples in two parts. Whole new pages of the array are not used yet:
//! [`Growth::prepare`] fills them while the image is served. The last page that there was may have
//! room for more tuples, but the log's checkpoints write it: [`grow`] fills that room when no
//! change is under way, and then the superblock gets the new size, in one write.

use std::io;
use std::ops::Range;

use super::array::{Change, change_tuples};
use super::journal::Journal;
use super::layout::Layout;
use super::media::{File, Media, Reason};
use super::open_close::empty;
use super::superblock::{Superblock, SuperblockError};
use super::tuples::{generate_sparse, is_unwritten};

/// Bytes of the image that are read at once; a multiple of every interval.
const READ_MAX: u64 = 1 << 20;

/// A sidecar that is served, and its layout for a larger image.
#[derive(Debug, Clone)]
pub struct Growth {
    old: Layout,
    new: Layout,
}

impl Growth {
    /// The growth to an image of `image_size` bytes. Fails when the sidecar has no room for it.
    pub fn to(journal: &Journal, image_size: u64) -> Result<Self, SuperblockError> {
        let grown = journal.superblock().superblock.grown_to(image_size)?;
        Ok(Self { old: journal.layout().clone(), new: grown.layout().clone() })
    }

    /// The sidecar's size now, in bytes. The rest of the file is left from a growth that was cut
    /// off.
    #[must_use]
    pub fn old_size(&self) -> u64 {
        self.old.sidecar_size()
    }

    /// The size that it needs, in bytes.
    #[must_use]
    pub fn new_size(&self) -> u64 {
        self.new.sidecar_size()
    }

    /// Makes tuples for what the image holds in the new part already, which is taken to be right.
    /// The sidecar must have its new size, and zeros in it. The image may be served meanwhile, in
    /// its old size.
    ///
    /// `next_data` gives the first byte at or after an offset that may be other than zero, and
    /// `None` behind the last one.
    pub fn prepare(
        &self,
        media: &impl Media,
        next_data: impl Fn(u64) -> io::Result<Option<u64>>,
    ) -> io::Result<()> {
        let (map, zeros) = (self.new_map(), vec![0; 1 << 16]);
        for at in map.clone().step_by(zeros.len()) {
            let len = usize::try_from(map.end - at).map_or(zeros.len(), |left| left.min(zeros.len()));
            media.write(at, &zeros[..len])?;
        }
        let shared_end = self.shared_page().end;
        self.trust(media, shared_end..self.new.intervals().max(shared_end), next_data)?;
        media.sync(File::Sidecar, Reason::Growth)
    }

    /// The part of the dirty map that is new.
    fn new_map(&self) -> Range<u64> {
        let start = self.new.map_offset();
        start + self.old.map_used()..start + self.new.map_used()
    }

    /// The new intervals whose tuples have room in the last page of the array as it was.
    fn shared_page(&self) -> Range<u64> {
        let end = self.new.intervals_of(self.old.pages() - 1).end;
        self.old.intervals()..end
    }

    /// Makes tuples of what `intervals` hold.
    fn trust(
        &self,
        media: &impl Media,
        intervals: Range<u64>,
        next_data: impl Fn(u64) -> io::Result<Option<u64>>,
    ) -> io::Result<()> {
        let profile = *self.new.profile();
        let (interval_size, tuple_size) = (profile.interval_size() as u64, profile.tuple_size());
        let mut at = intervals.start;
        while at < intervals.end {
            let Some(data) = next_data(at * interval_size)? else {
                break;
            };
            at = at.max(data / interval_size);
            let part = at..intervals.end.min(at + READ_MAX / interval_size);
            if part.is_empty() {
                break;
            }
            let count = usize::try_from(part.end - part.start).map_err(io::Error::other)?;
            let mut data = vec![0; count * profile.interval_size()];
            media.read(File::Image, part.start * interval_size, &mut data)?;
            let mut tuples = vec![0; count * tuple_size];
            generate_sparse(&profile, part.start, &data, &mut tuples).map_err(io::Error::other)?;
            if !is_unwritten(&tuples) {
                change_tuples(&self.new, media, &part, Change::Written(&tuples))?;
            }
            at = part.end;
        }
        Ok(())
    }
}

/// Makes a larger image that of the sidecar, durably: it has been [prepared](Growth::prepare), and
/// the image has its new size. Of the tuple array `cache_bytes` are kept in memory. No change may
/// be under way.
///
/// When it fails, the sidecar is that of the smaller image as before.
pub fn grow(
    journal: &mut Journal,
    media: &impl Media,
    growth: &Growth,
    cache_bytes: usize,
) -> io::Result<()> {
    if journal.layout() != &growth.old {
        return Err(io::Error::other("the sidecar has grown meanwhile"));
    }
    empty(journal, media)?;
    let shared = growth.shared_page();
    if !shared.is_empty() {
        // a growth that was cut off may have left tuples there
        change_tuples(&growth.new, media, &shared, Change::Unwritten)?;
        growth.trust(media, shared, |offset| Ok(Some(offset)))?;
    }
    media.sync(File::Sidecar, Reason::Growth)?;
    let mut superblock = journal.superblock().clone();
    let grown =
        Superblock { layout: growth.new.clone(), tail: journal.next(), ..superblock.superblock.clone() };
    superblock.replace(media, grown)?;
    // both copies: a map and an array that are larger than one says must not be lost with the other
    media.sync(File::Sidecar, Reason::Superblock)?;
    journal.go_on_with(superblock, cache_bytes);
    Ok(())
}
