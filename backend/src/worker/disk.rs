//! The disk that its workers share.

use std::sync::Arc;
use std::time::Duration;

use virtio::{DEVICE_ID_LEN, DiskLimits, SECTOR_SIZE};

use crate::device::BlockDevice;
use crate::inbox::Inbox;
use crate::metrics::{DiskMetrics, Gauge, QueueMetrics};
use crate::worker::beside::Beside;
use crate::worker::limits::Limiter;
use crate::worker::message::WorkerMessage;
use crate::worker::range_lock::{RangeLock, Ticket};
use crate::worker::watch::Watch;

/// Which guest data is copied into stable folios.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bounce {
    /// That of every transfer.
    Always,
    /// Only that in buffers which are not aligned as the device needs them.
    WhenUnaligned,
}

/// A disk, as all its workers share it.
#[derive(Debug)]
pub struct Disk<B> {
    /// The storage of the disk.
    pub device: Arc<B>,
    /// Ranges in use, over all queues.
    pub locks: RangeLock,
    /// The inbox of each queue's worker.
    pub inboxes: Vec<Inbox<WorkerMessage>>,
    /// Work beside the queues. Its tasks have the numbers of queues that follow the last.
    pub beside: Beside,
    /// The metrics of each queue.
    pub metrics: Vec<QueueMetrics>,
    /// Metrics of the disk over all queues.
    pub events: DiskMetrics,
    /// The limits that requests are checked against, except the capacity, which is the device's.
    pub limits: DiskLimits,
    /// The feature bits that the driver has acknowledged.
    pub negotiated: Gauge,
    /// The limits of requests and bytes a second.
    pub limiter: Limiter,
    /// Notified by its workers when they have work.
    pub watch: Watch,
    /// The answer to GET_ID, padded with zeros.
    pub serial: [u8; DEVICE_ID_LEN],
    /// Which transfers are copied into folios.
    pub bounce: Bounce,
    /// The longest time that a worker polls before it sleeps.
    pub poll: Duration,
}

impl<B: BlockDevice> Disk<B> {
    /// The size of the disk now, in sectors of 512 bytes. It grows only while no queue runs.
    pub fn capacity_sectors(&self) -> u64 {
        self.device.info().capacity.get() / SECTOR_SIZE
    }

    /// The limits that requests are checked against now.
    pub fn limits(&self) -> DiskLimits {
        DiskLimits { capacity_sectors: self.capacity_sectors(), ..self.limits }
    }
}

impl<B> Disk<B> {
    /// Releases ranges that queue `queue` held, as one batch. Calls `granted` for each request of
    /// the same queue whose turn comes by that; workers of other queues get a message.
    pub fn release(
        &self,
        queue: usize,
        tickets: impl ExactSizeIterator<Item = Ticket>,
        mut granted: impl FnMut(usize),
    ) {
        if tickets.len() == 0 {
            return;
        }
        let mut others = Vec::new();
        {
            let mut table = self.locks.table();
            for ticket in tickets {
                table.release(ticket, |owner| {
                    if owner.queue == queue {
                        granted(owner.request);
                    } else {
                        others.push(owner);
                    }
                });
            }
        }
        // not under the table's lock: it is a system call
        for owner in others {
            let inbox = self.inboxes.get(owner.queue);
            let inbox = inbox.unwrap_or_else(|| self.beside.inbox(owner.queue - self.inboxes.len()));
            inbox.post(WorkerMessage::Granted(owner.request));
        }
    }
}
