//! An image that was written after its sidecar was closed, by a program that knows of no tuples: a
//! sample tells what it has done.

use std::collections::BTreeMap;

use integrity::sidecar::{File, Media, State, is_unwritten, verify};

use crate::sidecar_file::SidecarFile;

/// Blocks that are read.
const SAMPLE_LEN: usize = 64;
/// Pages of the tuple array that are read to find them.
const LOOKS_MAX: usize = 512;

/// Looks at a sample of the blocks of a closed sidecar if the image was modified since, and logs
/// what it finds.
pub(super) fn look(sidecar: &SidecarFile) {
    let closed = sidecar.superblock().image_modified();
    let now = sidecar.media().image_modified().unwrap_or(0);
    if sidecar.superblock().state() != State::Clean || closed == 0 || now == 0 || closed == now {
        return;
    }
    let Sample { blocks, mismatches } = take(sidecar);
    if mismatches == 0 {
        tracing::info!(
            "the image was modified after its sidecar was closed: {blocks} sampled blocks all match"
        );
    } else {
        tracing::warn!(
            "the image was written after its sidecar was closed: {mismatches} of {blocks} sampled blocks do not match, and reads of \
             such blocks fail; list them with `stableblk check`, and put back the image that was closed with this sidecar"
        );
    }
}

struct Sample {
    blocks: usize,
    mismatches: usize,
}

/// Written blocks that lie far apart; where there are few of these, others between them.
fn take(sidecar: &SidecarFile) -> Sample {
    let layout = sidecar.layout();
    let widest = layout.intervals().div_ceil(SAMPLE_LEN as u64);
    let mut sample = BTreeMap::new();
    let mut looks = LOOKS_MAX;
    for stride in [widest, widest / 8, 1] {
        let mut at = 0;
        while sample.len() < SAMPLE_LEN && looks > 0 {
            looks -= 1;
            let Some((interval, tuple, end)) = written_at_or_after(sidecar, at) else { break };
            if let Some(tuple) = tuple {
                sample.entry(interval).or_insert_with(|| is_good(sidecar, interval, &tuple));
                at = (interval + 1).next_multiple_of(stride.max(1));
            } else {
                at = end;
            }
        }
    }
    Sample { blocks: sample.len(), mismatches: sample.values().filter(|is_good| !**is_good).count() }
}

/// The first written interval at or after `from` in the first page of the array that may have one,
/// with its tuple; and the end of that page. None behind the last page.
fn written_at_or_after(sidecar: &SidecarFile, from: u64) -> Option<(u64, Option<Vec<u8>>, u64)> {
    let layout = sidecar.layout();
    let first = sidecar
        .next_written(from)
        .ok()?
        .filter(|&first| from < layout.intervals() && first < layout.intervals())?;
    let page = sidecar.read_page(layout.page_of(first)).ok()?;
    let intervals = first..layout.intervals_of(page.page).end;
    let end = intervals.end;
    let tuples = page.tuples[page.range(layout, &intervals)].chunks_exact(sidecar.profile().tuple_size());
    let written = intervals.zip(tuples).find(|(_, tuple)| !is_unwritten(tuple));
    Some(written.map_or((first, None, end), |(interval, tuple)| (interval, Some(tuple.to_vec()), end)))
}

/// Whether a read of the block would find it good.
fn is_good(sidecar: &SidecarFile, interval: u64, tuple: &[u8]) -> bool {
    let profile = sidecar.profile();
    let mut data = vec![0; profile.interval_size()];
    let offset = interval * profile.interval_size() as u64;
    sidecar.media().read(File::Image, offset, &mut data).is_ok()
        && verify(profile, interval, &data, tuple).is_ok()
}
