//! Where the bytes of a transfer lie: in a bounce folio, or in the guest's own memory.

use std::rc::Rc;
use std::sync::Arc;

use crate::device::DeviceInfo;
use crate::device::bounce::{BounceFolio, FolioPool};
use crate::device::operation::{GuestVectors, HeldMemory, SpareVectors, TransferBuffer};
use crate::guest::memory_table::GuestMemory;
use crate::worker::disk::Bounce;
use crate::worker::extent::Extent;
use crate::worker::request::{Active, Work};

/// The largest part of a request that is copied, or verified, in one go, in bytes. It is worth a transfer of its own to any disk, and
/// with the guest's memory that it is copied from it fits in a level 2 cache, so that the guard is computed over what is at hand.
const PIECE_SIZE: usize = 256 << 10;

/// The buffers of one worker.
#[derive(Debug)]
pub(super) struct Buffers {
    pool: FolioPool,
    memory: Rc<HeldMemory>,
    spare: SpareVectors,
    bounce: Bounce,
    granule: usize,
    transfer_max: usize,
    memory_alignment: usize,
    /// Tuples lie in a folio, wherever the data lies.
    is_protected: bool,
}

impl Buffers {
    pub(super) fn new(pool: FolioPool, memory: Arc<GuestMemory>, bounce: Bounce, info: &DeviceInfo) -> Self {
        Self {
            pool,
            memory: Rc::new(HeldMemory(memory)),
            spare: SpareVectors::default(),
            bounce,
            granule: info.granule,
            transfer_max: info.transfer_max,
            memory_alignment: info.memory_alignment,
            is_protected: info.protection.is_some(),
        }
    }

    /// Takes buffers from `memory` from now on.
    pub(super) fn set_memory(&mut self, memory: Arc<GuestMemory>) {
        self.memory = Rc::new(HeldMemory(memory));
    }

    /// A buffer for `extent`, the next part of `active`; the extent is cut to it where only a smaller folio is free.
    /// `None`: no folio is free.
    pub(super) fn take(&mut self, active: &Active, extent: Extent) -> Option<(TransferBuffer, Extent)> {
        let extent = extent.within(self.transfer_max, self.granule);
        let zero_copy = self.bounce == Bounce::WhenUnaligned
            && matches!(active.work, Work::Read | Work::Write)
            && !extent.is_partial();
        if zero_copy
            && !self.is_protected
            && let Some(vectors) = self.guest_vectors(active, extent)
        {
            return Some((TransferBuffer::Guest(vectors, None), extent));
        }
        let (folio, extent) = self.folio(extent)?;
        if zero_copy
            && self.is_protected
            && let Some(vectors) = self.guest_vectors(active, extent)
        {
            return Some((TransferBuffer::Guest(vectors, Some(folio)), extent));
        }
        Some((TransferBuffer::Bounce(folio), extent))
    }

    /// Takes a buffer back.
    pub(super) fn put(&mut self, buffer: TransferBuffer) {
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

    fn guest_vectors(&mut self, active: &Active, extent: Extent) -> Option<GuestVectors> {
        let data_len = extent.data_len() as u64;
        let slices = active.request.data.slices(&*self.memory.0, active.begun, data_len).ok()?;
        GuestVectors::of(&self.memory, slices, self.memory_alignment, &mut self.spare)
    }
}
