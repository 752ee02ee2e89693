//! `verify -> copy_from -> complete`: operations that came back become answers.

use std::{fmt, io};

use virtio::{Request, Status};

use super::QueueWorker;
use super::failure::Failure;
use super::finished_request::Done;
use crate::device::operation::{DeviceOperation, Transfer, TransferDirection};
use crate::device::{BlockDevice, DeviceQueue};
use crate::worker::request::{Active, Work};

impl<B: BlockDevice> QueueWorker<B> {
    pub(super) fn arrive(&mut self, mut transfer: Transfer, result: io::Result<()>) {
        self.data.mark_written(&self.requests[transfer.piece.request], &transfer);
        if let Err(error) = result {
            return self.end_transfer(transfer, Some(error.into()));
        }
        let active = &self.requests[transfer.piece.request];
        if let Err(lost) = self.data.check_unbounced(active, &transfer) {
            return self.end_transfer(transfer, Some(lost));
        }
        let outcome = match (transfer.direction, transfer.piece.merge) {
            (TransferDirection::Write, _) => Ok(()),
            (TransferDirection::Read, false) => match self.data.verify(active, &mut transfer) {
                Ok(()) => return self.keep(transfer),
                Err(failure) => Err(failure),
            },
            (TransferDirection::Read, true) => match self.data.merge(active, &mut transfer) {
                Ok(()) => return self.device.submit(DeviceOperation::Transfer(transfer)),
                Err(failure) => Err(failure),
            },
        };
        self.end_transfer(transfer, outcome.err());
    }

    /// Keeps a verified part of a read until the others are there too: the guest gets all or nothing, and gets it in the
    /// order of its segments, which may name the same page. Only a read that the free folios cannot hold is given in parts.
    fn keep(&mut self, transfer: Transfer) {
        let id = transfer.piece.request;
        if let Some(active) = self.requests.get_mut(id) {
            active.arrived.push(transfer);
        }
        self.finish_if_done(id);
    }

    /// `copy_from`, for all parts of a read that have arrived.
    pub(super) fn deliver(&mut self, id: usize) {
        let Some(active) = self.requests.get_mut(id) else {
            return;
        };
        let mut arrived = std::mem::take(&mut active.arrived);
        arrived.sort_unstable_by_key(|transfer| transfer.piece.data_offset);
        for transfer in arrived {
            let active = &self.requests[id];
            // nothing more of a read of which a part has failed
            let copied = match active.status {
                Status::Ok => self.data.copy_from(active, &transfer),
                _ => Ok(()),
            };
            self.put_back(transfer, copied.err());
        }
    }

    pub(super) fn end_transfer(&mut self, transfer: Transfer, failure: Option<Failure>) {
        let id = transfer.piece.request;
        self.put_back(transfer, failure);
        self.finish_if_done(id);
    }

    /// Takes leave of a transfer.
    fn put_back(&mut self, transfer: Transfer, failure: Option<Failure>) {
        let id = transfer.piece.request;
        self.transfers -= 1;
        if let Some(failure) = failure {
            let Transfer { direction, offset, len, .. } = transfer;
            self.fail(id, &failure, format_args!("{direction} of {len} bytes at byte {offset}"));
        }
        self.buffers.put(transfer.buffer);
        if let Some(active) = self.requests.get_mut(id) {
            active.in_flight -= 1;
        }
    }

    fn fail(&mut self, id: usize, failure: &Failure, what: fmt::Arguments<'_>) {
        let Some(active) = self.requests.get_mut(id) else {
            return;
        };
        active.status = failure.status();
        let counter = failure.counter(self.metrics());
        if counter.add_logged() {
            tracing::error!(queue = self.vring.index, total = counter.get(), "{what} failed: {failure}");
        }
    }

    /// An operation without data has come back.
    pub(super) fn end_plain(&mut self, id: usize, what: &str, result: io::Result<()>) {
        if let Err(error) = result {
            self.fail(id, &error.into(), format_args!("{what}"));
        }
        if let Some(active) = self.requests.get_mut(id) {
            active.in_flight -= 1;
        }
        self.finish_if_done(id);
    }

    /// `complete`: when nothing is in flight for the request and nothing is to come.
    pub(super) fn finish_if_done(&mut self, id: usize) {
        if self.cutting != Some(id) && self.requests.get(id).is_some_and(Active::is_deliverable) {
            self.deliver(id);
        }
        let Some(active) = self.requests.get_mut(id) else {
            return;
        };
        if active.launching || active.in_flight > 0 {
            return;
        }
        let changed = matches!(active.work, Work::Write | Work::Zero(_));
        if changed && self.vring.writethrough && !active.flushed && active.status == Status::Ok {
            active.flushed = true;
            active.in_flight = 1;
            return self.device.submit(DeviceOperation::Flush { request: id });
        }
        let Some(Active { request, popped, work, len, ticket, status, .. }) = self.requests.try_remove(id)
        else {
            return;
        };
        self.released.extend(ticket);
        self.metrics().finished.add(1);
        if status == Status::Ok {
            self.done.push(FinishedRequest { work, len, popped });
        }
        let data_written = match (work, status) {
            // a chain can name the same memory often enough to pass 4 GiB; the used length has 32 bits
            (Work::Read, Status::Ok) => u32::try_from(len).unwrap_or(u32::MAX - 1),
            _ => 0,
        };
        self.answer(request, status, data_written);
    }

    pub(super) fn answer(&mut self, request: Request, status: Status, data_written: u32) {
        request.reply.complete(&mut self.vring.ring, &*self.memory, status, data_written);
    }
}
