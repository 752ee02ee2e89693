//! The result of a check, for people and as JSON.

use std::borrow::Cow;
use std::fmt;

use integrity::sidecar::Recovery;
use serde::Serialize;

use super::super::info::DURABILITY_LOST;
use super::Recovered;
use super::findings::{BadRange, Findings, LbaRange, TagValues};
use crate::control::damage::DamageReport;
use crate::storage::image::Image;
use crate::storage::sidecar_file::SidecarFile;

/// The result of a check. Sizes are in bytes, LBAs and blocks in intervals.
#[derive(Debug, Serialize)]
pub(super) struct Report<'a> {
    image: Cow<'a, str>,
    sidecar: Cow<'a, str>,
    interval_size: usize,
    blocks: u64,
    /// The recovery; none when the image was closed cleanly.
    #[serde(skip_serializing_if = "Option::is_none")]
    recovery: Option<RecoveryReport>,
    /// Why serving refuses image and sidecar, when they are of two moments.
    #[serde(skip_serializing_if = "Option::is_none")]
    refused: Option<String>,
    /// The number of blocks that were adopted after a crash.
    adopted_blocks: u64,
    adopted_ranges: Vec<LbaRange>,
    mismatched_blocks: u64,
    unreadable_blocks: u64,
    ranges: Vec<BadRange>,
    /// The number of bad blocks in none of the ranges, because there were too many.
    unlisted_blocks: u64,
    /// Whether a sync of the image failed when it was served, and no flush of a guest has failed
    /// for that since.
    durability_lost: bool,
    /// The blocks whose verification has failed while the image was served or scrubbed, and which
    /// were not written since.
    damage: DamageReport,
}

impl<'a> Report<'a> {
    pub(super) fn new(
        image: &'a Image,
        sidecar: &'a SidecarFile,
        recovered: &Recovered,
        findings: Findings,
    ) -> Self {
        let findings = findings.sorted();
        Self {
            image: image.path().to_string_lossy(),
            sidecar: sidecar.path().to_string_lossy(),
            interval_size: sidecar.profile().interval_size(),
            blocks: sidecar.layout().intervals(),
            recovery: recovered.outcome().map(|(recovery, done)| RecoveryReport::new(recovery, done)),
            refused: recovered.refusal().map(|reason| reason.to_string()),
            adopted_blocks: findings.adopted_blocks,
            adopted_ranges: findings.adopted,
            mismatched_blocks: findings.mismatched_blocks,
            unreadable_blocks: findings.unreadable_blocks,
            ranges: findings.bad,
            unlisted_blocks: findings.unlisted_blocks,
            durability_lost: sidecar.superblock().durability_lost() || image.durability_lost(),
            damage: DamageReport::new(&sidecar.damage().list, sidecar.profile().interval_size()),
        }
    }

    /// Whether the last writes of blocks that match may be missing.
    pub(super) fn durability_lost(&self) -> bool {
        self.durability_lost
    }
}

/// Writes one line for `bad`, whose blocks have `interval_size` bytes.
pub(in crate::command) fn write_range(
    bad: &BadRange,
    interval_size: usize,
    f: &mut fmt::Formatter<'_>,
) -> fmt::Result {
    let BadRange { range, check, first_tag } = bad;
    let byte = range.first_lba * interval_size as u64;
    match range.blocks() {
        1 => write!(f, "{range} (byte {byte}): {check}")?,
        blocks => write!(f, "{range} ({blocks} blocks from byte {byte}): {check}")?,
    }
    if let Some(TagValues { expected, actual }) = first_tag {
        let of_first = if range.blocks() == 1 { "" } else { " in the first" };
        write!(f, ",{of_first} expected {expected}, actual {actual}")?;
    }
    writeln!(f)
}

impl fmt::Display for Report<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { image, interval_size, blocks, mismatched_blocks, unreadable_blocks, .. } = self;
        if let Some(recovery) = &self.recovery {
            write!(f, "{image}: {recovery}")?;
        }
        for range in &self.adopted_ranges {
            writeln!(f, "{range}: adopted after a crash, as found")?;
        }
        for bad in &self.ranges {
            write_range(bad, *interval_size, f)?;
        }
        if self.unlisted_blocks != 0 {
            writeln!(f, "... and {} more blocks", self.unlisted_blocks)?;
        }
        if !self.damage.is_empty() {
            write!(f, "{image}: found while it was served:\n{}", self.damage)?;
        }
        if self.durability_lost {
            writeln!(f, "{image}: durability {DURABILITY_LOST}")?;
        }
        write!(f, "{image}: {blocks} blocks of {interval_size} bytes, ")?;
        match (mismatched_blocks, unreadable_blocks) {
            (0, 0) => write!(f, "all match")?,
            (bad, 0) => write!(f, "{bad} do not match")?,
            (0, bad) => write!(f, "{bad} cannot be read, all others match")?,
            (bad, unreadable) => write!(f, "{bad} do not match, {unreadable} cannot be read")?,
        }
        match self.adopted_blocks {
            0 => writeln!(f)?,
            adopted => {
                writeln!(f, "; {adopted} were adopted: accept them with `stableblk accept --adopted`")?;
            }
        }
        match &self.refused {
            None => Ok(()),
            Some(reason) => writeln!(
                f,
                "{image}: image and sidecar are of two moments: {reason}; serving refuses them: put back the two that were closed \
                 together, or accept what the image holds with `stableblk accept --force`"
            ),
        }
    }
}

/// The changes that recovery has made, or would make. Numbers count blocks unless they say
/// otherwise.
#[derive(Debug, Serialize)]
pub(in crate::command) struct RecoveryReport {
    /// Whether recovery was done, and not only computed.
    done: bool,
    log_pages: u64,
    /// The number of a page of the log that is missing.
    #[serde(skip_serializing_if = "Option::is_none")]
    missing_log_page: Option<u64>,
    dirty_regions: u64,
    damaged_map_sectors: usize,
    judged_blocks: u64,
    unreadable_blocks: u64,
    changed_tuples: u64,
    adopted_blocks: u64,
}

impl RecoveryReport {
    pub(in crate::command) fn new(recovery: &Recovery, done: bool) -> Self {
        Self {
            done,
            log_pages: recovery.log_pages,
            missing_log_page: recovery.log_gap,
            dirty_regions: recovery.dirty_regions,
            damaged_map_sectors: recovery.rotten_map_sectors,
            judged_blocks: recovery.judged_blocks,
            unreadable_blocks: recovery.unreadable_blocks,
            changed_tuples: recovery.changed_tuples,
            adopted_blocks: recovery.adopted_blocks,
        }
    }
}

impl fmt::Display for RecoveryReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { log_pages, dirty_regions, judged_blocks, changed_tuples, adopted_blocks, .. } = self;
        let (changes, adopts) = if self.done { ("changed", "adopted") } else { ("would change", "adopt") };
        writeln!(
            f,
            "not closed cleanly ({log_pages} pages of the log, {dirty_regions} dirty regions): recovery {changes} {changed_tuples} \
             tuples and {adopts} {adopted_blocks} of {judged_blocks} blocks in doubt"
        )?;
        if let Some(page) = self.missing_log_page {
            writeln!(f, "page {page} of the log is missing: it was being written, or is damaged")?;
        }
        if self.damaged_map_sectors > 0 {
            writeln!(f, "{} sectors of the dirty map are damaged", self.damaged_map_sectors)?;
        }
        if self.unreadable_blocks > 0 {
            writeln!(f, "{} blocks in doubt cannot be read", self.unreadable_blocks)?;
        }
        Ok(())
    }
}
