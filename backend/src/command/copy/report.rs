//! The result of a copy, for people and as JSON.

use std::fmt;
use std::path::Path;
use std::process::ExitCode;

use integrity::IntegrityProfile;
use serde::Serialize;

use super::super::check::{BadRange, Findings, write_range};

/// The exit status when some blocks do not match, or cannot be read.
const EXIT_MISMATCH: u8 = 1;

/// A copy that was made.
#[derive(Debug, Serialize)]
pub(in crate::command) struct CopyReport {
    copy: String,
    /// Whether the copy shares the blocks of the image.
    reflink: bool,
    interval_size: usize,
    mismatched_blocks: u64,
    unreadable_blocks: u64,
    /// Blocks that were adopted after a crash and not accepted since, in the copy too.
    adopted_blocks: u64,
    bad: Vec<BadRange>,
    /// The number of bad blocks in none of the ranges.
    unlisted_blocks: u64,
}

impl CopyReport {
    pub(super) fn new(copy: &Path, profile: &IntegrityProfile, reflink: bool, findings: Findings) -> Self {
        Self {
            copy: copy.display().to_string(),
            reflink,
            interval_size: profile.interval_size(),
            mismatched_blocks: findings.mismatched_blocks,
            unreadable_blocks: findings.unreadable_blocks,
            adopted_blocks: findings.adopted_blocks,
            bad: findings.bad,
            unlisted_blocks: findings.unlisted_blocks,
        }
    }

    pub(in crate::command) fn exit_code(&self) -> ExitCode {
        let all_match = self.mismatched_blocks + self.unreadable_blocks == 0;
        if all_match { ExitCode::SUCCESS } else { ExitCode::from(EXIT_MISMATCH) }
    }
}

impl fmt::Display for CopyReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let copy = &self.copy;
        for bad in &self.bad {
            write_range(bad, self.interval_size, f)?;
        }
        if self.unlisted_blocks > 0 {
            writeln!(f, "... and {} more blocks", self.unlisted_blocks)?;
        }
        if self.adopted_blocks > 0 {
            writeln!(
                f,
                "{copy}: {} blocks were adopted after a crash, as in the image",
                self.adopted_blocks
            )?;
        }
        let how = if self.reflink { ", sharing the blocks of the image" } else { "" };
        match self.mismatched_blocks + self.unreadable_blocks {
            0 => writeln!(f, "{copy}: copied{how}, and every block matches its tuple"),
            bad => writeln!(f, "{copy}: copied{how}; {bad} blocks are bad, and reads of them fail"),
        }
    }
}
