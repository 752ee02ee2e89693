//! A back-end that is not ours: a disk in memory on the daemon and the ring of rust-vmm.

use std::io;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};

use tempfile::TempDir;
use vhost::vhost_user::Listener;
use vhost::vhost_user::message::{VhostUserProtocolFeatures, VhostUserVirtioFeatures};
use vhost_user_backend::{VhostUserBackendMut, VhostUserDaemon, VringRwLock, VringT};
use virtio::{Features, request_type};
use virtio_queue::QueueOwnedT;
use vm_memory::{Bytes, GuestAddress, GuestAddressSpace, GuestMemoryAtomic, GuestMemoryMmap};
use vmm_sys_util::epoll::EventSet;
use vmm_sys_util::event::{EventConsumer, EventFlag, EventNotifier, new_event_consumer_and_notifier};

use super::{Frontend, IOERR, OK, Transcript, UNSUPP};

type Memory = GuestMemoryAtomic<GuestMemoryMmap>;

const SECTOR: usize = 512;
const CONFIG_LEN: usize = 60;
const ID_LEN: usize = 20;

/// A daemon that serves one front-end after another, on a thread of this process. Ended when
/// dropped, which must be after its front-ends are.
#[derive(Debug)]
pub(crate) struct OtherDaemon {
    socket: PathBuf,
    is_ending: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
    _directory: TempDir,
}

/// The disk, and the memory of the front-end that is connected.
struct MemoryDisk {
    data: Vec<u8>,
    id: &'static str,
    memory: Memory,
}

impl OtherDaemon {
    /// Serves a disk of `size` zeros whose serial is `id`.
    pub(crate) fn serve(size: usize, id: &'static str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("socket");
        let mut listener = Listener::new(&socket, true).unwrap();
        let is_ending = Arc::new(AtomicBool::new(false));
        let (ends, memory) = (is_ending.clone(), Memory::new(GuestMemoryMmap::new()));
        let disk = Arc::new(Mutex::new(MemoryDisk { data: vec![0; size], id, memory }));
        let thread = thread::spawn(move || {
            while !ends.load(Relaxed) {
                let memory = Memory::new(GuestMemoryMmap::new());
                let mut daemon = VhostUserDaemon::new("other".to_owned(), disk.clone(), memory).unwrap();
                daemon.start(&mut listener).unwrap();
                // the error is that the front-end has left
                let _ = daemon.wait();
            }
        });
        Self { socket, is_ending, thread: Some(thread), _directory: directory }
    }

    /// Connects a front-end with guest memory of its own.
    pub(crate) fn connect(&self) -> Frontend {
        Frontend::over(UnixStream::connect(&self.socket).unwrap(), &Transcript::default())
    }
}

impl Drop for OtherDaemon {
    fn drop(&mut self) {
        self.is_ending.store(true, Relaxed);
        // wakes the thread, which waits for a connection
        drop(UnixStream::connect(&self.socket));
        if let Some(thread) = self.thread.take() {
            let ended = thread.join();
            assert!(ended.is_ok() || thread::panicking(), "the daemon panicked");
        }
    }
}

impl MemoryDisk {
    /// Carries out a request. Returns its status and what the device writes to the driver's
    /// buffers.
    fn carry_out(&mut self, kind: u32, sector: u64, data: &[u8], room: usize) -> (u8, Vec<u8>) {
        let range = |len: usize| {
            let start = usize::try_from(sector).ok()?.checked_mul(SECTOR)?;
            let range = start..start.checked_add(len)?;
            (range.end <= self.data.len() && len.is_multiple_of(SECTOR)).then_some(range)
        };
        match kind {
            request_type::IN => match range(room) {
                Some(range) => (OK, self.data[range].to_vec()),
                None => (IOERR, Vec::new()),
            },
            request_type::OUT => match range(data.len()) {
                Some(range) => {
                    self.data[range].copy_from_slice(data);
                    (OK, Vec::new())
                }
                None => (IOERR, Vec::new()),
            },
            request_type::FLUSH => (OK, Vec::new()),
            request_type::GET_ID => {
                let mut id = self.id.as_bytes().to_vec();
                id.resize(ID_LEN.min(room), 0);
                (OK, id)
            }
            _ => (UNSUPP, Vec::new()),
        }
    }

    /// Serves all chains that are available. Fails when the ring is stopped, which another thread
    /// does: a kick of before may be seen after it.
    fn serve(&mut self, vring: &VringRwLock) -> Result<(), virtio_queue::Error> {
        let memory = self.memory.memory();
        let chains: Vec<_> = vring.get_mut().get_queue_mut().iter(memory.clone())?.collect();
        for chain in chains {
            let head = chain.head_index();
            let (mut readable, mut writable) = (Vec::new(), Vec::new());
            for descriptor in chain {
                let (address, len) = (descriptor.addr(), descriptor.len() as usize);
                if descriptor.is_write_only() {
                    writable.extend((0..len as u64).map(|at| address.0 + at));
                } else {
                    let mut bytes = vec![0; len];
                    memory.read_slice(&mut bytes, address).unwrap();
                    readable.extend(bytes);
                }
            }
            let kind = u32::from_le_bytes(*readable.first_chunk().unwrap());
            let sector = u64::from_le_bytes(*readable[8..].first_chunk().unwrap());
            let status_address = writable.pop().expect("a status byte");
            let (status, answer) = self.carry_out(kind, sector, &readable[16..], writable.len());
            for (address, byte) in writable.into_iter().zip(&answer) {
                memory.write_obj(*byte, GuestAddress(address)).unwrap();
            }
            memory.write_obj(status, GuestAddress(status_address)).unwrap();
            vring.add_used(head, u32::try_from(answer.len() + 1).unwrap())?;
        }
        if vring.needs_notification()? {
            vring.signal_used_queue().unwrap();
        }
        Ok(())
    }

    /// Serves a ring until nothing is available.
    fn serve_all(&mut self, vring: &VringRwLock) -> Result<(), virtio_queue::Error> {
        loop {
            vring.disable_notification()?;
            self.serve(vring)?;
            if !vring.enable_notification()? {
                return Ok(());
            }
        }
    }
}

impl VhostUserBackendMut for MemoryDisk {
    type Bitmap = ();
    type Vring = VringRwLock;

    fn num_queues(&self) -> usize {
        4
    }

    fn max_queue_size(&self) -> usize {
        1024
    }

    fn features(&self) -> u64 {
        let driver = Features::VERSION_1 | Features::FLUSH | Features::EVENT_IDX | Features::INDIRECT_DESC;
        driver.bits() | VhostUserVirtioFeatures::PROTOCOL_FEATURES.bits()
    }

    fn protocol_features(&self) -> VhostUserProtocolFeatures {
        VhostUserProtocolFeatures::MQ
            | VhostUserProtocolFeatures::CONFIG
            | VhostUserProtocolFeatures::REPLY_ACK
    }

    fn set_event_idx(&mut self, _enabled: bool) {}

    fn get_config(&self, offset: u32, size: u32) -> Vec<u8> {
        let mut config = [0; CONFIG_LEN];
        config[..8].copy_from_slice(&((self.data.len() / SECTOR) as u64).to_le_bytes());
        let start = offset as usize;
        config.get(start..start + size as usize).unwrap_or_default().to_vec()
    }

    fn update_memory(&mut self, memory: Memory) -> io::Result<()> {
        self.memory = memory;
        Ok(())
    }

    fn exit_event(&self, _thread_index: usize) -> Option<(EventConsumer, EventNotifier)> {
        new_event_consumer_and_notifier(EventFlag::NONBLOCK | EventFlag::CLOEXEC).ok()
    }

    fn handle_event(
        &mut self,
        queue: u16,
        _events: EventSet,
        vrings: &[VringRwLock],
        _thread: usize,
    ) -> io::Result<()> {
        match self.serve_all(&vrings[usize::from(queue)]) {
            Err(virtio_queue::Error::QueueNotReady) => Ok(()),
            served => served.map_err(io::Error::other),
        }
    }
}
