//! The requests to a disk, in their order, all made from a seed.

use std::ops::Range;

use fastrand::Rng;

/// Longest request, in sectors: 64 KiB.
pub(crate) const SECTORS_MAX: u64 = 128;
/// Sectors of the default PI interval.
const INTERVAL: u64 = 8;

/// One request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Reads these sectors.
    Read(Range<u64>),
    /// Changes sectors.
    Change(Change),
    /// Makes all that is complete durable.
    Flush,
}

impl Step {
    /// The sectors of the operation.
    #[must_use]
    pub fn sectors(&self) -> Range<u64> {
        match self {
            Self::Read(sectors) | Self::Change(Change { sectors, .. }) => sectors.clone(),
            Self::Flush => 0..0,
        }
    }
}

/// A request that changes sectors.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// Which.
    pub sectors: Range<u64>,
    /// How.
    pub kind: ChangeKind,
}

/// How sectors are changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChangeKind {
    /// They get a stamp.
    Write,
    /// They become zeros, as discards do here.
    Discard,
    /// They become zeros.
    WriteZeroes,
}

/// Writes all of a disk of `sectors`, and flushes it.
pub fn filling(sectors: u64) -> impl Iterator<Item = Step> {
    let write = move |start: u64| {
        let sectors = start..(start + SECTORS_MAX).min(sectors);
        Step::Change(Change { sectors, kind: ChangeKind::Write })
    };
    (0..sectors).step_by(usize::try_from(SECTORS_MAX).unwrap_or(1)).map(write).chain([Step::Flush])
}

/// The endless list of requests that a seed makes for a disk.
#[derive(Debug, Clone)]
pub struct Plan {
    rng: Rng,
    sectors: u64,
}

impl Plan {
    /// For a disk of `sectors`, at least those of the longest request.
    #[must_use]
    pub fn new(seed: u64, sectors: u64) -> Self {
        Self { rng: Rng::with_seed(seed), sectors }
    }

    /// Single sectors, parts of an interval or two, and whole intervals up to the longest request.
    fn extent(&mut self) -> Range<u64> {
        let len = match self.rng.u8(..8) {
            0 => 1,
            1..3 => self.rng.u64(1..2 * INTERVAL),
            3..6 => INTERVAL,
            _ => self.rng.u64(1..=SECTORS_MAX / INTERVAL) * INTERVAL,
        };
        let start = self.rng.u64(..=self.sectors - len);
        let start = if len.is_multiple_of(INTERVAL) { start / INTERVAL * INTERVAL } else { start };
        start..start + len
    }
}

impl Iterator for Plan {
    type Item = Step;

    fn next(&mut self) -> Option<Step> {
        let kind = match self.rng.u8(..32) {
            0..2 => return Some(Step::Flush),
            2..5 => return Some(Step::Read(self.extent())),
            5 => ChangeKind::Discard,
            6 => ChangeKind::WriteZeroes,
            _ => ChangeKind::Write,
        };
        Some(Step::Change(Change { sectors: self.extent(), kind }))
    }
}
