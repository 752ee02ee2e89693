//! The state of a session: what the front-end has set up.
//!
//! The session owns every queue that is stopped. A worker owns its queue while it runs, and gives
//! it back. So the session never waits for a lock that a busy worker holds, and memory is taken
//! away only while no worker uses it. [`super::run_queues`] starts and stops the workers.

use std::sync::Arc;
use std::time::Instant;

use vhost::vhost_user::message::VhostUserProtocolFeatures;
use virtio::{ConfigSpace, Features};

use super::backend_channel::BackendChannel;
use super::error::{SessionResult, refuse};
use super::notice::{DoneWork, Notice};
use super::offer::{FRONTEND_FEATURES, Offer};
use super::queue::Queue;
use crate::device::BlockDevice;
use crate::guest::inflight_region::{InflightLimits, InflightRegion};
use crate::guest::memory_table::MemoryTable;
use crate::guest::sigbus::{self, Loss};
use crate::inbox::Inbox;
use crate::worker::disk::Disk;

#[derive(Debug)]
pub(super) struct Session<B> {
    pub(super) disk: Arc<Disk<B>>,
    pub(super) offer: Offer,
    /// Where the workers of this session post their end.
    pub(super) inbox: Arc<Inbox<Notice>>,
    pub(super) owned: bool,
    pub(super) acked: u64,
    /// `VHOST_F_LOG_ALL` was acknowledged.
    pub(super) migrating: bool,
    pub(super) protocol_features: VhostUserProtocolFeatures,
    /// The device status field (virtio 1.2, 2.1), as the front-end set it.
    pub(super) status: u8,
    pub(super) memory: MemoryTable,
    pub(super) inflight: Option<Arc<InflightRegion>>,
    pub(super) queues: Vec<Queue>,
    /// The channel on which the front-end takes our requests, if there is one.
    pub(super) channel: Option<BackendChannel>,
    /// The number of mappings that had been lost before this session.
    pub(super) losses: u64,
    /// Since when a queue that should run has its ring outside of the shared memory.
    pub(super) unshared_since: Option<Instant>,
}

impl<B: BlockDevice> Session<B> {
    pub(super) fn new(disk: Arc<Disk<B>>, offer: Offer, inbox: Arc<Inbox<Notice>>) -> Self {
        let queues = disk.inboxes.iter().map(|_| Queue::default()).collect();
        let memory_slots = offer.memory_slots;
        Self {
            disk,
            offer,
            inbox,
            owned: false,
            acked: 0,
            migrating: false,
            protocol_features: VhostUserProtocolFeatures::empty(),
            status: 0,
            memory: MemoryTable::new(memory_slots),
            inflight: None,
            queues,
            channel: None,
            losses: sigbus::losses(),
            unshared_since: None,
        }
    }

    /// The configuration space as it is now.
    pub(super) fn config(&self) -> ConfigSpace {
        ConfigSpace { capacity_sectors: self.disk.capacity_sectors(), ..self.offer.config }
    }

    /// Does `work` while no queue runs, and notifies the front-end if it has changed the
    /// configuration space. Fails when a queue cannot be used any more.
    pub(super) fn work_while_stopped(
        &mut self,
        work: Box<dyn FnOnce() -> DoneWork + Send>,
    ) -> SessionResult<()> {
        let mut done = None;
        let stopped = self.while_stopped(|_| {
            done = Some(work());
            Ok(())
        });
        if let Some(DoneWork { changed, report }) = done {
            if let (true, Some(channel)) = (changed, &self.channel) {
                channel.config_changed();
            }
            report();
        }
        stopped
    }

    /// The shared memory that is lost, with the cause. To be asked after each use of it.
    pub(super) fn lost_memory(&mut self) -> Option<(String, Loss)> {
        if sigbus::losses() == self.losses {
            return None;
        }
        let mut regions = self.memory.losses();
        if let Some((address, loss)) = regions.next() {
            return Some((format!("the memory region at guest address {address:#x}"), loss));
        }
        let inflight = self.inflight.as_ref().and_then(|region| region.loss());
        inflight
            .map(|loss| ("the in-flight region".to_owned(), loss))
            .or_else(|| self.memory.dirty_log().loss().map(|loss| ("the dirty log".to_owned(), loss)))
    }

    /// Whether the front-end has claimed the session, or accepted features.
    pub(super) fn has_negotiated(&self) -> bool {
        self.owned || self.acked != 0 || !self.protocol_features.is_empty()
    }

    /// Refuses a message that needs `feature` unless that was negotiated.
    pub(super) fn has(&self, feature: VhostUserProtocolFeatures) -> SessionResult<()> {
        if self.protocol_features.contains(feature) {
            return Ok(());
        }
        let names: Vec<_> = feature.iter_names().map(|(name, _)| name).collect();
        Err(refuse(format!("the protocol feature {} was not negotiated", names.join(", "))))
    }

    /// `VHOST_USER_SET_STATUS`: zero resets the device, as it does for a driver.
    pub(super) fn set_status(&mut self, status: u8) -> SessionResult<()> {
        self.has(VhostUserProtocolFeatures::STATUS)?;
        if status == 0 {
            self.reset()?;
        }
        self.status = status;
        Ok(())
    }

    /// Resets the device to its state before a driver has found it. The front-end keeps its
    /// ownership, its memory, and what it negotiated for itself.
    pub(super) fn reset(&mut self) -> SessionResult<()> {
        self.stop_all()?;
        self.queues.iter_mut().for_each(Queue::reset);
        // its requests are done, and the next driver has a region of its own
        self.inflight = None;
        self.acked &= FRONTEND_FEATURES.bits();
        self.disk.negotiated.set(self.acked);
        self.offer.config.writeback = true;
        self.status = 0;
        Ok(())
    }

    pub(super) fn queue(&mut self, index: u32) -> SessionResult<&mut Queue> {
        self.queues.get_mut(index as usize).ok_or_else(|| refuse(format!("there is no queue {index}")))
    }

    pub(super) fn acked(&self) -> Features {
        Features::from_bits_truncate(self.acked)
    }

    /// Whether writes may be volatile until a flush (virtio 1.2, 5.2.5.2 and 5.2.6.2): as the
    /// driver has set it, or else whether the driver can flush at all.
    pub(super) fn is_writeback(&self) -> bool {
        let acked = self.acked();
        if acked.contains(Features::CONFIG_WCE) {
            self.offer.config.writeback
        } else {
            acked.contains(Features::FLUSH)
        }
    }

    pub(super) fn inflight_limits(&self) -> InflightLimits {
        InflightLimits { queues: self.queues.len(), queue_size: self.offer.queue_size_max }
    }
}
