//! A few written blocks of an image, read and verified: whether image and sidecar fit each other.

use std::collections::BTreeMap;

use integrity::sidecar::{File, Layout, Media, TuplePage, is_unwritten, verify};

use crate::storage::sidecar_media::SidecarMedia;

/// Blocks that are read.
const SAMPLE_LEN: usize = 64;
/// Pages of the tuple array that are read to find them.
const LOOKS_MAX: usize = 512;

/// The result of reading a sample of blocks.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sample {
    /// Blocks that were read.
    pub(crate) blocks: usize,
    /// Those that do not match their tuples.
    pub(crate) mismatches: usize,
}

impl Sample {
    /// Reads written blocks that lie far apart and, where there are few of these, others between
    /// them.
    pub(crate) fn take(media: &SidecarMedia, layout: &Layout) -> Self {
        let widest = layout.intervals().div_ceil(SAMPLE_LEN as u64);
        let mut sample = BTreeMap::new();
        let mut looks = LOOKS_MAX;
        for stride in [widest, widest / 8, 1] {
            let mut at = 0;
            while sample.len() < SAMPLE_LEN && looks > 0 {
                looks -= 1;
                let Some((interval, tuple, end)) = written_at_or_after(media, layout, at) else { break };
                if let Some(tuple) = tuple {
                    sample.entry(interval).or_insert_with(|| is_good(media, layout, interval, &tuple));
                    at = (interval + 1).next_multiple_of(stride.max(1));
                } else {
                    at = end;
                }
            }
        }
        Self { blocks: sample.len(), mismatches: sample.values().filter(|is_good| !**is_good).count() }
    }

    /// Whether image and sidecar belong together: after a crash some blocks may not match, and of
    /// another image none does.
    pub(crate) fn fits(self) -> bool {
        2 * self.mismatches <= self.blocks
    }
}

/// The first written interval at or after `from` in the first page of the array that may have one,
/// with its tuple; and the end of that page. None behind the last page.
fn written_at_or_after(
    media: &SidecarMedia,
    layout: &Layout,
    from: u64,
) -> Option<(u64, Option<Vec<u8>>, u64)> {
    let first = media
        .next_written(layout, from)
        .ok()?
        .filter(|&first| from < layout.intervals() && first < layout.intervals())?;
    let page = TuplePage::read(layout, media, layout.page_of(first)).ok()?;
    let intervals = first..layout.intervals_of(page.page).end;
    let end = intervals.end;
    let tuples = page.tuples[page.range(layout, &intervals)].chunks_exact(layout.profile().tuple_size());
    let written = intervals.zip(tuples).find(|(_, tuple)| !is_unwritten(tuple));
    Some(written.map_or((first, None, end), |(interval, tuple)| (interval, Some(tuple.to_vec()), end)))
}

/// Whether a read of the block would find it good.
fn is_good(media: &SidecarMedia, layout: &Layout, interval: u64, tuple: &[u8]) -> bool {
    let profile = layout.profile();
    let mut data = vec![0; profile.interval_size()];
    let offset = interval * profile.interval_size() as u64;
    media.read(File::Image, offset, &mut data).is_ok() && verify(profile, interval, &data, tuple).is_ok()
}
