//! The device's duty to the driver: every popped chain comes back exactly once.

use std::sync::atomic::Ordering;

use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend};

use crate::ring::SplitRing;

/// The last byte of a request, `VIRTIO_BLK_S_*` (virtio 1.2, 5.2.6).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Status {
    /// The request was carried out.
    Ok = 0,
    /// The device or the request's range failed.
    IoErr = 1,
    /// The device does not know the request or one of its flags.
    Unsupp = 2,
}

/// A popped chain that has not been returned to the driver.
///
/// Only [`SplitRing`] makes one and only completing uses it up. Dropping it is a bug, caught in
/// debug builds: the driver would wait for that chain for ever. Giving up, because the queue is
/// retired, is the separate act [`abandon`].
///
/// [`abandon`]: PendingChain::abandon
#[derive(Debug)]
#[must_use = "a popped chain must be completed, or its queue retired"]
pub struct PendingChain {
    head: u16,
}

impl PendingChain {
    pub(crate) fn new(head: u16) -> Self {
        Self { head }
    }

    /// Index of the chain's first descriptor: the name the driver and the in-flight region know it
    /// by.
    #[must_use]
    pub fn head(&self) -> u16 {
        self.head
    }

    /// Returns the chain with `used_len` bytes written to its device-writable part. The driver sees
    /// it at the next [`SplitRing::publish`].
    ///
    /// A request that has a status byte is completed by [`Reply::complete`]; this is for a chain
    /// without one.
    pub fn complete(self, ring: &mut SplitRing, used_len: u32) {
        ring.push_used(self.into_head(), used_len);
    }

    /// Gives the chain up without returning it: only right when its queue is retired or reset,
    /// since the driver then takes all its chains back.
    pub fn abandon(self) {
        let _ = self.into_head();
    }

    fn into_head(self) -> u16 {
        let head = self.head;
        std::mem::forget(self);
        head
    }
}

impl Drop for PendingChain {
    fn drop(&mut self) {
        debug_assert!(std::thread::panicking(), "chain {} was dropped without being completed", self.head);
    }
}

/// A request's way back: its chain and the place of its status byte, snapshotted once when the
/// request was parsed.
#[derive(Debug)]
#[must_use = "a request must be answered, or its queue retired"]
pub struct Reply {
    pub(crate) chain: PendingChain,
    pub(crate) status_address: GuestAddress,
}

impl Reply {
    /// Index of the chain's first descriptor.
    #[must_use]
    pub fn head(&self) -> u16 {
        self.chain.head()
    }

    /// Writes the status byte, then returns the chain with a used length of `data_written` (bytes
    /// of the data buffers written, 0 where the request failed or writes none) and the status byte.
    /// The driver sees both at the next [`SplitRing::publish`].
    ///
    /// Where the status byte's memory was removed since the request was parsed, the chain goes back
    /// with length 0: no byte of it was written.
    pub fn complete<M: GuestMemoryBackend>(
        self,
        ring: &mut SplitRing,
        mem: &M,
        status: Status,
        data_written: u32,
    ) {
        // no order of its own: `publish` releases it together with the used element
        let written = mem.store(status as u8, self.status_address, Ordering::Relaxed);
        let used_len = written.map_or(0, |()| data_written.saturating_add(1));
        self.chain.complete(ring, used_len);
    }

    /// Gives the request up without an answer, see [`PendingChain::abandon`].
    pub fn abandon(self) {
        self.chain.abandon();
    }
}
