//! `take folio -> copy_to -> generate -> submit`: requests become operations of the device.

use std::io;

use super::QueueWorker;
use crate::device::operation::{DeviceOperation, Piece, Transfer, TransferDirection, ZeroBy};
use crate::device::{BlockDevice, DeviceQueue};
use crate::worker::extent::{self, Extent};
use crate::worker::request::{ActiveRequest, RequestWork};
use crate::worker::stages::Stage;

/// Requests launched in one turn, in bytes, give or take the last: large ones are a turn's work
/// sooner.
const TURN_SIZE: u64 = 256 << 10;

/// Whether all operations of a request could be begun.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Launch {
    Whole,
    /// No folio is free. The rest follows when one is.
    Starved,
}

impl<B: BlockDevice> QueueWorker<B> {
    /// `take folio -> copy_to -> generate -> submit`, for as many requests as there are folios for,
    /// or as are a turn's work.
    pub(super) fn launch(&mut self) -> io::Result<()> {
        let mut launched = 0;
        while launched < TURN_SIZE
            && let Some(&id) = self.requests.ready.front()
        {
            match self.launch_request(id)? {
                Launch::Whole => {
                    self.requests.ready.pop_front();
                    if let Some(active) = self.requests.active.get_mut(id) {
                        active.end_launch();
                        launched += active.len;
                    }
                    self.finish_if_done(id);
                }
                Launch::Starved => {
                    if !self.starved {
                        self.starved = true;
                        self.metrics().starved.add(1);
                    }
                    // The folios may be full of this read's own parts, with no operation in flight
                    // whose completion would bring the worker back here.
                    if !self.deliver_if_held(id) {
                        return Ok(());
                    }
                }
            }
        }
        self.starved = false;
        Ok(())
    }

    fn launch_request(&mut self, id: usize) -> io::Result<Launch> {
        if let Some(active) = self.requests.active.get_mut(id) {
            active.start_launch();
            if active.work == RequestWork::Flush {
                active.begin(0);
                self.device.submit(DeviceOperation::Flush { request: id });
            }
        }
        while let Some(active) = self.requests.active.get_mut(id)
            && let Some(data_offset) = active.next_to_begin()
        {
            let (from, to) = (active.start + data_offset, active.start + active.len);
            if self.buffers.is_at_limit() {
                active.pause_launch();
                return Ok(Launch::Starved);
            }
            if let RequestWork::Zero(by @ (ZeroBy::PunchHole | ZeroBy::ZeroRange | ZeroBy::Deallocate)) =
                active.work
                && let Some(len) = extent::whole_granules(from, to, self.info.granule)
            {
                active.begin(len);
                self.device.submit(DeviceOperation::Zero { offset: from, len, by, request: id });
                continue;
            }
            let Some(transfer) = self.begin_transfer(id, data_offset) else {
                return Ok(Launch::Starved);
            };
            self.fill_and_submit(transfer);
            if self.buffers.in_use() == 1 && self.requests.active[id].next_to_begin().is_some() {
                self.start_early()?;
            }
        }
        Ok(Launch::Whole)
    }

    /// Finds memory for the part of a request that starts at byte `data_offset` of its data.
    /// `None`: no folio is free, so its launch pauses.
    fn begin_transfer(&mut self, id: usize, data_offset: u64) -> Option<Transfer> {
        let active = self.requests.active.get_mut(id)?;
        let (from, to) = (active.start + data_offset, active.start + active.len);
        let direction =
            if active.work == RequestWork::Read { TransferDirection::Read } else { TransferDirection::Write };
        let extent = Extent::next(direction, from, to, self.info.granule);
        let taken = self.buffers.take(self.memory.regions(), active, data_offset, extent);
        let Some((buffer, extent)) = taken else {
            active.pause_launch();
            return None;
        };
        let data_len = extent.data_len();
        let merge = direction == TransferDirection::Write && extent.is_partial();
        active.reach(Stage::Folio);
        let piece = Piece { request: id, data_offset, data_len, lead: extent.lead, merge };
        let direction = if merge { TransferDirection::Read } else { direction };
        active.begin(data_len as u64);
        Some(Transfer::new(direction, extent.device_offset, extent.device_len, buffer, piece))
    }

    fn fill_and_submit(&mut self, mut transfer: Transfer) {
        let filled = match transfer.direction() {
            TransferDirection::Read => Ok(()),
            TransferDirection::Write => {
                self.data_path().fill(&self.requests.active[transfer.piece().request], &mut transfer)
            }
        };
        match filled {
            Ok(()) => self.device.submit(DeviceOperation::Transfer(transfer)),
            Err(failure) => self.end_transfer(transfer, Some(failure)),
        }
    }

    /// Gives an idle device the first part of a request whose other parts are still being begun. A
    /// device that serves it at once, from memory, leaves the folio hot in the cache for the next
    /// part. A device that takes its time works while the others are copied.
    fn start_early(&mut self) -> io::Result<()> {
        let entered = self.device.enter(false);
        self.reap();
        entered
    }

    /// Gives the guest the parts of a read that are held, if all that were begun are. Whether it
    /// did.
    fn deliver_if_held(&mut self, id: usize) -> bool {
        let is_deliverable = self.requests.active.get(id).is_some_and(ActiveRequest::is_deliverable);
        if is_deliverable {
            self.deliver(id);
        }
        is_deliverable
    }
}
