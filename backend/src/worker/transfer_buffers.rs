//! Where the bytes of a transfer lie: in a bounce folio, or in the guest's own memory.

use std::rc::Rc;

use crate::device::DeviceInfo;
use crate::device::bounce::{BounceFolio, FolioPool};
use crate::device::guest_vectors::{GuestVectors, SpareVectors};
use crate::device::operation::TransferBuffer;
use crate::guest::memory_table::GuestMemory;
use crate::worker::disk::Bounce;
use crate::worker::extent::Extent;
use crate::worker::request::{ActiveRequest, RequestWork};

/// The largest part of a request that is copied, or verified, in one go, in bytes. It is worth a
/// transfer of its own to any disk. With the guest's memory that it is copied from it fits in a
/// level 2 cache, so the guard is computed over cached data.
const PIECE_SIZE: usize = 256 << 10;

/// Transfers that a worker has in flight at most, where folios do not limit them.
const TRANSFERS_MAX: usize = 1024;

/// The buffers of one worker.
#[derive(Debug)]
pub(super) struct TransferBuffers {
    pool: FolioPool,
    spare: SpareVectors,
    bounce: Bounce,
    granule: usize,
    transfer_max: usize,
    memory_alignment: usize,
    /// Tuples lie in a folio, wherever the data lies.
    is_protected: bool,
    /// Buffers that transfers have.
    in_use: usize,
}

impl TransferBuffers {
    pub(super) fn new(pool: FolioPool, bounce: Bounce, info: &DeviceInfo) -> Self {
        Self {
            pool,
            spare: SpareVectors::default(),
            bounce,
            granule: info.granule,
            transfer_max: info.transfer_max,
            memory_alignment: info.memory_alignment,
            is_protected: info.protection.is_some(),
            in_use: 0,
        }
    }

    /// Buffers that transfers have: how many transfers there are.
    pub(super) fn in_use(&self) -> usize {
        self.in_use
    }

    /// Whether there are as many transfers as there may be.
    pub(super) fn is_at_limit(&self) -> bool {
        self.in_use == TRANSFERS_MAX
    }

    /// A buffer for `extent`, the part of `active` that starts at byte `data_offset` of its data.
    /// The extent is cut to the buffer where only a smaller folio is free. `None`: no folio is
    /// free.
    pub(super) fn take(
        &mut self,
        memory: &Rc<GuestMemory>,
        active: &ActiveRequest,
        data_offset: u64,
        extent: Extent,
    ) -> Option<(TransferBuffer, Extent)> {
        let taken = self.find(memory, active, data_offset, extent.within(self.transfer_max, self.granule))?;
        self.in_use += 1;
        Some(taken)
    }

    fn find(
        &mut self,
        memory: &Rc<GuestMemory>,
        active: &ActiveRequest,
        data_offset: u64,
        extent: Extent,
    ) -> Option<(TransferBuffer, Extent)> {
        let zero_copy = self.bounce == Bounce::WhenUnaligned
            && matches!(active.work, RequestWork::Read | RequestWork::Write)
            && !extent.is_partial();
        if zero_copy
            && !self.is_protected
            && let Some(vectors) = self.guest_vectors(memory, active, data_offset, extent)
        {
            return Some((TransferBuffer::Guest(vectors, None), extent));
        }
        let (folio, extent) = self.folio(extent)?;
        if zero_copy
            && self.is_protected
            && let Some(vectors) = self.guest_vectors(memory, active, data_offset, extent)
        {
            return Some((TransferBuffer::Guest(vectors, Some(folio)), extent));
        }
        Some((TransferBuffer::Bounce(folio), extent))
    }

    /// Takes a buffer back.
    pub(super) fn put(&mut self, buffer: TransferBuffer) {
        self.in_use -= 1;
        let (guest, folio) = match buffer {
            TransferBuffer::Bounce(folio) => (None, Some(folio)),
            TransferBuffer::Guest(guest, folio) => (Some(guest), folio),
        };
        if let Some(folio) = folio {
            self.pool.put(folio);
        }
        if let Some(guest) = guest {
            self.spare.put(guest);
        }
    }

    /// Whether every folio is back.
    pub(super) fn is_whole(&self) -> bool {
        self.pool.is_whole()
    }

    fn folio(&mut self, extent: Extent) -> Option<(BounceFolio, Extent)> {
        let extent = extent.within(PIECE_SIZE.max(self.granule), self.granule);
        let folio = self.pool.take(extent.device_len, self.granule)?;
        let extent = extent.within(folio.len(), self.granule);
        Some((folio, extent))
    }

    fn guest_vectors(
        &mut self,
        memory: &Rc<GuestMemory>,
        active: &ActiveRequest,
        data_offset: u64,
        extent: Extent,
    ) -> Option<GuestVectors> {
        let (data, len) = (&active.request.data, extent.data_len() as u64);
        GuestVectors::of(memory, data, data_offset, len, self.memory_alignment, &mut self.spare)
    }
}
