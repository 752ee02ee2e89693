//! The blocks of an image with their tuples, one by one, for the repair of a sidecar that is
//! closed.

use std::io;
use std::ops::Range;

use integrity::sidecar::{DamageArea, File, Media};

use crate::storage::sidecar_file::SidecarFile;

impl SidecarFile {
    /// Shows each of `intervals` to `visit`, with its data or why that cannot be read, and with its
    /// tuple, which `visit` may change. Blocks in holes of both files are left out: they match.
    /// Only for a sidecar that is closed; durable after [`Self::sync`].
    pub fn visit_blocks(
        &self,
        intervals: &Range<u64>,
        mut visit: impl FnMut(u64, io::Result<&[u8]>, &mut [u8]) -> io::Result<()>,
    ) -> io::Result<()> {
        let (layout, profile) = (self.layout(), self.profile());
        let (interval_size, tuple_size) = (profile.interval_size(), profile.tuple_size());
        let mut data = vec![0; interval_size];
        for part in layout.parts(intervals) {
            if self.is_hole(&part)? {
                continue;
            }
            let mut page = self.read_page(layout.page_of(part.start))?;
            let before = page.tuples.clone();
            let tuples = page.range(layout, &part);
            for (interval, tuple) in part.zip(page.tuples[tuples].chunks_exact_mut(tuple_size)) {
                let read = self.media().read(File::Image, interval * interval_size as u64, &mut data);
                visit(interval, read.map(|()| &data[..]), tuple)?;
            }
            if page.tuples != before {
                page.write(layout, self.media())?;
            }
        }
        Ok(())
    }

    /// Whether both files have holes for `intervals`, whose tuples are in one page.
    fn is_hole(&self, intervals: &Range<u64>) -> io::Result<bool> {
        let interval_size = self.profile().interval_size() as u64;
        let is_written = self.next_written(intervals.start)?.is_some_and(|it| it < intervals.end);
        let data = self.media().next_data(intervals.start * interval_size)?;
        Ok(!is_written && data.is_none_or(|data| data >= intervals.end * interval_size))
    }

    /// Takes `ranges` out of the damage list.
    pub fn clear_damage(&self, ranges: impl IntoIterator<Item = Range<u64>>) -> io::Result<()> {
        let Some((mut area, mut notes, _)) = DamageArea::read(self.media(), self.superblock())? else {
            return Ok(());
        };
        for range in ranges {
            notes.list.clear(&range);
        }
        area.write(self.media(), &notes)
    }

    /// Makes the writes so far durable.
    pub fn sync(&self) -> io::Result<()> {
        self.media().sidecar().sync_data()
    }
}
