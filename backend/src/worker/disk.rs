//! What all workers of a disk share.

use std::sync::Arc;
use std::time::Duration;

use virtio::{DEVICE_ID_LEN, DiskLimits, SECTOR_SIZE};

use crate::device::BlockDevice;
use crate::inbox::Inbox;
use crate::metrics::{Gauge, QueueMetrics};
use crate::worker::message::WorkerMessage;
use crate::worker::range_lock::{RangeLock, Ticket};
use crate::worker::watch::Watch;

/// Whether guest data is copied into stable folios.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bounce {
    /// Every transfer.
    Always,
    /// Only where the guest's buffers are not aligned as the device needs them.
    WhenUnaligned,
}

/// What all workers of a disk share.
#[derive(Debug)]
pub struct Disk<B> {
    /// Its storage.
    pub device: Arc<B>,
    /// Ranges in use, over all queues.
    pub locks: RangeLock,
    /// One a queue.
    pub inboxes: Vec<Inbox<WorkerMessage>>,
    /// One a queue.
    pub metrics: Vec<QueueMetrics>,
    /// What requests are checked against, but for the capacity, which is the device's.
    pub limits: DiskLimits,
    /// The feature bits that the driver has acknowledged.
    pub negotiated: Gauge,
    /// Where its workers say that they have work.
    pub watch: Watch,
    /// Answer to GET_ID, padded with zeros.
    pub serial: [u8; DEVICE_ID_LEN],
    /// Whether to bounce.
    pub bounce: Bounce,
    /// Longest time to poll before sleeping.
    pub poll: Duration,
}

impl<B: BlockDevice> Disk<B> {
    /// Its size now, in sectors of 512 bytes. It grows only while no queue runs.
    pub fn capacity_sectors(&self) -> u64 {
        self.device.info().capacity.get() / SECTOR_SIZE
    }

    /// What requests are checked against now.
    pub fn limits(&self) -> DiskLimits {
        DiskLimits { capacity_sectors: self.capacity_sectors(), ..self.limits }
    }
}

impl<B> Disk<B> {
    /// Gives ranges that queue `queue` held back, as one batch. Requests whose turn comes by it are named to `granted` where
    /// they are of the same queue; the other queues are told by message.
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
            self.inboxes[owner.queue].post(WorkerMessage::Granted(owner.request));
        }
    }
}
