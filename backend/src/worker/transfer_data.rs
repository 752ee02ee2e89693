//! The data of a transfer: between the guest and the folio, and against the tuples.

use std::sync::Arc;

use super::failure::Failure;
use crate::device::Protection;
use crate::device::operation::{Piece, Transfer, TransferBuffer, TransferDirection};
use crate::guest::memory_table::{self, GuestMemory};
use crate::guest::sigbus;
use crate::worker::request::{Active, Work};

/// Moves and protects the data of transfers.
#[derive(Debug)]
pub(super) struct DataPath {
    memory: Arc<GuestMemory>,
    protection: Option<Protection>,
    /// Mappings that had been lost before this was made.
    losses: u64,
}

impl DataPath {
    pub(super) fn new(memory: Arc<GuestMemory>, protection: Option<Protection>) -> Self {
        Self { memory, protection, losses: sigbus::losses() }
    }

    /// Moves data to and from `memory` from now on.
    pub(super) fn set_memory(&mut self, memory: Arc<GuestMemory>) {
        self.memory = memory;
    }

    /// `copy_to -> generate`: the one read of guest data, into the folio, and its tuples. Without a bounce the folio
    /// holds the copy that the guard was computed from, while the device reads the guest's memory again: the defect that
    /// the bounce is the cure of.
    pub(super) fn fill(&self, active: &Active, transfer: &mut Transfer) -> Result<(), Failure> {
        let Piece { data_offset, data_len, lead, .. } = transfer.piece;
        let Some(folio) = transfer.buffer.folio_mut() else {
            return Ok(());
        };
        let (data, metadata) = folio.parts_mut();
        let part = &mut data[lead..lead + data_len];
        if let Work::Zero(_) = active.work {
            part.fill(0);
        } else {
            active.request.data.copy_to(&*self.memory, data_offset, part)?;
            self.check_memory(active)?;
        }
        if let Some(protection) = self.protection {
            let part = protection.touched(lead..lead + data_len);
            protection.generate(transfer.offset, part, data, metadata)?;
        }
        Ok(())
    }

    /// Tells the dirty log what the device itself wrote to guest memory, or may have written before it failed.
    pub(super) fn mark_written(&self, active: &Active, transfer: &Transfer) {
        if let (TransferDirection::Read, TransferBuffer::Guest(..)) = (transfer.direction, &transfer.buffer) {
            let Piece { data_offset, data_len, .. } = transfer.piece;
            active.request.data.mark_dirty(&*self.memory, data_offset, data_len as u64);
        }
    }

    /// Fails when memory of the request is lost: then what was copied is not what the guest has there.
    /// To be called after each copy.
    fn check_memory(&self, active: &Active) -> Result<(), Failure> {
        if sigbus::losses() != self.losses && memory_table::is_lost(&self.memory, &active.request.data) {
            return Err(Failure::MemoryLost);
        }
        Ok(())
    }

    /// As [`Self::check_memory`], for what the device copied itself.
    pub(super) fn check_unbounced(&self, active: &Active, transfer: &Transfer) -> Result<(), Failure> {
        match transfer.buffer {
            TransferBuffer::Guest(..) => self.check_memory(active),
            TransferBuffer::Bounce(_) => Ok(()),
        }
    }

    /// `verify`, for a read.
    pub(super) fn verify(&self, active: &Active, transfer: &mut Transfer) -> Result<(), Failure> {
        let Piece { data_offset, data_len, lead, .. } = transfer.piece;
        let unbounced = matches!(transfer.buffer, TransferBuffer::Guest(..));
        let Some(folio) = transfer.buffer.folio_mut() else {
            return Ok(());
        };
        if unbounced {
            // What the guest makes of its buffer meanwhile is verified too: without a bounce there is nothing stable.
            active.request.data.copy_to(&*self.memory, data_offset, &mut folio.parts_mut().0[..data_len])?;
        }
        let (data, metadata) = folio.parts();
        if let Some(protection) = self.protection {
            let part = protection.touched(lead..lead + data_len);
            protection.verify(transfer.offset, part, data, metadata)?;
        }
        Ok(())
    }

    /// A partial write has its granule: verify what stays of the intervals it changes, put the guest's data in, and make it
    /// a write. Other intervals of the granule, good or bad, go back as they came, with their tuples.
    pub(super) fn merge(&self, active: &Active, transfer: &mut Transfer) -> Result<(), Failure> {
        let Piece { data_len, lead, .. } = transfer.piece;
        if let (Some(protection), Some(folio)) = (self.protection, transfer.buffer.folio()) {
            let interval = protection.interval_size();
            let (data, metadata) = folio.parts();
            let touched = protection.touched(lead..lead + data_len);
            // intervals that the guest's data covers whole need not have been right
            let head = lead.next_multiple_of(interval);
            let tail = ((lead + data_len) / interval * interval).max(head);
            protection.verify(transfer.offset, touched.start..head, data, metadata)?;
            protection.verify(transfer.offset, tail..touched.end, data, metadata)?;
        }
        transfer.direction = TransferDirection::Write;
        self.fill(active, transfer)
    }

    /// `copy_from`: gives a verified part of a read to the guest.
    pub(super) fn copy_from(&self, active: &Active, transfer: &Transfer) -> Result<(), Failure> {
        let Piece { data_offset, data_len, lead, .. } = transfer.piece;
        if let TransferBuffer::Bounce(folio) = &transfer.buffer {
            let data = &folio.data()[lead..lead + data_len];
            active.request.data.copy_from(&*self.memory, data_offset, data)?;
            self.check_memory(active)?;
        }
        Ok(())
    }
}
