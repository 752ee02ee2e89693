//! The effect of each message of the front-end, by the vhost-user specification.
//!
//! The `vhost` crate calls these functions, so their errors are the crate's. A [`SessionError`]
//! becomes one here.

use std::fs::File;
use std::io;
use std::sync::Arc;

use vhost::vhost_user::message::{
    VhostTransferStateDirection, VhostTransferStatePhase, VhostUserConfigFlags, VhostUserInflight,
    VhostUserLog, VhostUserMemoryRegion, VhostUserProtocolFeatures, VhostUserShMemConfig, VhostUserSharedMsg,
    VhostUserSingleMemoryRegion, VhostUserVringAddrFlags, VhostUserVringState,
};
use vhost::vhost_user::{
    Error as VhostError, GpuBackend, Result as VhostResult, VhostUserBackendReqHandlerMut,
};
use virtio::Features;
use vm_memory::GuestAddress;

use super::error::{SessionError, not_offered, refuse};
use super::offer::{ANY_LAYOUT, FRONTEND_FEATURES, LOG_ALL, PROTOCOL_FEATURES};
use super::queue::{FrontendAddresses, Queue};
use super::state::Session;
use crate::device::BlockDevice;
use crate::guest::eventfd::{CallFd, KickFd};
use crate::guest::inflight_region::{self, InflightRegion};
use crate::worker::message::WorkerMessage;

impl From<SessionError> for VhostError {
    fn from(error: SessionError) -> Self {
        match error {
            SessionError::Failed => Self::BackendInternalError,
            SessionError::Refused(reason) => {
                Self::ReqHandlerError(io::Error::new(io::ErrorKind::InvalidInput, reason))
            }
        }
    }
}

impl<B: BlockDevice> VhostUserBackendReqHandlerMut for Session<B> {
    fn set_owner(&mut self) -> VhostResult<()> {
        if std::mem::replace(&mut self.owned, true) {
            return Err(refuse("the session has an owner already").into());
        }
        Ok(())
    }

    /// Disables all rings, as this message once did. It is deprecated.
    fn reset_owner(&mut self) -> VhostResult<()> {
        self.stop_all()?;
        self.queues.fill_with(Queue::default);
        Ok(())
    }

    fn reset_device(&mut self) -> VhostResult<()> {
        Ok(self.reset()?)
    }

    fn get_features(&mut self) -> VhostResult<u64> {
        Ok(self.offer.features.bits() | FRONTEND_FEATURES.bits())
    }

    fn set_features(&mut self, features: u64) -> VhostResult<()> {
        let taken = self.get_features()? | ANY_LAYOUT;
        if features & !taken != 0 {
            return Err(refuse(format!("features {:#x} were not offered", features & !taken)).into());
        }
        self.switch_log(features & LOG_ALL != 0)?;
        if features & !LOG_ALL == self.acked {
            return Ok(());
        }
        self.while_stopped(|session| {
            session.acked = features & !LOG_ALL;
            session.disk.negotiated.set(features);
            Ok(())
        })?;
        Ok(())
    }

    fn set_mem_table(
        &mut self,
        regions: &[VhostUserMemoryRegion],
        files: Vec<File>,
        _postcopy_listening: Option<bool>,
    ) -> VhostResult<Option<Vec<vhost::VhostUserMemoryRegionBase>>> {
        self.change_memory(|memory| memory.replace(regions, files))?;
        Ok(None)
    }

    fn set_vring_num(&mut self, index: u32, num: u32) -> VhostResult<()> {
        let size_max = self.offer.queue_size_max;
        let size = u16::try_from(num).ok().filter(|size| size.is_power_of_two() && *size <= size_max);
        let Some(size) = size else {
            let reason = format!("a ring of {num} entries: not a power of two up to --queue-size {size_max}");
            return Err(refuse(reason).into());
        };
        Ok(self.change_queue(index, |queue| queue.size = size)?)
    }

    fn set_vring_addr(
        &mut self,
        index: u32,
        flags: VhostUserVringAddrFlags,
        descriptor: u64,
        used: u64,
        available: u64,
        log: u64,
    ) -> VhostResult<()> {
        // the ring's own place is logged in any case
        let elsewhere = self.memory.guest_address(used) != Some(GuestAddress(log));
        let used_log =
            (flags.contains(VhostUserVringAddrFlags::VHOST_VRING_F_LOG) && elsewhere).then_some(log);
        let addresses = FrontendAddresses { descriptor, available, used, used_log };
        if self.queue(index)?.addresses == Some(addresses) {
            // a migration begins or ends, which is no reason to stop
            return Ok(());
        }
        Ok(self.change_queue(index, |queue| queue.addresses = Some(addresses))?)
    }

    fn set_vring_base(&mut self, index: u32, base: u32) -> VhostResult<()> {
        let base = u16::try_from(base)
            .map_err(|_| refuse(format!("an available index of {base}, which has 16 bits")))?;
        self.change_queue(index, |queue| {
            (queue.next_avail, queue.left_at) = (base, None);
            queue.retired = false;
        })?;
        Ok(())
    }

    fn get_vring_base(&mut self, index: u32) -> VhostResult<VhostUserVringState> {
        self.queue(index)?;
        self.stop(index as usize)?;
        let queue = self.queue(index)?;
        queue.kick = None;
        queue.call = None;
        queue.error = None;
        // the ring belongs to the front-end now, which sets it up again
        queue.retired = false;
        let base = queue.left_at.unwrap_or(queue.next_avail);
        self.hand_over_if_migrated()?;
        Ok(VhostUserVringState::new(index, base.into()))
    }

    fn set_vring_kick(&mut self, index: u8, fd: Option<File>) -> VhostResult<()> {
        let Some(file) = fd else {
            return Err(refuse("no eventfd: polling the available ring is not supported").into());
        };
        let kick = KickFd::new(file).map_err(|error| refuse(error.to_string()))?;
        Ok(self.change_queue(index.into(), |queue| queue.kick = Some(kick))?)
    }

    fn set_vring_call(&mut self, index: u8, fd: Option<File>) -> VhostResult<()> {
        self.queue(index.into())?;
        let mut call = fd.map(CallFd::new).transpose().map_err(|error| refuse(error.to_string()))?;
        if let Some(call) = &mut call {
            // A driver that reconnects may wait for an interrupt that the last back-end did not
            // send.
            call.signal();
        }
        let queue = self.queue(index.into())?;
        if queue.worker.is_some() {
            self.disk.inboxes[usize::from(index)].post(WorkerMessage::Call(call));
        } else {
            queue.call = call;
        }
        Ok(())
    }

    fn set_vring_err(&mut self, index: u8, fd: Option<File>) -> VhostResult<()> {
        let error = fd.map(CallFd::new).transpose().map_err(|error| refuse(error.to_string()))?;
        Ok(self.change_queue(index.into(), |queue| queue.error = error)?)
    }

    fn get_protocol_features(&mut self) -> VhostResult<VhostUserProtocolFeatures> {
        Ok(PROTOCOL_FEATURES)
    }

    fn set_protocol_features(&mut self, features: u64) -> VhostResult<()> {
        let offered = self.get_protocol_features()?.bits();
        if features & !offered != 0 {
            let reason = format!("protocol features {:#x} were not offered", features & !offered);
            return Err(refuse(reason).into());
        }
        self.protocol_features = VhostUserProtocolFeatures::from_bits_truncate(features);
        Ok(())
    }

    fn get_queue_num(&mut self) -> VhostResult<u64> {
        Ok(self.queues.len() as u64)
    }

    fn set_vring_enable(&mut self, index: u32, enable: bool) -> VhostResult<()> {
        if self.queue(index)?.enabled == enable {
            return Ok(());
        }
        Ok(self.change_queue(index, |queue| queue.enabled = enable)?)
    }

    fn get_config(&mut self, offset: u32, size: u32, _flags: VhostUserConfigFlags) -> VhostResult<Vec<u8>> {
        Ok(self.config().read(offset, size).map_err(|error| refuse(error.to_string()))?)
    }

    fn set_config(&mut self, offset: u32, bytes: &[u8], _flags: VhostUserConfigFlags) -> VhostResult<()> {
        if !self.acked().contains(Features::CONFIG_WCE) {
            return Err(refuse("VIRTIO_BLK_F_CONFIG_WCE was not negotiated").into());
        }
        let mut config = self.config();
        config.write(offset, bytes).map_err(|error| refuse(error.to_string()))?;
        // stopped, so that every write after the reply follows the new setting
        self.while_stopped(|session| {
            session.offer.config = config;
            Ok(())
        })?;
        Ok(())
    }

    fn set_gpu_socket(&mut self, _gpu_backend: GpuBackend) -> VhostResult<()> {
        Err(not_offered().into())
    }

    fn get_shared_object(&mut self, _uuid: VhostUserSharedMsg) -> VhostResult<File> {
        Err(not_offered().into())
    }

    fn get_inflight_fd(&mut self, inflight: &VhostUserInflight) -> VhostResult<(VhostUserInflight, File)> {
        let created = inflight_region::create(inflight, self.inflight_limits());
        Ok(created.map_err(|error| refuse(crate::report::chain(&error)))?)
    }

    fn set_inflight_fd(&mut self, inflight: &VhostUserInflight, file: File) -> VhostResult<()> {
        let region = InflightRegion::map(inflight, file, self.inflight_limits());
        let region = region.map_err(|error| refuse(crate::report::chain(&error)))?;
        self.while_stopped(|session| {
            session.inflight = Some(Arc::new(region));
            Ok(())
        })?;
        Ok(())
    }

    fn get_max_mem_slots(&mut self) -> VhostResult<u64> {
        Ok(self.offer.memory_slots as u64)
    }

    fn add_mem_region(
        &mut self,
        region: &VhostUserSingleMemoryRegion,
        file: File,
        _postcopy_listening: Option<bool>,
    ) -> VhostResult<Option<vhost::VhostUserMemoryRegionBase>> {
        self.grow_memory(|memory| memory.add(region, file))?;
        Ok(None)
    }

    fn remove_mem_region(&mut self, region: &VhostUserSingleMemoryRegion) -> VhostResult<()> {
        Ok(self.change_memory(|memory| memory.remove(region))?)
    }

    fn set_device_state_fd(
        &mut self,
        _direction: VhostTransferStateDirection,
        _phase: VhostTransferStatePhase,
        _file: File,
    ) -> VhostResult<Option<File>> {
        Err(not_offered().into())
    }

    fn check_device_state(&mut self) -> VhostResult<()> {
        Err(not_offered().into())
    }

    fn get_shmem_config(&mut self) -> VhostResult<VhostUserShMemConfig> {
        Err(not_offered().into())
    }

    fn set_log_base(&mut self, log: &VhostUserLog, file: File) -> VhostResult<()> {
        let set = self.memory.dirty_log().set_base(log, file, self.memory.end());
        set.map_err(|error| refuse(crate::report::chain(&error)))?;
        Ok(self.switch_log(self.migrating)?)
    }
}
