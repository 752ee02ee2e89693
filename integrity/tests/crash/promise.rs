//! The promise to the guest, block by block.

use std::ops::{Deref, DerefMut};
use std::rc::Rc;

use stableblk_integrity::sidecar::SECTOR_SIZE;

use crate::sectors::Sector;

/// The possible contents of a block, sector by sector.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Version {
    pub(crate) sectors: Rc<[Sector]>,
    /// Its tuple may be marked as adopted: it is a mixture that a failed write or a crash has left.
    pub(crate) is_adopted: bool,
}

/// The promise for one block.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct BlockPromise {
    /// The versions that it may hold after a crash: the one that was flushed last, and all that
    /// were written since.
    pub(crate) versions: Vec<Version>,
    /// A change is under way.
    pub(crate) in_flight: bool,
    /// All that was written is in the array, and the log knows no more of it.
    pub(crate) quiet: bool,
}

impl Version {
    pub(crate) fn of(data: &[u8]) -> Self {
        let sectors = data.as_chunks::<SECTOR_SIZE>().0.iter().map(Sector::of).collect();
        Self { sectors, is_adopted: false }
    }
}

impl BlockPromise {
    pub(crate) fn of(version: Version) -> Self {
        Self { versions: vec![version], in_flight: false, quiet: true }
    }

    /// Whether there is one thing that it must hold.
    pub(crate) fn is_settled(&self) -> bool {
        self.versions.len() == 1 && !self.in_flight
    }

    /// Whether each sector is that of some version.
    pub(crate) fn allows(&self, held: &Version) -> bool {
        let allowed = |(at, sector): (usize, &Sector)| {
            self.versions.iter().any(|version| version.sectors[at] == *sector)
        };
        held.sectors.iter().enumerate().all(allowed)
    }

    /// Whether all of it is that of one version.
    pub(crate) fn has(&self, held: &Version) -> bool {
        self.versions.iter().any(|version| version.sectors == held.sectors)
    }

    pub(crate) fn may_be_adopted(&self) -> bool {
        self.versions.iter().any(|version| version.is_adopted)
    }

    /// The same while a recovery is under way: one that is cut off leaves marks in tuples, and no
    /// report.
    fn during_recovery(&self) -> Self {
        let mut promise = self.clone();
        if !self.is_settled() {
            for version in &mut promise.versions {
                version.is_adopted = true;
            }
        }
        promise
    }
}

/// The promise for a disk: for each block of the model, and of the next flush.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub(crate) struct Promise {
    blocks: Vec<BlockPromise>,
    /// It is written down that durability was lost, and no flush has failed for it yet: opening the
    /// sidecar must report it.
    pub(crate) owed: bool,
}

impl Promise {
    pub(crate) fn of(blocks: Vec<BlockPromise>, owed: bool) -> Self {
        Self { blocks, owed }
    }

    /// See [`BlockPromise::during_recovery`].
    pub(crate) fn during_recovery(&self) -> Self {
        let blocks = self.blocks.iter().map(BlockPromise::during_recovery).collect();
        Self { blocks, ..*self }
    }
}

impl Deref for Promise {
    type Target = [BlockPromise];

    fn deref(&self) -> &[BlockPromise] {
        &self.blocks
    }
}

impl DerefMut for Promise {
    fn deref_mut(&mut self) -> &mut [BlockPromise] {
        &mut self.blocks
    }
}
