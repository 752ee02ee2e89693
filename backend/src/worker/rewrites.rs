//! Finds guests that change data while it is being written: the case that stableblk is for.
//!
//! One in many writes is looked at again between its completion and its answer, while its buffer
//! still belongs to the device. Where guest memory differs from the folio, the guard of a back-end
//! without a copy would be that of other data than it stored.

use std::ops::RangeInclusive;

use super::QueueWorker;
use super::transfer_data::DataPath;
use crate::device::BlockDevice;
use crate::device::operation::{Piece, Transfer, TransferDirection};
use crate::worker::request::{ActiveRequest, RequestWork};

/// Bytes that are compared at a time.
const PART: usize = 4096;

impl<B: BlockDevice> QueueWorker<B> {
    /// Looks at the data of a write that has come back, if it is one of those that are looked at.
    #[inline]
    pub(super) fn look_for_rewrite(&mut self, transfer: &Transfer) {
        if transfer.direction() == TransferDirection::Write && self.sampler.chooses() {
            self.look_at_write(transfer);
        }
    }

    fn look_at_write(&mut self, transfer: &Transfer) {
        let active = &self.requests.active[transfer.piece().request];
        if active.work != RequestWork::Write || transfer.folio().is_none() {
            return;
        }
        let Some(changed) = self.data_path().changed_since(active, transfer) else {
            return;
        };
        let (queue, metrics) = (self.ring.vring.index, self.metrics());
        metrics.rewrites.checked.add(1);
        let Some((first, last)) = changed else { return };
        metrics.rewrites.found.add(1);
        let block = self.info.protection.map_or(self.limits.block_size as usize, |it| it.interval_size());
        let lbas = first / block as u64..=last / block as u64;
        if self.disk.events.rewrites.note(lbas.clone()) {
            let (found, checked) = (metrics.rewrites.found.get(), metrics.rewrites.checked.get());
            let (first_lba, last_lba) = RangeInclusive::into_inner(lbas);
            tracing::warn!(
                queue,
                first_lba,
                last_lba,
                found,
                checked,
                "the guest changes data while it is being written; the data that is stored matches its guard \
                 all the same, because it was copied first. Without the copy it would be damaged. This is \
                 logged once a day, and counted in the status"
            );
        }
    }
}

impl DataPath<'_> {
    /// The first and the last byte on the device of a write whose data in guest memory is not that
    /// in its folio any more. The inner `None`: there are none. The outer: guest memory cannot be
    /// read.
    #[expect(clippy::option_option, reason = "two different answers")]
    fn changed_since(self, active: &ActiveRequest, transfer: &Transfer) -> Option<Option<(u64, u64)>> {
        let Piece { data_offset, data_len, lead, .. } = transfer.piece();
        let written = &transfer.folio()?.data()[lead..lead + data_len];
        let mut changed: Option<(u64, u64)> = None;
        let mut now = [0; PART];
        for (index, part) in written.chunks(PART).enumerate() {
            let offset = (index * PART) as u64;
            let now = &mut now[..part.len()];
            active.request.data.copy_to(&**self.memory, data_offset + offset, now).ok()?;
            if part != now {
                let start = transfer.offset() + lead as u64 + offset;
                let differs = |at: &usize| part[*at] != now[*at];
                let first = (0..part.len()).find(differs).unwrap_or(0);
                let last = (0..part.len()).rfind(differs).unwrap_or(0);
                let earlier = changed.map_or(start + first as u64, |(first, _)| first);
                changed = Some((earlier, start + last as u64));
            }
        }
        // bytes of lost memory are not the guest's
        self.memory.check(&active.request.data).ok()?;
        Some(changed)
    }
}
