//! A queue of the device for work beside the queues: one range and one transfer at a time.

use std::io;
use std::ops::Range;

use super::place::Task;
use crate::device::bounce::{BounceFolio, FolioPool};
use crate::device::operation::{DeviceOperation, Piece, Transfer, TransferBuffer, TransferDirection};
use crate::device::{BlockDevice, DeviceInfo, DeviceQueue, Event, EventSources, OwnEvents};
use crate::worker::disk::Disk;
use crate::worker::message::WorkerMessage;
use crate::worker::range_lock::{RangeAccess, RangeOwner, Ticket};

/// Access to the device for one task.
#[derive(Debug)]
pub(super) struct OwnQueue<'d, B: BlockDevice> {
    disk: &'d Disk<B>,
    info: DeviceInfo,
    task: Task,
    // before the pool, whose memory it may have registered
    queue: B::Queue,
    pool: FolioPool,
    /// How many ranges were asked for.
    asked: usize,
}

/// A range of the disk that is held. It is given back to the queue.
#[derive(Debug)]
#[must_use]
pub(super) struct HeldRange(Ticket);

impl<'d, B: BlockDevice> OwnQueue<'d, B> {
    /// Opens a queue; `None` while another host has the disk.
    pub(super) fn open(disk: &'d Disk<B>, task: Task) -> io::Result<Option<Self>> {
        let info = disk.device.info().clone();
        let pool = FolioPool::reserve(info.metadata_per_page())?;
        let inbox = disk.beside.inbox(task as usize);
        // of an earlier queue
        inbox.take();
        let events = OwnEvents::new()?;
        let sources = EventSources { wake: inbox.shared_wake_fd(), ..events.sources() };
        let Some(queue) = disk.device.open_queue_if_held(pool.arena(), sources)? else {
            return Ok(None);
        };
        let info = DeviceInfo { damage: disk.device.damage(), ..info };
        Ok(Some(Self { disk, info, task, queue, pool, asked: 0 }))
    }

    pub(super) fn info(&self) -> &DeviceInfo {
        &self.info
    }

    /// Waits for bytes `range`, whole granules, and holds them. `None`: the device is needed alone
    /// before that.
    pub(super) fn hold(&mut self, range: &Range<u64>, access: RangeAccess) -> io::Result<Option<HeldRange>> {
        let shift = self.info.granule.ilog2();
        let granules = range.start >> shift..range.end.div_ceil(self.info.granule as u64);
        let queue = self.disk.inboxes.len() + self.task as usize;
        self.asked += 1;
        let owner = RangeOwner { queue, request: self.asked };
        let (ticket, mut is_held) = self.disk.locks.table().acquire(granules, access, owner);
        while !is_held {
            let event = match self.next_event() {
                Ok(event) => event,
                Err(error) => {
                    self.release(HeldRange(ticket));
                    return Err(error);
                }
            };
            if matches!(event, Event::Wake) {
                is_held = self.is_granted();
            }
            if !is_held && self.disk.beside.is_closed() {
                self.release(HeldRange(ticket));
                return Ok(None);
            }
        }
        Ok(Some(HeldRange(ticket)))
    }

    /// Gives a range back.
    pub(super) fn release(&self, range: HeldRange) {
        let queue = self.disk.inboxes.len() + self.task as usize;
        self.disk.release(queue, [range.0].into_iter(), |_| {});
    }

    /// A folio of `len` bytes.
    pub(super) fn folio(&mut self, len: usize) -> io::Result<BounceFolio> {
        self.pool.take(len, len).ok_or_else(|| io::ErrorKind::OutOfMemory.into())
    }

    pub(super) fn put(&mut self, folio: BounceFolio) {
        self.pool.put(folio);
    }

    /// Moves `len` bytes between byte `offset` of the device and `folio`. Returns the transfer,
    /// which has the folio, with its result.
    pub(super) fn transfer(
        &mut self,
        direction: TransferDirection,
        offset: u64,
        len: usize,
        folio: BounceFolio,
    ) -> io::Result<(Transfer, io::Result<()>)> {
        let piece = Piece { request: 0, data_offset: 0, data_len: len, lead: 0, merge: false };
        let transfer = Transfer::new(direction, offset, len, TransferBuffer::Bounce(folio), piece);
        self.submit(transfer)
    }

    /// Does a transfer, and returns it with its result.
    pub(super) fn submit(&mut self, transfer: Transfer) -> io::Result<(Transfer, io::Result<()>)> {
        self.queue.submit(DeviceOperation::Transfer(transfer));
        loop {
            if let Event::Done(DeviceOperation::Transfer(transfer), result) = self.next_event()? {
                return Ok((transfer, result));
            }
        }
    }

    /// Makes the writes so far durable.
    pub(super) fn flush(&mut self) -> io::Result<()> {
        self.queue.submit(DeviceOperation::Flush { request: 0 });
        loop {
            if let Event::Done(DeviceOperation::Flush { .. }, result) = self.next_event()? {
                return result;
            }
        }
    }

    /// Takes back the folio of a transfer that is over.
    pub(super) fn take_back(&mut self, transfer: Transfer) {
        if let TransferBuffer::Bounce(folio) = transfer.into_buffer() {
            self.put(folio);
        }
    }

    fn is_granted(&self) -> bool {
        let messages = self.disk.beside.inbox(self.task as usize).take();
        messages.iter().any(|message| matches!(message, WorkerMessage::Granted(id) if *id == self.asked))
    }

    fn next_event(&mut self) -> io::Result<Event> {
        loop {
            if let Some(event) = self.queue.reap() {
                return Ok(event);
            }
            self.queue.enter(true)?;
        }
    }
}
