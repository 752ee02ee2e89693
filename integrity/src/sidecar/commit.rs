//! A batch of dirty bits and pages of the log on their way to the medium.

use std::collections::BTreeSet;
use std::io;

use super::dirty_map::MapPage;
use super::log::LogPage;
use super::media::{File, Media, Reason};

/// The writes that one sync makes durable, for all changes that wait for it.
#[derive(Debug)]
pub struct Commit {
    pub(super) attempt: u64,
    pub(super) map: Vec<MapPage>,
    /// Pages of the log, with their offsets.
    pub(super) pages: Vec<(u64, LogPage)>,
    /// The last of the pages.
    pub(super) through: u64,
    /// Regions that become dirty.
    pub(super) regions: BTreeSet<u64>,
}

impl Commit {
    /// Writes it all, and syncs once. Bits that are only taken away need no sync.
    pub fn run(&self, media: &impl Media) -> io::Result<()> {
        for (offset, page) in &self.map {
            media.write(*offset, &page[..])?;
        }
        for (offset, page) in &self.pages {
            media.write(*offset, &page[..])?;
        }
        if self.pages.is_empty() && self.regions.is_empty() {
            return Ok(());
        }
        media.sync(File::Sidecar, Reason::Commit)
    }
}
