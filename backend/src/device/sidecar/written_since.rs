//! An image that was written after its sidecar was closed, by a program that knows of no tuples: a
//! sample of its blocks shows whether they match.

use integrity::sidecar::{Media, State};

use crate::storage::sidecar_file::SidecarFile;
use crate::storage::sidecar_sample::Sample;

/// Looks at a sample of the blocks of a closed sidecar if the image was modified since, and logs
/// what it finds.
pub(super) fn look(sidecar: &SidecarFile) {
    let closed = sidecar.superblock().image_modified();
    let now = sidecar.media().image_modified().unwrap_or(0);
    if sidecar.superblock().state() != State::Clean || closed == 0 || now == 0 || closed == now {
        return;
    }
    let Sample { blocks, mismatches } = Sample::take(sidecar.media(), sidecar.layout());
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
