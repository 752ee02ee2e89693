//! What all workers of a disk share.

use std::sync::Arc;
use std::time::Duration;

use virtio::{DEVICE_ID_LEN, DiskLimits};

use crate::inbox::Inbox;
use crate::metrics::QueueMetrics;
use crate::range_lock::RangeLock;

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
    pub inboxes: Vec<Inbox>,
    /// One a queue.
    pub metrics: Vec<QueueMetrics>,
    /// What requests are checked against.
    pub limits: DiskLimits,
    /// Answer to GET_ID, padded with zeros.
    pub serial: [u8; DEVICE_ID_LEN],
    /// Whether to bounce.
    pub bounce: Bounce,
    /// Longest time to poll before sleeping.
    pub poll: Duration,
}
