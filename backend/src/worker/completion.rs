//! `verify -> copy_from -> complete`: operations that came back become answers.

use std::{fmt, io};

use virtio::{Request, Status};

use super::QueueWorker;
use super::failure::Failure;
use super::finished_request::FinishedRequest;
use super::slow::Timed;
use crate::device::operation::{DeviceOperation, Transfer, TransferDirection};
use crate::device::{BlockDevice, DeviceQueue};
use crate::worker::request::{ActiveRequest, Next, RequestWork};

impl<B: BlockDevice> QueueWorker<B> {
    /// A transfer has come back.
    pub(super) fn arrive(&mut self, mut transfer: Transfer, result: io::Result<()>) {
        let (data, active) = (self.data_path(), &self.requests.active[transfer.piece().request]);
        data.mark_written(active, &transfer);
        if let Err(error) = result {
            self.note_refused(&transfer, &error);
            return self.end_transfer(transfer, Some(error.into()));
        }
        if let Err(lost) = data.check_unbounced(active, &transfer) {
            return self.end_transfer(transfer, Some(lost));
        }
        self.look_for_rewrite(&transfer);
        let (data, active) = (self.data_path(), &self.requests.active[transfer.piece().request]);
        let outcome = match (transfer.direction(), transfer.piece().merge) {
            (TransferDirection::Write, _) => {
                self.clear_damage_of(&transfer);
                Ok(())
            }
            (TransferDirection::Read, false) => match data.verify(active, &mut transfer) {
                Ok(()) => return self.keep(transfer),
                Err(failure) => {
                    self.note_mismatch(&transfer, &failure);
                    Err(failure)
                }
            },
            (TransferDirection::Read, true) => match data.merge(active, &mut transfer) {
                Ok(()) => return self.device.submit(DeviceOperation::Transfer(transfer)),
                Err(failure) => {
                    self.note_mismatch(&transfer, &failure);
                    self.explain_partial_write(&failure);
                    Err(failure)
                }
            },
        };
        self.end_transfer(transfer, outcome.err());
    }

    /// Keeps a verified part of a read until the others have come back: the guest gets all or
    /// nothing, and gets it in the order of its segments, which may name the same page. Only a read
    /// that the free folios cannot hold is given in parts.
    fn keep(&mut self, transfer: Transfer) {
        let id = transfer.piece().request;
        if let Some(active) = self.requests.active.get_mut(id) {
            active.keep(transfer);
        }
        self.finish_if_done(id);
    }

    /// `copy_from`, for all parts of a read that are held.
    pub(super) fn deliver(&mut self, id: usize) {
        let Some(active) = self.requests.active.get_mut(id) else {
            return;
        };
        for part in active.take_parts() {
            let active = &self.requests.active[id];
            // after a part has failed, the guest gets no other part
            let copied = match active.status {
                Status::Ok => self.data_path().copy_from(active, &part),
                _ => Ok(()),
            };
            self.put_back(part, copied.err());
        }
    }

    /// A transfer is over, well or not.
    pub(super) fn end_transfer(&mut self, transfer: Transfer, failure: Option<Failure>) {
        let id = transfer.piece().request;
        self.put_back(transfer, failure);
        if let Some(active) = self.requests.active.get_mut(id) {
            active.end();
        }
        self.finish_if_done(id);
    }

    /// Notes how a transfer ended and takes its buffer back.
    fn put_back(&mut self, transfer: Transfer, failure: Option<Failure>) {
        if let Some(failure) = failure {
            let (direction, offset, len) = (transfer.direction(), transfer.offset(), transfer.len());
            let what = format_args!("{direction} of {len} bytes at byte {offset}");
            self.fail(transfer.piece().request, &failure, what);
        }
        self.buffers.put(transfer.into_buffer());
    }

    fn fail(&mut self, id: usize, failure: &Failure, what: fmt::Arguments<'_>) {
        let Some(active) = self.requests.active.get_mut(id) else {
            return;
        };
        active.status = failure.status();
        let counter = failure.counter(self.metrics());
        if counter.add_logged() {
            let (queue, total) = (self.ring.vring.index, counter.get());
            tracing::error!(queue, total, "{what} failed: {failure}");
        }
    }

    /// An operation without data has come back.
    pub(super) fn end_plain(&mut self, id: usize, what: &str, result: io::Result<()>) {
        if let Err(error) = result {
            self.fail(id, &error.into(), format_args!("{what}"));
        }
        if let Some(active) = self.requests.active.get_mut(id) {
            active.end();
        }
        self.finish_if_done(id);
    }

    /// `complete`: when nothing is in flight for the request and nothing is left to begin.
    pub(super) fn finish_if_done(&mut self, id: usize) {
        if self.requests.active.get(id).is_some_and(ActiveRequest::is_deliverable) {
            self.deliver(id);
        }
        let writethrough = self.ring.vring.writethrough;
        match self.requests.active.get_mut(id).map(|active| active.next(writethrough)) {
            None | Some(Next::Wait) => {}
            Some(Next::Flush) => self.device.submit(DeviceOperation::Flush { request: id }),
            Some(Next::Answer) => self.finish(id),
        }
    }

    fn finish(&mut self, id: usize) {
        let ActiveRequest { request, popped, work, start, len, ticket, status, stages, .. } =
            self.requests.active.remove(id);
        if let Some(stages) = stages {
            let succeeded = status == Status::Ok;
            self.report_if_slow(&Timed { work, offset: start, len, succeeded, stages });
        }
        self.requests.released.extend(ticket);
        self.metrics().finished.add(1);
        if status == Status::Ok {
            self.requests.finished.push(FinishedRequest { work, len, popped });
        }
        let data_written = match (work, status) {
            // a chain can name the same memory often enough to pass 4 GiB; the used length has 32
            // bits
            (RequestWork::Read, Status::Ok) => u32::try_from(len).unwrap_or(u32::MAX - 1),
            _ => 0,
        };
        self.answer(request, status, data_written);
    }

    /// Returns a request to the driver, which sees it with the next batch that is published.
    pub(super) fn answer(&mut self, request: Request, status: Status, data_written: u32) {
        request.reply.complete(&mut self.ring.vring.ring, &*self.memory, status, data_written);
    }
}
