//! The damage list: blocks that fail verification are noted, and blocks that are written are taken
//! out.

use std::io;

use integrity::sidecar::{FailedCheck, Finding, FoundBy, SidecarError};

use super::QueueWorker;
use super::failure::Failure;
use crate::device::operation::{Transfer, TransferBuffer, TransferDirection};
use crate::device::{BlockDevice, PiFailure, Protection};

impl<B: BlockDevice> QueueWorker<B> {
    /// Whole granules were written. Their range is locked until the request is answered.
    #[inline]
    pub(super) fn clear_damage(&self, offset: u64, len: u64) {
        if let Some(protection) = &self.info.protection {
            self.info.damage.written(&(protection.interval(offset)..protection.interval(offset + len)));
        }
    }

    /// The part of a transfer that is a request's was written. In the same granule there may be
    /// other blocks, which went back as they came.
    #[inline]
    pub(super) fn clear_damage_of(&self, transfer: &Transfer) {
        if let Some(protection) = &self.info.protection {
            let piece = transfer.piece();
            let part = protection.touched(piece.lead..piece.lead + piece.data_len);
            self.clear_damage(transfer.offset() + part.start as u64, part.len() as u64);
        }
    }

    /// Notes the blocks of a transfer that the device has refused for their tags.
    #[cold]
    pub(super) fn note_refused(&self, transfer: &Transfer, error: &io::Error) {
        if let (Some(protection), TransferBuffer::Bounce(_)) = (&self.info.protection, transfer.buffer()) {
            self.info.damage.add(refused_blocks(protection, transfer, error), FoundBy::Guest);
        }
    }

    /// Notes all blocks of a transfer that do not match, after its verification has failed. Without
    /// a bounce the guest may have changed the data, so nothing is known of the blocks.
    #[cold]
    pub(super) fn note_mismatch(&self, transfer: &Transfer, failure: &Failure) {
        let (Some(protection), Failure::Integrity(_), TransferBuffer::Bounce(folio)) =
            (&self.info.protection, failure, transfer.buffer())
        else {
            return;
        };
        let piece = transfer.piece();
        let part = protection.touched(piece.lead..piece.lead + piece.data_len);
        let (data, metadata) = folio.parts();
        self.info.damage.add(protection.findings(transfer.offset(), part, data, metadata), FoundBy::Guest);
    }
}

impl<B: BlockDevice> QueueWorker<B> {
    /// Says why a write of a part of a damaged block fails, and what helps: it fails in a file
    /// system as an error of a write, which looks like another fault.
    #[cold]
    pub(super) fn explain_partial_write(&self, failure: &Failure) {
        let Failure::Integrity(SidecarError::Mismatch(mismatch)) = failure else {
            return;
        };
        if self.metrics().failed.partial_writes.add_logged() {
            let (queue, lba) = (self.ring.vring.index, mismatch.lba());
            tracing::error!(
                queue,
                "a write of a part of LBA {lba} fails, since the rest of that block does not match its tuple: have the guest \
                 write the whole block, take it from a backup with `stableblk restore --lba {lba}`, or accept what it \
                 holds with `stableblk ctl SOCKET accept --lba {lba}`"
            );
        }
    }
}

/// The blocks of a read that the device has refused for their tags. Of a read in which no block was
/// shown to be wrong, that is the block, if there is only one.
pub(super) fn refused_blocks(
    protection: &Protection,
    transfer: &Transfer,
    error: &io::Error,
) -> Vec<Finding> {
    let (Some(failure), TransferDirection::Read, TransferBuffer::Bounce(folio)) =
        (PiFailure::in_error(error), transfer.direction(), transfer.buffer())
    else {
        return Vec::new();
    };
    let (offset, len) = (transfer.offset(), transfer.len());
    match failure {
        PiFailure::Read { .. } => {
            let (data, metadata) = folio.parts();
            protection.findings(offset, 0..len, data, metadata)
        }
        PiFailure::Withheld { .. } if len == protection.interval_size() => {
            vec![Finding { lba: protection.interval(offset), check: FailedCheck::Device, tag: None }]
        }
        _ => Vec::new(),
    }
}
