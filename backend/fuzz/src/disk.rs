//! The disk that workers and sessions are tried on.

use std::sync::Arc;
use std::time::Duration;

use stableblk::device::BlockDevice;
use stableblk::inbox::Inbox;
use stableblk::metrics::{DiskMetrics, Gauge, QueueMetrics};
use stableblk::worker::beside::Beside;
use stableblk::worker::disk::{Bounce, Disk};
use stableblk::worker::limits::Limiter;
use stableblk::worker::range_lock::RangeLock;
use stableblk::worker::watch::Watch;
use virtio::{DEVICE_ID_LEN, DiskLimits, RangeLimits};

/// A disk of all that `device` has. Its workers never poll.
pub fn disk<B: BlockDevice>(device: Arc<B>, queues: usize, block_size: u32, read_only: bool) -> Arc<Disk<B>> {
    let limit = Some(RangeLimits { sectors_max: 1 << 20, ranges_max: 1 });
    let limits = DiskLimits {
        capacity_sectors: device.info().capacity.get() / 512,
        block_size,
        read_only,
        discard: limit,
        write_zeroes: limit,
    };
    Arc::new(Disk {
        device,
        locks: RangeLock::default(),
        inboxes: (0..queues).map(|_| Inbox::new().expect("an eventfd")).collect(),
        beside: Beside::new().expect("an eventfd"),
        metrics: (0..queues).map(|_| QueueMetrics::default()).collect(),
        events: DiskMetrics::default(),
        limits,
        limiter: Limiter::none(queues),
        negotiated: Gauge::default(),
        watch: Watch::default(),
        serial: [b'f'; DEVICE_ID_LEN],
        bounce: Bounce::Always,
        poll: Duration::ZERO,
    })
}
