//! Transfers one by one, for work on a device while it is not served.

use std::fmt;
use std::io;
use std::sync::Arc;

use super::{BlockDevice, DeviceQueue, Event, OwnEvents};
use crate::device::bounce::{BounceFolio, FolioPool};
use crate::device::operation::{DeviceOperation, Piece, Transfer, TransferBuffer, TransferDirection};

/// A queue of a device that waits for each transfer.
pub struct OneByOne<Q> {
    queue: Q,
    pool: FolioPool,
    granule: usize,
}

impl<Q> fmt::Debug for OneByOne<Q> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OneByOne").finish_non_exhaustive()
    }
}

impl<Q: DeviceQueue> OneByOne<Q> {
    /// Opens a queue of `device`.
    pub fn open<B: BlockDevice<Queue = Q>>(device: &Arc<B>) -> io::Result<Self> {
        let info = device.info();
        let pool = FolioPool::reserve(info.metadata_per_page())?;
        let events = OwnEvents::new()?;
        let queue = device.open_queue(pool.arena(), events.sources())?;
        Ok(Self { queue, pool, granule: info.granule })
    }

    /// Reads `len` bytes at `offset` with their metadata: whole granules, as many as one transfer
    /// of the device may have.
    pub fn read(&mut self, offset: u64, len: usize) -> io::Result<BounceFolio> {
        let folio = self.pool.take(len, self.granule).ok_or(io::ErrorKind::OutOfMemory)?;
        self.transfer(TransferDirection::Read, offset, len, folio)
    }

    /// Writes the first `len` bytes of `folio`, and their metadata, to `offset`.
    pub fn write(&mut self, offset: u64, len: usize, folio: BounceFolio) -> io::Result<BounceFolio> {
        self.transfer(TransferDirection::Write, offset, len, folio)
    }

    /// Takes a folio back.
    pub fn put(&mut self, folio: BounceFolio) {
        self.pool.put(folio);
    }

    fn transfer(
        &mut self,
        direction: TransferDirection,
        offset: u64,
        len: usize,
        folio: BounceFolio,
    ) -> io::Result<BounceFolio> {
        let piece = Piece { request: 0, data_offset: 0, data_len: len, lead: 0, merge: false };
        let buffer = TransferBuffer::Bounce(folio);
        self.queue.submit(DeviceOperation::Transfer(Transfer::new(direction, offset, len, buffer, piece)));
        loop {
            self.queue.enter(true)?;
            while let Some(event) = self.queue.reap() {
                if let Event::Done(DeviceOperation::Transfer(transfer), result) = event {
                    result?;
                    return match transfer.into_buffer() {
                        TransferBuffer::Bounce(folio) => Ok(folio),
                        TransferBuffer::Guest(..) => Err(io::ErrorKind::InvalidData.into()),
                    };
                }
            }
        }
    }
}
