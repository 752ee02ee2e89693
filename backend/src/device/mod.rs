//! Devices: the storage of a disk's blocks, behind one trait.
//!
//! A device has folios and byte offsets; it knows nothing of chains or virtio status. The
//! [`BlockDevice`] is shared; each worker opens a [`DeviceQueue`] of its own, with an io_uring of
//! its own.

mod block_integrity;
pub mod bounce;
mod crash_doubt;
mod damage;
#[cfg(any(test, feature = "test-utils"))]
pub mod faulty;
pub mod growth_error;
pub mod guest_vectors;
mod kernel_pi;
mod leased;
#[cfg(any(test, feature = "test-utils"))]
pub mod mem;
mod memory_file;
#[cfg(any(test, feature = "bench-null"))]
pub mod null;
mod nvme;
mod one_by_one;
mod opaque_metadata;
pub mod operation;
mod own_events;
mod pi_attribute;
mod pi_failure;
mod plain;
mod protection;
mod sidecar;
mod stable_pages;
mod uring;
mod zeroing;

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

pub use block_integrity::{BlockIntegrity, DetectError, Source};
pub use crash_doubt::{CrashDoubt, DoubtfulBytes};
pub use damage::{Damage, seconds_now};
pub use kernel_pi::{KernelPiDevice, KernelPiQueue};
pub use leased::Leased;
pub use nvme::{
    Namespace, NamespaceError, NamespaceFormat, NvmePassthroughDevice, NvmePassthroughQueue, UnusableFormat,
};
pub use one_by_one::OneByOne;
pub use opaque_metadata::UnusableMetadata;
pub(crate) use own_events::OwnEvents;
pub use pi_attribute::NoAttribute;
pub use pi_failure::{PiFailure, PiStatus};
pub use plain::PlainDevice;
pub use protection::{Protection, TupleRule};
pub use sidecar::{SidecarDevice, SidecarOptions};
pub use stable_pages::StablePages;
pub use uring::probe as probe_io_uring;
pub use zeroing::Zeroing;

use crate::device::bounce::Arena;
use crate::device::growth_error::GrowthError;
use crate::device::operation::DeviceOperation;
use crate::metrics::TagLogMetrics;
use crate::storage::durability::Durability;
use crate::storage::size::StorageSize;

/// The properties of a device.
#[derive(Debug, Clone)]
pub struct DeviceInfo {
    /// The size of the device; a multiple of the granule.
    pub capacity: Capacity,
    /// Offsets and lengths of transfers are multiples of this, in bytes: the PI interval or the
    /// alignment of direct I/O, whichever is larger. A power of two.
    pub granule: usize,
    /// The length of the longest transfer, in bytes; whole granules.
    pub transfer_max: usize,
    /// The alignment that addresses and each vector's length must have, in bytes. Folios always
    /// have it.
    pub memory_alignment: usize,
    /// How blocks are protected; `None` for a plain device.
    pub protection: Option<Protection>,
    /// How blocks can be zeroed without writing them.
    pub zeroing: Zeroing,
    /// Bytes that one discard or write zeroes may cover.
    pub zeroing_max: u64,
    /// Whether data written to it can still be made durable.
    pub durability: Durability,
    /// The blocks whose verification has failed.
    pub damage: Damage,
}

impl DeviceInfo {
    /// Bytes of metadata that a folio must hold for each 4096-byte page.
    pub fn metadata_per_page(&self) -> usize {
        self.protection.map_or(0, |protection| protection.metadata_per_page())
    }
}

/// A size in bytes that all clones share. It changes only while no queue is open.
#[derive(Debug, Clone)]
pub struct Capacity(Arc<AtomicU64>);

impl Capacity {
    /// A capacity of `bytes` bytes.
    pub fn new(bytes: u64) -> Self {
        Self(Arc::new(AtomicU64::new(bytes)))
    }

    /// The size now, in bytes.
    pub fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }

    pub(crate) fn grow(&self, bytes: u64) {
        self.0.fetch_max(bytes, Relaxed);
    }
}

/// Where a queue's events come from besides the device. A queue shares these eventfds, so that they
/// stay open for as long as it polls them.
#[derive(Debug, Clone, Copy)]
pub struct EventSources<'a> {
    /// The driver's eventfd.
    pub kick: &'a Arc<OwnedFd>,
    /// The worker's own eventfd, for messages and granted locks.
    pub wake: &'a Arc<OwnedFd>,
}

/// An event that a queue reports to its worker.
#[derive(Debug)]
pub enum Event {
    /// The driver made buffers available.
    Kick,
    /// There are messages, or locks were granted.
    Wake,
    /// An operation has come back, with its result. Success means all of it.
    Done(DeviceOperation, io::Result<()>),
}

/// A disk's storage.
pub trait BlockDevice: Send + Sync + 'static {
    /// A worker's access to it.
    type Queue: DeviceQueue;

    /// The properties of the device.
    fn info(&self) -> &DeviceInfo;

    /// Opens a queue for the calling thread. Buffers of `arena` can be registered.
    fn open_queue(self: &Arc<Self>, arena: &Arena, sources: EventSources<'_>) -> io::Result<Self::Queue>;

    /// As [`Self::open_queue`], but never takes storage over from another host: `None` where it is
    /// not held.
    fn open_queue_if_held(
        self: &Arc<Self>,
        arena: &Arena,
        sources: EventSources<'_>,
    ) -> io::Result<Option<Self::Queue>> {
        self.open_queue(arena, sources).map(Some)
    }

    /// Whether data written to the storage that is open now can still be made durable.
    fn durability(&self) -> Durability {
        self.info().durability.clone()
    }

    /// The damage list of the storage that is open now.
    fn damage(&self) -> Damage {
        self.info().damage.clone()
    }

    /// As [`Self::damage`], but `None` where that is not known now. Does not block.
    fn damage_if_known(&self) -> Option<Damage> {
        Some(self.damage())
    }

    /// The part of the disk that a crash leaves in doubt; `None` where it leaves none, or where
    /// that is not known now. Does not block.
    fn crash_doubt(&self) -> Option<DoubtfulBytes> {
        None
    }

    /// The metrics of its tag intent log; `None` where it has none, or where they are not known
    /// now. Does not block.
    fn tag_log(&self) -> Option<Arc<TagLogMetrics>> {
        None
    }

    /// The first byte at or after `offset` that has to be read to verify the disk: before it, data
    /// and tuples are holes. `None`: there is none. May block.
    fn next_data(&self, offset: u64) -> io::Result<Option<u64>> {
        Ok(Some(offset))
    }

    /// Whether the storage is held now, so that opening a queue does not take it over from another
    /// host.
    fn is_held(&self) -> bool {
        true
    }

    /// Measures its storage, which may have grown, or been cut off, since it was opened.
    fn measure(&self) -> io::Result<StorageSize> {
        Ok(StorageSize { bytes: self.info().capacity.get(), is_extensible: false })
    }

    /// Does the work before [`Self::grow`] to `size` bytes that takes long. Queues may be open. It
    /// may be called again after it has failed.
    fn prepare_growth(&self, _size: u64) -> Result<(), GrowthError> {
        Ok(())
    }

    /// Makes [`Self::prepare_growth`] end soon, with an error, because the storage is about to be
    /// handed over.
    fn interrupt_growth(&self) {}

    /// Makes the device have `size` bytes, durably; more than before. No queue is open.
    fn grow(&self, _size: u64) -> Result<(), GrowthError> {
        Err(GrowthError::Unsupported)
    }

    /// Lets no queue be opened from now on, until [`Self::thaw`]. No queue is open.
    fn freeze(&self) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }

    /// Makes everything durable after [`Self::freeze`], and closes the sidecar. The storage stays
    /// locked. When it fails, the device is frozen no more.
    fn close_frozen(&self) -> io::Result<()> {
        Ok(())
    }

    /// Ends what [`Self::freeze`] began. When it fails, the next queue that is opened tries again.
    fn thaw(&self) -> io::Result<()> {
        Ok(())
    }

    /// Whether no queue can be opened, because of [`Self::freeze`]. Does not block.
    fn is_frozen(&self) -> bool {
        false
    }

    /// Makes everything durable after the last queue is closed, for a clean stop.
    fn close(&self) -> io::Result<()>;

    /// Closes and releases it, for another host to open it, while no queue is open. The next queue
    /// that is opened here takes it over again, or fails. A device that no other host can open does
    /// nothing.
    ///
    /// When it fails, other hosts can open the storage all the same, as after a crash.
    fn hand_over(&self) -> io::Result<()> {
        Ok(())
    }
}

/// A worker's access to a device. Dropping it waits for everything in flight.
pub trait DeviceQueue {
    /// Takes an operation, and the buffer in it, until [`Self::reap`] returns it.
    fn submit(&mut self, operation: DeviceOperation);

    /// Gives submissions to the kernel; sleeps until there is an event when `wait`. The only
    /// blocking call of a worker.
    fn enter(&mut self, wait: bool) -> io::Result<()>;

    /// As [`Self::enter`], and sleeps until there is an event, but no longer than `limit`.
    fn enter_for(&mut self, limit: Duration) -> io::Result<()>;

    /// Whether there is a reason to enter or reap. Makes no system call.
    fn has_work(&mut self) -> bool;

    /// Notes from now on when a request gets leave to change blocks, where it needs that; or stops
    /// to note it.
    fn note_grants(&mut self, _on: bool) {}

    /// The requests that got leave since the last call, and when.
    fn take_grants(&mut self) -> Vec<(usize, Instant)> {
        Vec::new()
    }

    /// The next event.
    fn reap(&mut self) -> Option<Event>;
}
