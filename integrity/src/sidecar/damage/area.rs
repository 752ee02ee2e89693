//! The place of the damage list in the sidecar: the last 16 pages of the dirty map's area, behind
//! the part of the map that the image uses. Programs that do not know the list never read that
//! part, and write it only when the image grows into it.

use std::io;
use std::ops::Range;

use super::encoding::{AREA_LEN, decode, encode};
use super::{DamageList, ScrubRecord};
use crate::sidecar::PAGE_SIZE;
use crate::sidecar::layout::Layout;
use crate::sidecar::media::Media;
use crate::sidecar::superblock::Superblock;
use crate::sidecar::unreadable::read_sidecar;

/// The damage list and the record of the scrub, as they are kept together.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DamageNotes {
    /// The blocks whose verification has failed.
    pub list: DamageList,
    /// How far a scrub has come.
    pub scrub: ScrubRecord,
}

/// The area of one sidecar, and what it has.
#[derive(Debug)]
pub struct DamageArea {
    uuid: [u8; 16],
    offset: u64,
    /// The pages that are not zero, as they were read or written last.
    written: Vec<u8>,
}

impl DamageArea {
    /// Reads the area of the sidecar with this superblock: `None` where the dirty map leaves no
    /// room for it. The last number counts sectors whose entries are lost because they are damaged.
    pub fn read(
        media: &impl Media,
        superblock: &Superblock,
    ) -> io::Result<Option<(Self, DamageNotes, usize)>> {
        let Some(area) = superblock.layout().damage_area() else {
            return Ok(None);
        };
        let mut written = vec![0; usize::try_from(AREA_LEN).map_err(io::Error::other)?];
        if media.next_sidecar_data(area.start)?.is_some_and(|data| data < area.end) {
            read_sidecar(media, area.start, &mut written)?;
        }
        let (uuid, intervals) = (superblock.uuid(), superblock.layout().intervals());
        let (list, scrub, damaged) = decode(uuid, intervals, &written);
        let is_used = |page: &[u8]| page.iter().any(|byte| *byte != 0);
        let used = written.chunks(PAGE_SIZE).rposition(is_used).map_or(0, |last| last + 1);
        written.truncate(used * PAGE_SIZE);
        written.shrink_to_fit();
        Ok(Some((Self { uuid, offset: area.start, written }, DamageNotes { list, scrub }, damaged)))
    }

    /// Writes the pages that `notes` change. They become durable with the next sync of the sidecar,
    /// whatever that is for: a sync for the list alone would be the only one to learn of pages of
    /// the log that were lost.
    pub fn write(&mut self, media: &impl Media, notes: &DamageNotes) -> io::Result<()> {
        let bytes = encode(self.uuid, &notes.list, &notes.scrub);
        let len = bytes.len().max(self.written.len());
        let (mut old, mut new) = (std::mem::take(&mut self.written), bytes.clone());
        old.resize(len, 0);
        new.resize(len, 0);
        let pages = old.chunks(PAGE_SIZE).zip(new.chunks(PAGE_SIZE));
        for (offset, (old, new)) in (self.offset..).step_by(PAGE_SIZE).zip(pages) {
            if old != new {
                media.write(offset, new).inspect_err(|_| {
                    // all pages are written the next time
                    self.written = vec![u8::MAX; len];
                })?;
            }
        }
        self.written = bytes;
        Ok(())
    }
}

impl Layout {
    /// The bytes of the sidecar that the damage list has; `None` where the dirty map leaves no room
    /// for it.
    #[must_use]
    pub fn damage_area(&self) -> Option<Range<u64>> {
        let map_used = self.map_used().next_multiple_of(PAGE_SIZE as u64);
        let end = self.map_offset() + self.map_len();
        (map_used + AREA_LEN <= self.map_len()).then(|| end - AREA_LEN..end)
    }
}
