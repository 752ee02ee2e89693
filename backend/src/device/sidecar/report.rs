//! Logs what recovery after a crash has found.

use integrity::sidecar::{REGION_SIZE, Recovery, RegionFindings, Verification};

/// Adopted blocks that are logged one by one; `stableblk check` lists all.
const ADOPTIONS_LOGGED: usize = 16;

/// Logs what a crash has left.
pub(super) fn report(recovery: &Recovery) {
    let Recovery { log_pages, dirty_regions, judged_blocks, changed_tuples, adopted_blocks, .. } = recovery;
    tracing::warn!(
        "the image was not closed cleanly: recovered {changed_tuples} tuples ({log_pages} pages of the log, \
         {dirty_regions} dirty regions, {judged_blocks} blocks looked at)"
    );
    if let Some(page) = recovery.log_gap {
        tracing::warn!("page {page} of the log is missing: it was being written, or has been damaged");
    }
    if recovery.rotten_map_sectors > 0 {
        tracing::error!("{} sectors of the dirty map are damaged", recovery.rotten_map_sectors);
    }
    for lost in &recovery.lost {
        tracing::error!(
            "the sidecar's tuples of LBA {} to {} are damaged",
            lost.start,
            lost.end.saturating_sub(1)
        );
    }
    if recovery.unreadable_blocks > 0 {
        tracing::error!("{} blocks in doubt cannot be read", recovery.unreadable_blocks);
    }
    if *adopted_blocks > 0 {
        report_adopted(*adopted_blocks);
    }
    for adoption in recovery.adoptions.iter().take(ADOPTIONS_LOGGED) {
        let guard = format_args!("{:#x}", adoption.guard);
        tracing::warn!(lba = adoption.lba, %guard, candidates = ?adoption.candidates, "adopted");
    }
}

fn report_adopted(blocks: u64) {
    tracing::warn!(
        "{blocks} blocks hold no write that was flushed, nor any later one, and were adopted as they are: list \
         them with `stableblk check`, and accept them with `stableblk accept --adopted`"
    );
}

/// Logs how much of the image is verified while the disk is served.
pub(super) fn report_unverified(verification: Verification) {
    if verification.left > 0 {
        let mib = (verification.left * REGION_SIZE) >> 20;
        tracing::warn!("{mib} MiB of the image may have been written last; they are verified from now on");
    }
}

/// The findings of a verification beside the requests, of all regions together.
#[derive(Debug, Default)]
pub(super) struct Findings {
    adopted: u64,
    not_adopted: u64,
    unreadable: u64,
}

impl Findings {
    /// Logs the findings in one region, and how it ends if it was the last.
    pub(super) fn add(&mut self, findings: &RegionFindings, verification: Verification) {
        let RegionFindings { recovery: found, not_adopted } = findings;
        let logged = (self.adopted, self.not_adopted);
        self.adopted += found.adopted_blocks;
        self.not_adopted += not_adopted;
        self.unreadable += found.unreadable_blocks;
        for lost in &found.lost {
            let (first, last) = (lost.start, lost.end.saturating_sub(1));
            tracing::error!("the sidecar's tuples of LBA {first} to {last} are damaged");
        }
        let left = ADOPTIONS_LOGGED.saturating_sub(usize::try_from(logged.0).unwrap_or(usize::MAX));
        for adoption in found.adoptions.iter().take(left) {
            let guard = format_args!("{:#x}", adoption.guard);
            tracing::warn!(lba = adoption.lba, %guard, candidates = ?adoption.candidates, "adopted");
        }
        if logged.1 == 0 && self.not_adopted > 0 {
            tracing::error!(
                "more blocks match nothing than a crash leaves: image and sidecar may be of two moments; \
                 reads of these blocks fail. `stableblk check` lists them"
            );
        }
        if verification.left == 0 {
            self.report(verification);
        }
    }

    fn report(&self, verification: Verification) {
        let mib = (verification.total * REGION_SIZE) >> 20;
        tracing::info!("the {mib} MiB that may have been written last before the crash are verified");
        if self.unreadable > 0 {
            tracing::error!("{} blocks in doubt cannot be read", self.unreadable);
        }
        if self.adopted > 0 {
            report_adopted(self.adopted);
        }
    }
}

/// Logs that a session ends before all was verified.
pub(super) fn report_unfinished(verification: Verification) {
    if verification.left > 0 {
        let mib = (verification.left * REGION_SIZE) >> 20;
        tracing::info!("{mib} MiB are still to be verified after a crash: the next session continues");
    }
}
