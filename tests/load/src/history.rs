//! Which writes each sector of a disk may hold: the oracle.

use std::collections::{BTreeSet, VecDeque};

use crate::stamp::{SECTOR, stamps};
use crate::{Change, ChangeKind};

/// Every change that was ever asked of a disk, and those that its sectors may hold.
///
/// A change has a version: 1 is the first one's, 0 is that of the zeros before. Changes of a sector
/// are never in flight together, so of two versions the greater is newer.
#[derive(Debug, Clone)]
pub struct History {
    /// That with version 1 first.
    changes: Vec<Change>,
    /// The versions that a sector may hold, the oldest first; by sector.
    possible: Vec<VecDeque<u64>>,
}

impl History {
    /// Of a disk of `sectors` zeros.
    #[must_use]
    pub fn new(sectors: u64) -> Self {
        Self { changes: Vec::new(), possible: (0..sectors).map(|_| VecDeque::from([0])).collect() }
    }

    /// Sectors of the disk.
    #[must_use]
    pub fn sectors(&self) -> u64 {
        self.possible.len() as u64
    }

    /// The version of the newest change.
    #[must_use]
    pub fn newest(&self) -> u64 {
        self.changes.len() as u64
    }

    /// Takes note of a change that may come to the disk from now on. Returns its version.
    pub fn begin(&mut self, change: Change) -> u64 {
        let version = self.newest() + 1;
        change.sectors.clone().for_each(|sector| self.possible[index(sector)].push_back(version));
        self.changes.push(change);
        version
    }

    /// The disk must hold change `version` from now on, or a newer one.
    pub fn settle(&mut self, version: u64) {
        for sector in self.changes[index(version - 1)].sectors.clone() {
            let possible = &mut self.possible[index(sector)];
            possible.drain(..possible.partition_point(|older| *older < version));
        }
    }

    /// Compares `data`, read from `sector` on, with what may be there.
    ///
    /// # Errors
    /// Names a sector that holds something else.
    pub fn compare(&self, sector: u64, data: &[u8]) -> Result<(), String> {
        for (sector, stamp) in (sector..).zip(stamps(sector, data)?) {
            let possible = &self.possible[index(sector)];
            if !possible.iter().any(|&version| self.stamp_of(version) == stamp) {
                return Err(format!("sector {sector} holds {stamp}, and may hold {possible:?}"));
            }
        }
        Ok(())
    }

    /// As [`Self::compare`]; and what was read must stay, unless it is changed.
    ///
    /// # Errors
    /// Names a sector that holds something else.
    pub fn observe(&mut self, sector: u64, data: &[u8]) -> Result<(), String> {
        self.compare(sector, data)?;
        for (sector, stamp) in (sector..).zip(stamps(sector, data)?) {
            let holds = |version: &u64| self.stamp_of(*version) == stamp;
            let held = self.possible[index(sector)].iter().copied().rfind(holds);
            self.possible[index(sector)] = held.into_iter().collect();
        }
        Ok(())
    }

    /// The blocks of `block_size` bytes that any change after `version` touches.
    #[must_use]
    pub fn blocks_changed_after(&self, version: u64, block_size: usize) -> BTreeSet<u64> {
        let sectors = (block_size / SECTOR) as u64;
        let changes = &self.changes[index(version)..];
        let blocks = |change: &Change| change.sectors.start / sectors..change.sectors.end.div_ceil(sectors);
        changes.iter().flat_map(blocks).collect()
    }

    fn stamp_of(&self, version: u64) -> u64 {
        let change = version.checked_sub(1).map(|before| &self.changes[index(before)]);
        if change.is_some_and(|change| change.kind == ChangeKind::Write) { version } else { 0 }
    }
}

#[expect(clippy::cast_possible_truncation, reason = "what is counted here is in memory")]
fn index(number: u64) -> usize {
    number as usize
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stamped;

    fn change(kind: ChangeKind) -> Change {
        Change { sectors: 1..3, kind }
    }

    #[test]
    fn a_completed_change_replaces_what_was() {
        let mut history = History::new(4);
        let written = history.begin(change(ChangeKind::Write));
        assert!(history.compare(1, &stamped(1, 2, 0)).is_ok());
        assert!(history.compare(1, &stamped(1, 2, written)).is_ok());
        history.settle(written);
        assert!(history.compare(1, &stamped(1, 2, 0)).is_err());
        assert!(history.compare(0, &stamped(0, 1, 0)).is_ok());
        let zeroed = history.begin(change(ChangeKind::Discard));
        assert!(history.compare(1, &stamped(1, 2, 0)).is_ok());
        history.settle(zeroed);
        assert!(history.compare(1, &stamped(1, 2, written)).is_err());
        assert_eq!(history.blocks_changed_after(written, 1024), BTreeSet::from([0, 1]));
    }

    #[test]
    fn what_was_seen_stays() {
        let mut history = History::new(4);
        let written = history.begin(change(ChangeKind::Write));
        let torn = [stamped(1, 1, 0), stamped(2, 1, written)].concat();
        history.observe(1, &torn).unwrap();
        assert!(history.compare(1, &torn).is_ok());
        assert!(history.compare(1, &stamped(1, 1, written)).is_err());
        assert!(history.compare(2, &stamped(2, 1, 0)).is_err());
        assert!(history.compare(2, &stamped(1, 1, written)).is_err(), "of another place");
    }
}
