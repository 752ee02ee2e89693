//! The status of the scrub, as the control socket shows it.

use std::fmt;
use std::time::Duration;

use indicatif::{BinaryBytes, HumanDuration};
use integrity::sidecar::ScrubState as KeptState;
use serde::{Deserialize, Serialize};

use super::damage::Time;
use crate::device::BlockDevice;
use crate::worker::beside::scrub::{ScrubProgress, progress};
use crate::worker::disk::Disk;

/// The scrub that is under way, or the last one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ScrubStatus {
    /// The state of the scrub.
    pub state: ScrubState,
    /// The bytes from the beginning of the disk that are verified.
    pub position: u64,
    /// The size of the disk, in bytes.
    pub bytes: u64,
    /// The most bytes that it reads a second.
    pub rate: u64,
    /// The blocks that it has found so far.
    pub found: u64,
    /// When it was begun, in seconds since 1970; 0: never.
    pub begun: u64,
    /// The seconds that it still takes; null where that is not known.
    pub left_s: Option<u64>,
    /// When the last scrub has verified all of the disk, in seconds since 1970; 0: none has.
    pub last_done: u64,
    /// The blocks that that scrub has found.
    pub last_found: u64,
}

/// The state of a scrub.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ScrubState {
    /// None is under way.
    Idle,
    /// It is under way.
    Running,
    /// It was stopped, and continues when it is started again.
    Stopped,
    /// Another process has begun it, and has handed the disk over before it was done. It continues
    /// when it is started again.
    Interrupted,
}

impl ScrubStatus {
    /// The status of the scrub of `disk`; `None` without PI, or while it is not known.
    pub(super) fn of<B: BlockDevice>(disk: &Disk<B>) -> Option<Self> {
        let ScrubProgress { record, is_active, rate, left } = progress(disk)?;
        let state = match record.state {
            KeptState::Done => ScrubState::Idle,
            KeptState::Running if is_active => ScrubState::Running,
            KeptState::Running => ScrubState::Interrupted,
            KeptState::Stopped => ScrubState::Stopped,
        };
        let bytes = disk.device.info().capacity.get();
        Some(Self {
            state,
            position: record.position.min(bytes),
            bytes,
            rate,
            found: record.found,
            begun: record.begun,
            left_s: left.map(|left| left.as_secs()),
            last_done: record.last_done,
            last_found: record.last_found,
        })
    }
}

impl fmt::Display for ScrubStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = match self.state {
            ScrubState::Idle => "none is under way",
            ScrubState::Running => "under way",
            ScrubState::Stopped => "stopped",
            ScrubState::Interrupted => "interrupted by a hand-over",
        };
        write!(f, "scrub: {state}")?;
        if self.state != ScrubState::Idle {
            let (position, bytes) = (BinaryBytes(self.position), BinaryBytes(self.bytes));
            let percent = u128::from(self.position) * 100 / u128::from(self.bytes.max(1));
            let (begun, found) = (Time(self.begun), Count(self.found));
            write!(f, ", {position} of {bytes} ({percent} %), begun {begun}, {found}")?;
        }
        if self.state == ScrubState::Running {
            write!(f, ", at most {}/s", BinaryBytes(self.rate))?;
            if let Some(left) = self.left_s {
                write!(f, ", {} left", HumanDuration(Duration::from_secs(left)))?;
            }
        }
        writeln!(f)?;
        if self.last_done > 0 {
            let (done, found) = (Time(self.last_done), Count(self.last_found));
            writeln!(f, "last complete scrub: {done}, {found}")?;
        }
        Ok(())
    }
}

/// A number of blocks that were found.
struct Count(u64);

impl fmt::Display for Count {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            0 => f.write_str("no block found"),
            1 => f.write_str("1 block found"),
            blocks => write!(f, "{blocks} blocks found"),
        }
    }
}
