//! A queue as the front-end has set it up.

use virtio::SplitRing;

use crate::guest::dirty_log::UsedRingLog;
use crate::guest::eventfd::{CallFd, KickFd};
use crate::guest::inflight_region::InflightQueue;

/// The queue that a worker serves, with the choices of front-end and driver.
#[derive(Debug)]
pub struct Vring {
    /// The index of the queue.
    pub index: usize,
    /// The ring, at the place where its last owner left it.
    pub ring: SplitRing,
    /// The eventfd by which the driver signals.
    pub kick: KickFd,
    /// The eventfd by which we signal used buffers; `None` when the driver polls.
    pub call: Option<CallFd>,
    /// The eventfd by which we signal that the queue is given up.
    pub error: Option<CallFd>,
    /// Where requests in flight are noted for a successor, when the front-end keeps such a region.
    pub inflight: Option<InflightQueue>,
    /// Whether writes are made stable before they complete, because no flush was negotiated.
    pub writethrough: bool,
    /// Where writes to the used ring are marked besides the ring's own place.
    pub used_log: Option<UsedRingLog>,
    /// Whether the ring was found broken. No worker takes a chain from it until it is set up again.
    pub retired: bool,
    /// Whether memory that the front-end shares was lost. That ends the worker.
    pub memory_lost: bool,
}
