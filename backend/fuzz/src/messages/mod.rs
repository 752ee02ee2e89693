//! Sessions of a front-end that says anything, with any descriptors, in any pieces, while its
//! driver makes requests.

mod frontend;
mod speech;

use std::os::unix::net::UnixStream;
use std::sync::{Arc, Once};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use integrity::sidecar;
use integrity::{Guard, IntegrityProfile, PiType};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use stableblk::device::BlockDevice;
use stableblk::device::mem::MemDevice;
use stableblk::guest::MEMORY_SLOTS_MAX;
use stableblk::guest::sigbus;
use stableblk::inbox::Inbox;
use stableblk::metrics::QueueMetrics;
use stableblk::session::{self, FrontendTurn, Notice, Offer};
use stableblk::worker::disk::Disk;
use stableblk::worker::range_lock::{RangeAccess, RangeOwner};
use virtio::{ConfigSpace, Features};

use self::frontend::Frontend;
use super::disk::disk;
use super::input::Input;

const QUEUES: usize = 3;
const CAPACITY: usize = 64 << 10;
/// A session that has not ended this long after its stream did, hangs.
const TIME_LIMIT: Duration = Duration::from_secs(60);

/// Runs sessions, one after the other on one disk, until the input is used up.
pub fn run(input: &[u8]) {
    talk(input);
}

/// How much has been said.
#[derive(Debug, Default, Clone, Copy)]
pub struct Tally {
    /// Messages, and bytes that were none.
    pub messages: u64,
    /// Sessions it took.
    pub sessions: u64,
    /// Requests that the driver got done meanwhile.
    pub requests: u64,
}

/// As [`run`]; returns how much was said.
pub fn talk(input: &[u8]) -> Tally {
    static CATCH: Once = Once::new();
    CATCH.call_once(|| sigbus::catch().expect("a signal handler"));
    let disk = protected_disk();
    let mut input = Input(input);
    let mut frontend = Frontend::new();
    let mut sessions = 0;
    while !input.is_empty() {
        let (stream, served) = UnixStream::pair().expect("a socket pair");
        let session = Session::start(disk.clone(), served);
        while !input.is_empty() && speech::step(&mut frontend, &stream, &session.inbox, &mut input) {}
        drop(stream);
        session.join();
        sessions += 1;
        let mut locks = disk.locks.table();
        let (ticket, held) =
            locks.acquire(0..u64::MAX, RangeAccess::Exclusive, RangeOwner { queue: 0, request: 0 });
        assert!(held, "a request has kept its range");
        locks.release(ticket, |_| ());
    }
    let media = disk.device.media();
    let profile = profile();
    let mismatch = sidecar::mismatches(&profile, 0, &media.data, &media.tuples).expect("whole blocks").next();
    assert_eq!(mismatch, None, "the front-end has damaged the disk");
    let done = |queue: &QueueMetrics| {
        queue.completed.reads.count() + queue.completed.writes.count() + queue.completed.flushes.count()
    };
    let requests = disk.metrics.iter().map(done).sum();
    Tally { messages: frontend.messages, sessions, requests }
}

/// A session on a thread of its own.
#[derive(Debug)]
pub struct Session {
    thread: JoinHandle<()>,
    /// A stream whose other end is dropped when the thread ends.
    ended: UnixStream,
    /// For what the control thread says.
    pub inbox: Arc<Inbox<Notice>>,
}

impl Session {
    /// Serves `stream`.
    pub fn start<B: BlockDevice>(disk: Arc<Disk<B>>, stream: UnixStream) -> Self {
        let inbox = Arc::new(Inbox::new().expect("an eventfd"));
        let notices = inbox.clone();
        let (ended, running) = UnixStream::pair().expect("a socket pair");
        let thread = thread::spawn(move || {
            session::serve(disk, offer(), stream, notices, FrontendTurn::Only).expect("a session");
            drop(running);
        });
        Self { thread, ended, inbox }
    }

    /// Waits for the end of the session, whose stream has ended.
    pub fn join(self) {
        let limit = Timespec::try_from(TIME_LIMIT).expect("a short time");
        let ended = poll(&mut [PollFd::new(&self.ended, PollFlags::IN)], Some(&limit)).expect("a poll");
        assert_eq!(ended, 1, "the session does not end");
        self.thread.join().expect("the session panicked");
    }
}

fn offer() -> Offer {
    let config = ConfigSpace {
        capacity_sectors: CAPACITY as u64 / 512,
        block_size: 512,
        writeback: true,
        num_queues: u16::try_from(QUEUES).expect("a few"),
        ..ConfigSpace::default()
    };
    let features = Features::FLUSH
        | Features::CONFIG_WCE
        | Features::MQ
        | Features::EVENT_IDX
        | Features::INDIRECT_DESC
        | Features::VERSION_1;
    Offer { features, config, queue_size_max: 256, memory_slots: MEMORY_SLOTS_MAX }
}

fn profile() -> IntegrityProfile {
    IntegrityProfile::new(Guard::Crc64Nvme, PiType::Type1, 4096).expect("it is the default")
}

/// A protected disk in memory.
pub fn protected_disk() -> Arc<Disk<MemDevice>> {
    disk_on(device())
}

/// The device of [`protected_disk`].
pub fn device() -> Arc<MemDevice> {
    Arc::new(MemDevice::new(Some(profile()), CAPACITY))
}

/// As [`protected_disk`], on another device of that size.
pub fn disk_on<B: BlockDevice>(device: Arc<B>) -> Arc<Disk<B>> {
    disk(device, QUEUES, 512, false)
}
