//! One front-end's session: vhost-user messages in, queues started and stopped.
//!
//! The session owns every queue that is stopped; a worker owns its queue while it runs and gives it back. So the session
//! never waits for a lock that a busy worker holds, and memory changes only while nobody uses it.

use std::fs::File;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, mpsc};
use std::thread::JoinHandle;
use std::{io, thread};

use vhost::vhost_user::message::{
    VhostTransferStateDirection, VhostTransferStatePhase, VhostUserConfigFlags, VhostUserInflight,
    VhostUserLog, VhostUserMemoryRegion, VhostUserProtocolFeatures, VhostUserShMemConfig, VhostUserSharedMsg,
    VhostUserSingleMemoryRegion, VhostUserVirtioFeatures, VhostUserVringAddrFlags, VhostUserVringState,
};
use vhost::vhost_user::{
    BackendReqHandler, Error as VhostError, GpuBackend, Result as VhostResult, VhostUserBackendReqHandlerMut,
};
use virtio::{ConfigSpace, Features, RingAddresses, SplitRing};

use crate::device::BlockDevice;
use crate::disk::Disk;
use crate::event::{CallFd, KickFd};
use crate::inbox::Message;
use crate::lost_memory;
use crate::memory::{MEMORY_SLOTS_MAX, MemoryError, MemoryTable};
use crate::worker::{QueueWorker, Vring};

/// What every session of a disk offers.
#[derive(Debug, Clone)]
pub struct Offer {
    /// virtio feature bits.
    pub features: Features,
    /// Configuration space.
    pub config: ConfigSpace,
    /// Largest ring accepted, in entries.
    pub queue_size_max: u16,
}

/// Serves `stream` until the front-end leaves, breaks the protocol, or the stream is shut down; then drains every queue.
pub fn serve<B: BlockDevice>(disk: Arc<Disk<B>>, offer: Offer, stream: UnixStream) {
    let session = Arc::new(Mutex::new(Session::new(disk, offer)));
    let mut handler = BackendReqHandler::from_stream(stream, session.clone());
    loop {
        match handler.handle_request() {
            // refused, and the front-end has been told if it asked
            Ok(()) | Err(VhostError::ReqHandlerError(_) | VhostError::SocketRetry(_)) => {}
            Err(VhostError::Disconnected) => break,
            Err(error) => {
                tracing::warn!("session ended: {error}");
                break;
            }
        }
    }
    drop(handler);
    session.lock().unwrap_or_else(std::sync::PoisonError::into_inner).stop_all();
    let lost_pages = lost_memory::take_count();
    if lost_pages > 0 {
        tracing::error!(lost_pages, "the front-end truncated memory that it shared");
    }
}

/// Ring addresses in the front-end's address space, as the front-end gives them.
#[derive(Debug, Clone, Copy)]
struct FrontendAddresses {
    descriptor: u64,
    available: u64,
    used: u64,
}

/// A thread that serves a queue, and what it gives back.
type Worker = JoinHandle<io::Result<Vring>>;

/// A queue as the front-end has set it up so far.
#[derive(Debug, Default)]
struct Queue {
    size: u16,
    addresses: Option<FrontendAddresses>,
    next_avail: u16,
    kick: Option<KickFd>,
    call: Option<CallFd>,
    error: Option<CallFd>,
    enabled: bool,
    worker: Option<Worker>,
}

#[derive(Debug)]
struct Session<B> {
    disk: Arc<Disk<B>>,
    offer: Offer,
    owned: bool,
    acked: u64,
    memory: MemoryTable,
    queues: Vec<Queue>,
}

impl<B: BlockDevice> Session<B> {
    fn new(disk: Arc<Disk<B>>, offer: Offer) -> Self {
        let queues = disk.inboxes.iter().map(|_| Queue::default()).collect();
        Self { disk, offer, owned: false, acked: 0, memory: MemoryTable::default(), queues }
    }

    fn queue(&mut self, index: u32) -> VhostResult<&mut Queue> {
        self.queues.get_mut(index as usize).ok_or(VhostError::InvalidParam)
    }

    fn acked(&self) -> Features {
        Features::from_bits_truncate(self.acked)
    }

    /// Whether writes may be volatile until a flush (virtio 1.2, 5.2.5.2 and 5.2.6.2): as the driver set it, or else by
    /// whether it can flush at all.
    fn is_writeback(&self) -> bool {
        let acked = self.acked();
        if acked.contains(Features::CONFIG_WCE) {
            self.offer.config.writeback
        } else {
            acked.contains(Features::FLUSH)
        }
    }

    /// Starts the queue's worker if everything it needs is there.
    fn start_if_ready(&mut self, index: usize) -> VhostResult<()> {
        let queue = &self.queues[index];
        // Without the protocol features there is no message to enable a ring: it is enabled by its kick.
        let enabled = queue.enabled || self.acked & VhostUserVirtioFeatures::PROTOCOL_FEATURES.bits() == 0;
        if !enabled || queue.worker.is_some() || queue.kick.is_none() {
            return Ok(());
        }
        let Some(addresses) = queue.addresses.and_then(|addresses| self.translate(addresses)) else {
            // Regions come and go one message at a time: the one with the rings may be on its way.
            return Ok(());
        };
        let ring = self.ring(index, addresses)?;
        self.disk.inboxes[index].take();
        let writethrough = !self.is_writeback();
        let queue = &mut self.queues[index];
        let Some(kick) = queue.kick.take() else {
            return Ok(());
        };
        let (call, error) = (queue.call.take(), queue.error.take());
        let vring = Vring { index, ring, kick, call, error, writethrough };
        let (disk, memory) = (self.disk.clone(), self.memory.memory().clone());
        let (started, outcome) = mpsc::sync_channel(1);
        let thread = thread::Builder::new().name(format!("queue{index}")).spawn(move || {
            // the ring of a worker belongs to the thread that made it
            let worker = match QueueWorker::new(disk, memory, vring) {
                Ok(worker) => worker,
                Err(error) => {
                    let _ = started.send(Err(()));
                    return Err(error);
                }
            };
            let _ = started.send(Ok(()));
            worker.run().inspect_err(|error| tracing::error!(queue = index, "worker died: {error}"))
        });
        let thread = thread.map_err(|error| refuse_fatally("cannot start a worker thread", index, &error))?;
        if let Ok(Ok(())) = outcome.recv() {
            tracing::debug!(queue = index, size = queue.size, next_avail = queue.next_avail, "queue started");
            queue.worker = Some(thread);
            return Ok(());
        }
        let error = thread.join().ok().and_then(Result::err);
        let error = error.unwrap_or_else(|| io::Error::other("the worker panicked"));
        Err(refuse_fatally("cannot start the worker", index, &error))
    }

    /// The addresses as the guest has them; `None` when they are not in any region.
    fn translate(&self, addresses: FrontendAddresses) -> Option<RingAddresses> {
        Some(RingAddresses {
            descriptor_table: self.memory.guest_address(addresses.descriptor)?,
            available_ring: self.memory.guest_address(addresses.available)?,
            used_ring: self.memory.guest_address(addresses.used)?,
        })
    }

    fn ring(&self, index: usize, addresses: RingAddresses) -> VhostResult<SplitRing> {
        let queue = &self.queues[index];
        SplitRing::new(&**self.memory.memory(), queue.size, addresses, self.acked(), queue.next_avail)
            .map_err(|error| refuse_fatally("cannot use the ring", index, &error))
    }

    /// Tells the queue's worker to stop, waits until it has nothing in flight, and takes the queue back.
    fn stop(&mut self, index: usize) -> VhostResult<()> {
        self.ask_to_stop(index);
        self.take_back(index)
    }

    fn ask_to_stop(&self, index: usize) {
        if self.queues[index].worker.is_some() {
            self.disk.inboxes[index].post(Message::Stop);
        }
    }

    fn take_back(&mut self, index: usize) -> VhostResult<()> {
        let queue = &mut self.queues[index];
        let Some(worker) = queue.worker.take() else {
            return Ok(());
        };
        match worker.join() {
            Ok(Ok(vring)) => {
                queue.next_avail = vring.ring.next_avail();
                queue.kick = Some(vring.kick);
                queue.call = vring.call;
                queue.error = vring.error;
                tracing::debug!(queue = index, next_avail = queue.next_avail, "queue stopped");
                Ok(())
            }
            Ok(Err(error)) => Err(refuse_fatally("the worker died", index, &error)),
            Err(_) => Err(refuse_fatally("the worker panicked", index, &"see the log above")),
        }
    }

    /// Stops all queues, all draining at the same time.
    fn stop_all(&mut self) {
        (0..self.queues.len()).for_each(|index| self.ask_to_stop(index));
        for index in 0..self.queues.len() {
            // a worker that died has been logged; its queue has no kick any more and so is not started again
            let _ = self.take_back(index);
        }
    }

    /// Makes a change for which no worker may run, and starts all that can be.
    fn while_stopped(&mut self, change: impl FnOnce(&mut Self) -> VhostResult<()>) -> VhostResult<()> {
        self.stop_all();
        change(self)?;
        (0..self.queues.len()).try_for_each(|index| self.start_if_ready(index))
    }

    fn change_memory(
        &mut self,
        change: impl FnOnce(&mut MemoryTable) -> Result<(), MemoryError>,
    ) -> VhostResult<()> {
        self.while_stopped(|session| {
            change(&mut session.memory).map_err(|error| {
                tracing::error!("memory refused: {}", crate::report::chain(&error));
                VhostError::InvalidParam
            })
        })
    }

    /// Changes one queue, which is stopped for it if it runs.
    fn change_queue(&mut self, index: u32, change: impl FnOnce(&mut Queue)) -> VhostResult<()> {
        self.queue(index)?;
        let index = index as usize;
        self.stop(index)?;
        change(&mut self.queues[index]);
        self.start_if_ready(index)
    }
}

/// Logs why a queue cannot be served, and gives the error that ends the session.
fn refuse_fatally(what: &str, queue: usize, error: &dyn std::fmt::Display) -> VhostError {
    tracing::error!(queue, "{what}: {error}");
    VhostError::InvalidParam
}

/// Logs a refusal after which the session goes on; the front-end is told if it asked for a reply.
fn refuse(what: &str, error: impl std::fmt::Display) -> VhostError {
    tracing::warn!("{what} refused: {error}");
    VhostError::ReqHandlerError(io::Error::from(io::ErrorKind::InvalidInput))
}

/// A message for which the feature bit was not offered.
fn not_offered<T>(message: &'static str) -> VhostResult<T> {
    tracing::warn!("{message} was not offered");
    Err(VhostError::InvalidOperation(message))
}

impl<B: BlockDevice> VhostUserBackendReqHandlerMut for Session<B> {
    fn set_owner(&mut self) -> VhostResult<()> {
        if std::mem::replace(&mut self.owned, true) {
            return Err(VhostError::InvalidOperation("already claimed"));
        }
        Ok(())
    }

    fn reset_owner(&mut self) -> VhostResult<()> {
        self.stop_all();
        self.owned = false;
        self.acked = 0;
        self.queues.iter_mut().for_each(|queue| *queue = Queue::default());
        Ok(())
    }

    fn reset_device(&mut self) -> VhostResult<()> {
        not_offered("RESET_DEVICE")
    }

    fn get_features(&mut self) -> VhostResult<u64> {
        Ok(self.offer.features.bits() | VhostUserVirtioFeatures::PROTOCOL_FEATURES.bits())
    }

    fn set_features(&mut self, features: u64) -> VhostResult<()> {
        let offered = self.get_features()?;
        if features & !offered != 0 {
            tracing::error!(
                "the front-end acknowledged features that were not offered: {:#x}",
                features & !offered
            );
            return Err(VhostError::InvalidParam);
        }
        if features == self.acked {
            return Ok(());
        }
        self.while_stopped(|session| {
            session.acked = features;
            Ok(())
        })
    }

    fn set_mem_table(
        &mut self,
        regions: &[VhostUserMemoryRegion],
        files: Vec<File>,
        _postcopy_listening: Option<bool>,
    ) -> VhostResult<Option<Vec<vhost::VhostUserMemoryRegionBase>>> {
        self.change_memory(|memory| memory.replace(regions, files)).map(|()| None)
    }

    fn set_vring_num(&mut self, index: u32, num: u32) -> VhostResult<()> {
        let size_max = self.offer.queue_size_max;
        let size = u16::try_from(num).ok().filter(|size| size.is_power_of_two() && *size <= size_max);
        let Some(size) = size else {
            tracing::error!(
                queue = index,
                "a ring of {num} entries: not a power of two up to --queue-size {size_max}"
            );
            return Err(VhostError::InvalidParam);
        };
        self.change_queue(index, |queue| queue.size = size)
    }

    fn set_vring_addr(
        &mut self,
        index: u32,
        _flags: VhostUserVringAddrFlags,
        descriptor: u64,
        used: u64,
        available: u64,
        _log: u64,
    ) -> VhostResult<()> {
        let addresses = FrontendAddresses { descriptor, available, used };
        self.change_queue(index, |queue| queue.addresses = Some(addresses))
    }

    fn set_vring_base(&mut self, index: u32, base: u32) -> VhostResult<()> {
        let base = u16::try_from(base).map_err(|_| VhostError::InvalidParam)?;
        self.change_queue(index, |queue| queue.next_avail = base)
    }

    fn get_vring_base(&mut self, index: u32) -> VhostResult<VhostUserVringState> {
        self.queue(index)?;
        self.stop(index as usize)?;
        let queue = self.queue(index)?;
        queue.kick = None;
        queue.call = None;
        queue.error = None;
        Ok(VhostUserVringState::new(index, queue.next_avail.into()))
    }

    fn set_vring_kick(&mut self, index: u8, fd: Option<File>) -> VhostResult<()> {
        let Some(file) = fd else {
            return Err(refuse("a kick without an eventfd", "polling the available ring is not supported"));
        };
        let kick = KickFd::new(file).map_err(|error| refuse("the kick", error))?;
        self.change_queue(index.into(), |queue| queue.kick = Some(kick))
    }

    fn set_vring_call(&mut self, index: u8, fd: Option<File>) -> VhostResult<()> {
        let queue = self.queue(index.into())?;
        let call = fd.map(CallFd::new).transpose().map_err(|error| refuse("the call", error))?;
        if let Some(call) = &call {
            // A driver that reconnects may wait for an interrupt that the last owner of the ring did not send.
            call.signal();
        }
        if queue.worker.is_some() {
            self.disk.inboxes[usize::from(index)].post(Message::Call(call));
        } else {
            queue.call = call;
        }
        Ok(())
    }

    fn set_vring_err(&mut self, index: u8, fd: Option<File>) -> VhostResult<()> {
        let error = fd.map(CallFd::new).transpose().map_err(|error| refuse("the error eventfd", error))?;
        self.change_queue(index.into(), |queue| queue.error = error)
    }

    fn get_protocol_features(&mut self) -> VhostResult<VhostUserProtocolFeatures> {
        Ok(VhostUserProtocolFeatures::MQ
            | VhostUserProtocolFeatures::CONFIG
            | VhostUserProtocolFeatures::REPLY_ACK
            | VhostUserProtocolFeatures::CONFIGURE_MEM_SLOTS)
    }

    fn set_protocol_features(&mut self, features: u64) -> VhostResult<()> {
        let offered = self.get_protocol_features()?.bits();
        if features & !offered == 0 { Ok(()) } else { Err(VhostError::InvalidParam) }
    }

    fn get_queue_num(&mut self) -> VhostResult<u64> {
        Ok(self.queues.len() as u64)
    }

    fn set_vring_enable(&mut self, index: u32, enable: bool) -> VhostResult<()> {
        if self.queue(index)?.enabled == enable {
            return Ok(());
        }
        self.change_queue(index, |queue| queue.enabled = enable)
    }

    fn get_config(&mut self, offset: u32, size: u32, _flags: VhostUserConfigFlags) -> VhostResult<Vec<u8>> {
        self.offer.config.read(offset, size).map_err(|error| refuse("a configuration read", error))
    }

    fn set_config(&mut self, offset: u32, bytes: &[u8], _flags: VhostUserConfigFlags) -> VhostResult<()> {
        if !self.acked().contains(Features::CONFIG_WCE) {
            return Err(refuse("a configuration write", "VIRTIO_BLK_F_CONFIG_WCE was not negotiated"));
        }
        let mut config = self.offer.config;
        config.write(offset, bytes).map_err(|error| refuse("a configuration write", error))?;
        // stopped, so that every write after the reply is of the new kind
        self.while_stopped(|session| {
            session.offer.config = config;
            Ok(())
        })
    }

    fn set_gpu_socket(&mut self, _gpu_backend: GpuBackend) -> VhostResult<()> {
        not_offered("GPU_SET_SOCKET")
    }

    fn get_shared_object(&mut self, _uuid: VhostUserSharedMsg) -> VhostResult<File> {
        not_offered("GET_SHARED_OBJECT")
    }

    fn get_inflight_fd(&mut self, _inflight: &VhostUserInflight) -> VhostResult<(VhostUserInflight, File)> {
        not_offered("GET_INFLIGHT_FD")
    }

    fn set_inflight_fd(&mut self, _inflight: &VhostUserInflight, _file: File) -> VhostResult<()> {
        not_offered("SET_INFLIGHT_FD")
    }

    fn get_max_mem_slots(&mut self) -> VhostResult<u64> {
        Ok(MEMORY_SLOTS_MAX as u64)
    }

    fn add_mem_region(
        &mut self,
        region: &VhostUserSingleMemoryRegion,
        file: File,
        _postcopy_listening: Option<bool>,
    ) -> VhostResult<Option<vhost::VhostUserMemoryRegionBase>> {
        self.change_memory(|memory| memory.add(region, file)).map(|()| None)
    }

    fn remove_mem_region(&mut self, region: &VhostUserSingleMemoryRegion) -> VhostResult<()> {
        self.change_memory(|memory| memory.remove(region))
    }

    fn set_device_state_fd(
        &mut self,
        _direction: VhostTransferStateDirection,
        _phase: VhostTransferStatePhase,
        _file: File,
    ) -> VhostResult<Option<File>> {
        not_offered("SET_DEVICE_STATE_FD")
    }

    fn check_device_state(&mut self) -> VhostResult<()> {
        not_offered("CHECK_DEVICE_STATE")
    }

    fn get_shmem_config(&mut self) -> VhostResult<VhostUserShMemConfig> {
        not_offered("GET_SHMEM_CONFIG")
    }

    fn set_log_base(&mut self, _log: &VhostUserLog, _file: File) -> VhostResult<()> {
        not_offered("SET_LOG_BASE")
    }
}
