//! `take folio -> copy_to -> generate -> submit`: requests become operations of the device.

use std::io;

use super::{QueueWorker, TRANSFERS_MAX, TURN_SIZE};
use crate::device::operation::{DeviceOperation, Piece, Transfer, TransferDirection, ZeroBy};
use crate::device::{BlockDevice, DeviceQueue};
use crate::worker::extent::{self, Extent};
use crate::worker::request::{Active, Work};

/// Whether a request could be launched whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Launch {
    Whole,
    /// No folio is free; the rest follows when one is.
    Starved,
}

impl<B: BlockDevice> QueueWorker<B> {
    /// `take folio -> copy_to -> generate -> submit`, for as many requests as there are folios, or as are a turn's work.
    pub(super) fn launch(&mut self) -> io::Result<()> {
        let mut launched = 0;
        while launched < TURN_SIZE
            && let Some(&id) = self.ready.front()
        {
            if self.launch_request(id)? == Launch::Starved {
                if !self.starved {
                    self.starved = true;
                    self.metrics().starved.add(1);
                }
                // the folios may be full of this read's own pieces, with none on its way that would bring us back here
                if self.requests.get(id).is_some_and(Active::is_deliverable) {
                    self.deliver(id);
                    continue;
                }
                return Ok(());
            }
            self.ready.pop_front();
            if let Some(active) = self.requests.get_mut(id) {
                active.launching = false;
                launched += active.len;
            }
            self.finish_if_done(id);
        }
        self.starved = false;
        Ok(())
    }

    fn launch_request(&mut self, id: usize) -> io::Result<Launch> {
        if let Some(active) = self.requests.get_mut(id).filter(|active| active.work == Work::Flush) {
            active.in_flight += 1;
            self.device.submit(DeviceOperation::Flush { request: id });
        }
        while let Some(active) = self.requests.get_mut(id).filter(|active| !active.all_begun()) {
            let (from, to) = (active.start + active.begun, active.start + active.len);
            if self.transfers == TRANSFERS_MAX {
                return Ok(Launch::Starved);
            }
            if let Work::Zero(by @ (ZeroBy::PunchHole | ZeroBy::ZeroRange | ZeroBy::Deallocate)) = active.work
                && let Some(len) = extent::whole_granules(from, to, self.info.granule)
            {
                active.begun += len;
                active.in_flight += 1;
                self.device.submit(DeviceOperation::Zero { offset: from, len, by, request: id });
                continue;
            }
            let Some(mut transfer) = self.begin(id, from, to) else {
                return Ok(Launch::Starved);
            };
            let filled = match transfer.direction {
                TransferDirection::Read => Ok(()),
                TransferDirection::Write => self.data.fill(&self.requests[id], &mut transfer),
            };
            match filled {
                Ok(()) => self.device.submit(DeviceOperation::Transfer(transfer)),
                Err(failure) => self.end_transfer(transfer, Some(failure)),
            }
            if self.transfers == 1 && !self.requests[id].all_begun() {
                self.start_early(id)?;
            }
        }
        Ok(Launch::Whole)
    }

    /// Gives an idle device the piece of a request that is still being cut. One that is served at once, from memory, leaves its
    /// folio hot in the cache for the next piece; a device that takes its time works while the others are copied.
    fn start_early(&mut self, id: usize) -> io::Result<()> {
        self.cutting = Some(id);
        let entered = self.device.enter(false);
        self.reap();
        self.cutting = None;
        entered
    }

    /// Finds memory for the next part of a request, bytes `from..to` of the device being left. `None`: no folio is free.
    fn begin(&mut self, id: usize, from: u64, to: u64) -> Option<Transfer> {
        let active = self.requests.get_mut(id)?;
        let direction =
            if active.work == Work::Read { TransferDirection::Read } else { TransferDirection::Write };
        let extent = Extent::next(direction, from, to, self.info.granule);
        let (buffer, extent) = self.buffers.take(active, extent)?;
        let (data_offset, data_len) = (active.begun, extent.data_len());
        let merge = direction == TransferDirection::Write && extent.is_partial();
        let piece = Piece { request: id, data_offset, data_len, lead: extent.lead, merge };
        let direction = if merge { TransferDirection::Read } else { direction };
        active.begun += data_len as u64;
        active.in_flight += 1;
        self.transfers += 1;
        Some(Transfer { direction, offset: extent.device_offset, len: extent.device_len, buffer, piece })
    }
}
