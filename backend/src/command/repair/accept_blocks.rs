//! Accepting the present data of blocks that do not match their tuples.

use std::fmt;

use integrity::sidecar::{generate, verify};

use super::{Blocks, refuse_outside};
use crate::command::check::LbaRange;
use crate::command::repair::lbas::intervals;
use crate::storage::error::ImageError;
use crate::storage::sidecar_file::SidecarFile;

/// The blocks that were accepted, and the others.
#[derive(Debug)]
pub(in crate::command) struct AcceptedBlocks {
    image: String,
    accepted: Blocks,
    unreadable: Blocks,
    matching: u64,
}

impl AcceptedBlocks {
    /// Whether all blocks could be read.
    pub(in crate::command) fn is_complete(&self) -> bool {
        self.unreadable.count == 0
    }
}

/// Gives each block of `ranges` that does not match a new tuple, for the data present. The sidecar
/// is closed, and the only one of its image.
pub(in crate::command) fn accept_blocks(
    sidecar: &SidecarFile,
    image: &str,
    ranges: &[LbaRange],
) -> Result<AcceptedBlocks, ImageError> {
    refuse_outside(sidecar, image, ranges)?;
    let (mut accepted, mut unreadable, mut visited) = (Blocks::default(), Blocks::default(), 0);
    let (profile, path) = (sidecar.profile(), sidecar.path());
    for range in ranges {
        visited += range.blocks();
        let visit = sidecar.visit_blocks(&intervals(*range), |lba, data, tuple| {
            match data {
                Err(_) => unreadable.add(lba),
                Ok(data) if verify(profile, lba, data, tuple).is_err() => {
                    generate(profile, lba, data, tuple).map_err(std::io::Error::other)?;
                    accepted.add(lba);
                }
                Ok(_) => {}
            }
            Ok(())
        });
        visit.map_err(ImageError::io("write", path))?;
    }
    // tuples before the list that says that they are wrong
    sidecar.sync().map_err(ImageError::io("write", path))?;
    let readable = ranges.iter().map(|range| intervals(*range)).filter(|_| unreadable.count == 0);
    let cleared = sidecar.clear_damage(readable.chain(accepted.intervals())).and_then(|()| sidecar.sync());
    cleared.map_err(ImageError::io("write", path))?;
    let matching = visited - accepted.count - unreadable.count;
    Ok(AcceptedBlocks { image: image.to_owned(), accepted, unreadable, matching })
}

impl fmt::Display for AcceptedBlocks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.accepted.write("accepted as it is", f)?;
        self.unreadable.write("cannot be read, and is not accepted", f)?;
        let Self { image, accepted, matching, .. } = self;
        writeln!(f, "{image}: {} blocks accepted, {matching} matched before", accepted.count)
    }
}
