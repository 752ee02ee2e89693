//! Logs what recovery after a crash has found.

use integrity::sidecar::Recovery;

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
        tracing::warn!(
            "{adopted_blocks} blocks hold no write that was flushed, nor any later one, and were adopted as they \
             are: list them with `stableblk check`, and accept them with `stableblk accept --adopted`"
        );
    }
    for adoption in recovery.adoptions.iter().take(ADOPTIONS_LOGGED) {
        let guard = format_args!("{:#x}", adoption.guard);
        tracing::warn!(lba = adoption.lba, %guard, candidates = ?adoption.candidates, "adopted");
    }
}
