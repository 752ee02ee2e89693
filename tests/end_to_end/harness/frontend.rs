//! A front-end: vhost-user messages by the `vhost` crate, everything else by hand.

use std::io::Read;
use std::net::Shutdown;
use std::os::fd::RawFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::thread;

use vhost::vhost_user::message::{FrontendReq, VhostUserHeaderFlag, VhostUserVirtioFeatures};
use vhost::vhost_user::{Frontend as Protocol, VhostUserFrontend};
use vhost::{VhostBackend, VringConfigData};
use virtio::Features;
use vmm_sys_util::sock_ctrl_msg::ScmSocket;

use super::process::Transcript;
use super::{Backend, DirtyLog, GuestMemory, Queue, TIME_LIMIT};

const LOG_ALL: u64 = VhostUserVirtioFeatures::LOG_ALL.bits();

/// Entries of a ring where it does not matter.
const QUEUE_SIZE: u16 = 256;
/// The version of every message.
const VERSION: u32 = 1;

/// A connected front-end. Dropping it ends the session.
pub(crate) struct Frontend {
    /// For messages of one's own; each is acknowledged.
    pub(crate) protocol: Protocol,
    /// The same connection, for what `protocol` cannot say.
    stream: UnixStream,
    pub(crate) memory: Arc<GuestMemory>,
    features: u64,
    /// Ends with the front-end, and lets the watchdog go.
    _lifetime: Sender<()>,
    log: Transcript,
}

impl Frontend {
    /// Connects to `backend`, takes all features it offers and shares `memory`.
    pub(crate) fn connect(backend: &Backend, memory: &Arc<GuestMemory>) -> Self {
        Self::connect_without(backend, memory, Features::empty())
    }

    /// As [`Self::connect`], without `refused`.
    pub(crate) fn connect_without(backend: &Backend, memory: &Arc<GuestMemory>, refused: Features) -> Self {
        let stream = UnixStream::connect(backend.socket()).unwrap();
        Self::sharing(memory, stream, backend.log(), refused)
    }

    /// A front-end with guest memory of its own, over a stream that is connected already. `log` is
    /// shown when something fails.
    pub(crate) fn over(stream: UnixStream, log: &Transcript) -> Self {
        Self::sharing(&GuestMemory::new(), stream, log, Features::empty())
    }

    /// As [`Self::over`], with this `memory` and without the features `refused`.
    pub(crate) fn sharing(
        memory: &Arc<GuestMemory>,
        stream: UnixStream,
        log: &Transcript,
        refused: Features,
    ) -> Self {
        let lifetime = watch(stream.try_clone().unwrap());
        let mut protocol = Protocol::from_stream(stream.try_clone().unwrap(), 1);
        protocol.set_owner().unwrap();
        let offered = protocol.get_features().unwrap();
        // that is for migrations alone
        let features = offered & !refused.bits() & !LOG_ALL;
        protocol.set_features(features).unwrap();
        let protocol_features = protocol.get_protocol_features().unwrap();
        protocol.set_protocol_features(protocol_features).unwrap();
        protocol.set_hdr_flags(VhostUserHeaderFlag::NEED_REPLY);
        protocol.get_queue_num().unwrap();
        protocol.set_mem_table(&memory.regions()).unwrap();
        Self { protocol, stream, memory: memory.clone(), features, _lifetime: lifetime, log: log.clone() }
    }

    /// Sets queue `index` up and enables it.
    pub(crate) fn queue(&mut self, index: usize) -> Queue {
        self.queue_of_size(index, QUEUE_SIZE)
    }

    /// As [`Self::queue`], with a ring of `size` entries.
    pub(crate) fn queue_of_size(&mut self, index: usize, size: u16) -> Queue {
        let queue = Queue::new(index, size, &self.memory, self.log.clone());
        self.start(&queue, 0);
        queue
    }

    /// Queue `index`, not set up.
    pub(crate) fn new_queue(&self, index: usize) -> Queue {
        Queue::new(index, QUEUE_SIZE, &self.memory, self.log.clone())
    }

    /// Hands `queue` to the back-end, which is to continue at available index `base`.
    pub(crate) fn start(&mut self, queue: &Queue, base: u16) {
        self.try_start(queue, base).unwrap();
    }

    /// As [`Self::start`], for a ring that may be refused.
    pub(crate) fn try_start(&mut self, queue: &Queue, base: u16) -> vhost::Result<()> {
        let index = queue.index();
        let config = self.config_of(queue);
        self.protocol.set_vring_num(index, queue.size())?;
        self.protocol.set_vring_base(index, base)?;
        self.protocol.set_vring_addr(index, &config)?;
        self.protocol.set_vring_call(index, queue.call_fd())?;
        // a new call is signalled at once; later signals are for used chains
        queue.take_interrupts();
        self.protocol.set_vring_kick(index, queue.kick_fd())?;
        self.protocol.set_vring_enable(index, true)
    }

    /// The configuration of `queue` for `SET_VRING_ADDR`.
    pub(crate) fn config_of(&self, queue: &Queue) -> VringConfigData {
        let addresses = queue.addresses();
        VringConfigData {
            queue_max_size: queue.size(),
            queue_size: queue.size(),
            desc_table_addr: self.memory.frontend_address(addresses.descriptor_table),
            avail_ring_addr: self.memory.frontend_address(addresses.available_ring),
            used_ring_addr: self.memory.frontend_address(addresses.used_ring),
            ..VringConfigData::default()
        }
    }

    /// Hands `log` over, as at the beginning of a migration.
    pub(crate) fn log_to(&mut self, log: &DirtyLog) {
        self.protocol.set_log_base(0, Some(log.region())).unwrap();
    }

    /// Asks for what is written to be logged, or for no more of it.
    pub(crate) fn log_writes(&mut self, on: bool) {
        let features = if on { self.features | LOG_ALL } else { self.features };
        self.protocol.set_features(features).unwrap();
    }

    /// Says where writes to the used ring of `queue`, which runs, are to be logged.
    pub(crate) fn log_used_ring(&mut self, queue: &Queue, at: Option<u64>) {
        const VHOST_VRING_F_LOG: u32 = 1;
        let flags = if at.is_some() { VHOST_VRING_F_LOG } else { 0 };
        let config = VringConfigData { flags, log_addr: at, ..self.config_of(queue) };
        self.protocol.set_vring_addr(queue.index(), &config).unwrap();
    }

    /// Takes `queue` back from the back-end, nothing in flight. Returns the available index to
    /// continue at.
    pub(crate) fn stop(&mut self, queue: &Queue) -> u16 {
        self.protocol.get_vring_base(queue.index()).unwrap().try_into().unwrap()
    }

    /// `GET_CONFIG` by hand: the `vhost` crate waits for ever when it is refused. `None`: it was.
    pub(crate) fn config(&mut self, offset: u32, size: u32) -> Option<Vec<u8>> {
        let mut body: Vec<u8> = [offset, size, 0].into_iter().flat_map(u32::to_ne_bytes).collect();
        body.resize(body.len() + size as usize, 0);
        let reply = self.exchange(FrontendReq::GET_CONFIG, &body);
        assert_eq!(reply[4..8], u32::try_from(reply.len() - 12).unwrap().to_ne_bytes());
        (reply.len() > 12).then(|| reply[12..].to_vec())
    }

    /// Sends any message at all. `request` is its number.
    pub(crate) fn send(&self, request: impl Into<u32>, flags: u32, body: &[u8], files: &[RawFd]) {
        self.send_bytes(&message(request, flags, body), files);
    }

    /// Sends bytes that need not be a message.
    pub(crate) fn send_bytes(&self, bytes: &[u8], files: &[RawFd]) {
        assert_eq!(self.stream.send_with_fds(&[bytes], files).unwrap(), bytes.len());
    }

    /// Sends a message that has a reply of its own, and returns the reply's body.
    pub(crate) fn exchange(&mut self, request: FrontendReq, body: &[u8]) -> Vec<u8> {
        self.send(request, 0, body, &[]);
        let (replied, reply) = self.reply().expect("a reply");
        assert_eq!(replied, u32::from(request));
        reply
    }

    /// Sends a message to be acknowledged. False: it was refused.
    pub(crate) fn acknowledged(&mut self, request: impl Into<u32>, body: &[u8], files: &[RawFd]) -> bool {
        let request = request.into();
        self.send(request, VhostUserHeaderFlag::NEED_REPLY.bits(), body, files);
        let (replied, reply) = self.reply().expect("an acknowledgement");
        assert_eq!(replied, request);
        reply == [0; 8]
    }

    /// The next reply: its number and body. `None`: the back-end has ended the session.
    pub(crate) fn reply(&mut self) -> Option<(u32, Vec<u8>)> {
        let mut header = [0; 12];
        // also reset, where a message was left unread
        self.stream.read_exact(&mut header).ok()?;
        let field = |index: usize| u32::from_ne_bytes(*header[index * 4..].first_chunk().unwrap());
        assert_eq!(field(1), VERSION | VhostUserHeaderFlag::REPLY.bits());
        let mut body = vec![0; field(2) as usize];
        self.stream.read_exact(&mut body).unwrap();
        Some((field(0), body))
    }
}

/// A message as it goes over the socket.
pub(crate) fn message(request: impl Into<u32>, flags: u32, body: &[u8]) -> Vec<u8> {
    let header = [request.into(), VERSION | flags, u32::try_from(body.len()).unwrap()];
    header.into_iter().flat_map(u32::to_ne_bytes).chain(body.iter().copied()).collect()
}

/// Ends a session that lasts longer than any test's should, until what is returned is dropped: the
/// `vhost` crate waits without a limit.
fn watch(stream: UnixStream) -> Sender<()> {
    let (session, ended) = mpsc::channel();
    thread::spawn(move || {
        if ended.recv_timeout(4 * TIME_LIMIT) == Err(RecvTimeoutError::Timeout) {
            let _ = stream.shutdown(Shutdown::Both);
        }
    });
    session
}
