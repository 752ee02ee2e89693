//! Repair of an image that is not being served: blocks are accepted, or restored from a backup, and
//! an image that has lost its UUID gets it back.

mod accept_blocks;
mod lbas;
pub mod rebind;
pub mod restore;

use std::fmt;
use std::ops::Range;

pub(super) use self::accept_blocks::accept_blocks;
pub(super) use self::lbas::parse_lbas;
use super::check::LbaRange;
use crate::storage::error::ImageError;
use crate::storage::sidecar_file::SidecarFile;

/// Refuses ranges with blocks that the image does not have.
fn refuse_outside(sidecar: &SidecarFile, image: &str, ranges: &[LbaRange]) -> Result<(), ImageError> {
    let blocks = sidecar.layout().intervals();
    match ranges.iter().find(|range| range.last_lba >= blocks) {
        None => Ok(()),
        Some(range) => Err(ImageError::NoSuchBlock { image: image.into(), lba: range.last_lba, blocks }),
    }
}

/// Blocks to which the same has happened.
#[derive(Debug, Default)]
struct Blocks {
    ranges: Vec<LbaRange>,
    count: u64,
}

impl Blocks {
    fn add(&mut self, lba: u64) {
        self.count += 1;
        LbaRange::add(&mut self.ranges, lba);
    }

    fn intervals(&self) -> impl Iterator<Item = Range<u64>> {
        self.ranges.iter().map(|range| range.first_lba..range.last_lba + 1)
    }

    /// Writes a line for each range.
    fn write(&self, what: &str, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for range in &self.ranges {
            writeln!(f, "{range}: {what}")?;
        }
        let listed: u64 = self.ranges.iter().map(|range| range.blocks()).sum();
        if listed < self.count {
            writeln!(f, "... and {} more blocks: {what}", self.count - listed)?;
        }
        Ok(())
    }
}
