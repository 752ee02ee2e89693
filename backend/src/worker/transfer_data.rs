//! The data of a transfer: copied between guest and folio, and protected by tuples.

use super::failure::Failure;
use super::memory::WorkerMemory;
use crate::device::Protection;
use crate::device::operation::{Piece, Transfer, TransferBuffer, TransferDirection};
use crate::worker::request::{ActiveRequest, RequestWork};

/// Moves and protects the data of transfers.
#[derive(Debug, Clone, Copy)]
pub(super) struct DataPath<'a> {
    pub(super) memory: &'a WorkerMemory,
    pub(super) protection: Option<&'a Protection>,
}

impl DataPath<'_> {
    /// `copy_to -> generate`: reads the guest's data once, into the folio, and computes its tuples.
    ///
    /// Without a bounce the folio holds the copy that the guard was computed from, while the device
    /// reads the guest's memory again. That is the defect which the bounce cures.
    pub(super) fn fill(self, active: &ActiveRequest, transfer: &mut Transfer) -> Result<(), Failure> {
        let Piece { data_offset, data_len, lead, .. } = transfer.piece();
        let offset = transfer.offset();
        let Some((data, metadata)) = transfer.parts_mut() else {
            return Ok(());
        };
        let part = &mut data[lead..lead + data_len];
        if let RequestWork::Zero(_) = active.work {
            part.fill(0);
        } else {
            active.request.data.copy_to(&**self.memory, data_offset, part)?;
            self.memory.check(&active.request.data)?;
        }
        if let Some(protection) = self.protection {
            let part = protection.touched(lead..lead + data_len);
            protection.generate(offset, part, data, metadata)?;
        }
        Ok(())
    }

    /// Marks in the dirty log what the device itself wrote to guest memory, or may have written
    /// before it failed.
    pub(super) fn mark_written(self, active: &ActiveRequest, transfer: &Transfer) {
        if let (TransferDirection::Read, TransferBuffer::Guest(..)) =
            (transfer.direction(), transfer.buffer())
        {
            let Piece { data_offset, data_len, .. } = transfer.piece();
            active.request.data.mark_dirty(&**self.memory, data_offset, data_len as u64);
        }
    }

    /// Fails when memory is lost that the device copied from or to itself.
    pub(super) fn check_unbounced(self, active: &ActiveRequest, transfer: &Transfer) -> Result<(), Failure> {
        match transfer.buffer() {
            TransferBuffer::Guest(..) => self.memory.check(&active.request.data),
            TransferBuffer::Bounce(_) => Ok(()),
        }
    }

    /// `verify`, for a read.
    pub(super) fn verify(self, active: &ActiveRequest, transfer: &mut Transfer) -> Result<(), Failure> {
        let Piece { data_offset, data_len, lead, .. } = transfer.piece();
        let offset = transfer.offset();
        let unbounced = matches!(transfer.buffer(), TransferBuffer::Guest(..));
        let Some((data, metadata)) = transfer.parts_mut() else {
            return Ok(());
        };
        if unbounced {
            // a change that the guest makes meanwhile is verified too: without a bounce nothing is
            // stable
            active.request.data.copy_to(&**self.memory, data_offset, &mut data[..data_len])?;
        }
        if let Some(protection) = self.protection {
            let part = protection.touched(lead..lead + data_len);
            protection.verify(offset, part, data, metadata)?;
        }
        Ok(())
    }

    /// Continues a partial write whose granule was read: verifies the bytes of the changed
    /// intervals that stay, puts the guest's data in, and makes the transfer a write. Other
    /// intervals of the granule, good or bad, go back as they came, with their tuples.
    pub(super) fn merge(self, active: &ActiveRequest, transfer: &mut Transfer) -> Result<(), Failure> {
        let Piece { data_len, lead, .. } = transfer.piece();
        if let (Some(protection), Some(folio)) = (self.protection, transfer.folio()) {
            let interval = protection.interval_size();
            let (data, metadata) = folio.parts();
            let touched = protection.touched(lead..lead + data_len);
            // intervals that the guest's data covers whole need not have been right
            let head = lead.next_multiple_of(interval);
            let tail = ((lead + data_len) / interval * interval).max(head);
            protection.verify(transfer.offset(), touched.start..head, data, metadata)?;
            protection.verify(transfer.offset(), tail..touched.end, data, metadata)?;
        }
        transfer.turn_into_write();
        self.fill(active, transfer)
    }

    /// `copy_from`: gives a verified part of a read to the guest.
    pub(super) fn copy_from(self, active: &ActiveRequest, transfer: &Transfer) -> Result<(), Failure> {
        let Piece { data_offset, data_len, lead, .. } = transfer.piece();
        if let TransferBuffer::Bounce(folio) = transfer.buffer() {
            let data = &folio.data()[lead..lead + data_len];
            active.request.data.copy_from(&**self.memory, data_offset, data)?;
            self.memory.check(&active.request.data)?;
        }
        Ok(())
    }
}
