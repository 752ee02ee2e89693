//! The pass over the image: each block is verified and copied, with its tuple.

use std::sync::{Mutex, PoisonError};

use integrity::sidecar::is_unwritten;

use super::super::check::{Findings, Recovered, compare_and_take};
use super::target::Target;
use crate::storage::error::ImageError;
use crate::storage::image::Image;
use crate::storage::sidecar_file::SidecarFile;

/// Copies all blocks of `image` to `target`, with their tuples. Returns those that do not match.
pub(super) fn copy(
    image: &Image,
    sidecar: &SidecarFile,
    recovered: &Recovered,
    target: &Target,
) -> Result<Findings, ImageError> {
    // two chunks may share a page of the tuple array
    let one_writer = Mutex::new(());
    let interval_size = sidecar.profile().interval_size() as u64;
    let findings = compare_and_take(image, sidecar, recovered, "copying", &|chunk| {
        target.write(chunk.first_interval * interval_size, chunk.data)?;
        if is_unwritten(chunk.tuples) {
            // the page stays a hole
            return Ok(());
        }
        let _alone = one_writer.lock().unwrap_or_else(PoisonError::into_inner);
        let (copy, first) = (target.sidecar(), chunk.first_interval);
        copy.write_tuples(first, chunk.tuples).map_err(ImageError::io("write", copy.path()))
    })?;
    Ok(findings.sorted())
}
