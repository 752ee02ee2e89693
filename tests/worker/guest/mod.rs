//! The guest's side of a disk: memory, a ring for each queue, and the workers that serve them.

mod command;
mod requests;

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use stableblk::device::BlockDevice;
use stableblk::guest::eventfd::{CallFd, KickFd};
use stableblk::guest::inflight_region::{self, InflightLimits, InflightQueue, InflightRegion};
use stableblk::guest::memory_table::GuestMemory;
use stableblk::inbox::Inbox;
use stableblk::metrics::{DiskMetrics, Gauge, QueueMetrics};
use stableblk::worker::disk::{Bounce, Disk};
use stableblk::worker::limits::Limiter;
use stableblk::worker::message::WorkerMessage;
use stableblk::worker::range_lock::{RangeAccess, RangeLock, RangeOwner};
use stableblk::worker::{QueueWorker, Vring};
use vhost::vhost_user::message::VhostUserInflight;
use virtio::testing::{Driver, Used};
use virtio::{DEVICE_ID_LEN, DiskLimits, RangeLimits, SECTOR_SIZE, SplitRing};
use vm_memory::GuestAddress;

pub(crate) use self::command::{Command, Layout};
pub(crate) use self::requests::{Completion, RequestId};

/// Status bytes, as the specification numbers them.
pub(crate) const OK: u8 = 0;
pub(crate) const IOERR: u8 = 1;
/// The contents of a buffer before the device writes it.
pub(crate) const NOT_WRITTEN: u8 = 0xEE;

/// After this long without a completion, a worker hangs.
const TIME_LIMIT: Duration = Duration::from_secs(120);
/// Guest memory of one queue: its ring, then buffers.
pub(crate) const QUEUE_SPAN: u64 = 64 << 20;

/// A region for one queue.
pub(crate) fn new_inflight_region(ring_size: u16) -> Arc<InflightRegion> {
    let limits = InflightLimits { queues: 1, queue_size: ring_size };
    let (made, file) = inflight_region::create(&VhostUserInflight::new(0, 0, 1, ring_size), limits).unwrap();
    Arc::new(InflightRegion::map(&made, file, limits).unwrap())
}

/// The part of the region for its queue, as a predecessor left it.
pub(crate) fn take_over(region: &Arc<InflightRegion>, ring_size: u16) -> InflightQueue {
    InflightQueue::take_over(region, 0, ring_size, 0).unwrap().unwrap()
}

/// Memory for a guest with `queues` queues; pages that are not touched cost nothing.
pub(crate) fn guest_memory(queues: u64) -> Arc<GuestMemory> {
    let len = usize::try_from(queues * QUEUE_SPAN).unwrap();
    Arc::new(GuestMemory::from_ranges(&[(GuestAddress(0), len)]).unwrap())
}

/// The choices of front-end and driver.
#[expect(clippy::struct_excessive_bools, reason = "each is a choice of its own")]
#[derive(Clone, Copy, Debug)]
pub(crate) struct Setup {
    pub(crate) queues: usize,
    pub(crate) ring_size: u16,
    pub(crate) event_idx: bool,
    pub(crate) writethrough: bool,
    /// The guest's block size, in bytes.
    pub(crate) block_size: u32,
    pub(crate) poll: Duration,
    pub(crate) bounce: Bounce,
    pub(crate) read_only: bool,
    /// The front-end keeps an in-flight region.
    pub(crate) inflight: bool,
}

impl Default for Setup {
    fn default() -> Self {
        Self {
            queues: 1,
            ring_size: 256,
            event_idx: true,
            writethrough: false,
            block_size: 512,
            poll: Duration::ZERO,
            bounce: Bounce::Always,
            read_only: false,
            inflight: false,
        }
    }
}

struct Queue<'m> {
    driver: Driver<&'m GuestMemory>,
    kick: OwnedFd,
    error: OwnedFd,
    buffers_start: u64,
    next_buffer: u64,
    /// The device-writable segments of what the device has, by head.
    outstanding: HashMap<u16, Vec<(u64, u32)>>,
    /// The test looks at the used ring itself.
    taken_over: bool,
    /// Returns the queue when it ends.
    worker: Option<JoinHandle<io::Result<Vring>>>,
}

/// A guest, and the workers that serve its disk.
pub(crate) struct Guest<'m, B: BlockDevice> {
    pub(crate) disk: Arc<Disk<B>>,
    memory: &'m Arc<GuestMemory>,
    setup: Setup,
    queues: Vec<Queue<'m>>,
    /// All queues interrupt here.
    call: OwnedFd,
}

impl<'m, B: BlockDevice> Guest<'m, B> {
    /// Starts a worker for each queue on `device`.
    pub(crate) fn start(memory: &'m Arc<GuestMemory>, device: Arc<B>, setup: Setup) -> Self {
        let capacity_sectors = device.info().capacity.get() / SECTOR_SIZE;
        let limits = RangeLimits { sectors_max: u32::MAX, ranges_max: 1 };
        let disk = Arc::new(Disk {
            device,
            locks: RangeLock::default(),
            inboxes: (0..setup.queues).map(|_| Inbox::new().unwrap()).collect(),
            beside: stableblk::worker::beside::Beside::new().unwrap(),
            metrics: (0..setup.queues).map(|_| QueueMetrics::default()).collect(),
            events: DiskMetrics::default(),
            limits: DiskLimits {
                capacity_sectors,
                block_size: setup.block_size,
                read_only: setup.read_only,
                discard: Some(limits),
                write_zeroes: Some(limits),
            },
            limiter: Limiter::none(setup.queues),
            negotiated: Gauge::default(),
            watch: stableblk::worker::watch::Watch::default(),
            serial: [0; DEVICE_ID_LEN],
            bounce: setup.bounce,
            poll: setup.poll,
        });
        let queues = (0u64..).take(setup.queues).map(|index| {
            let base = index * QUEUE_SPAN;
            let buffers_start = base + Driver::<&GuestMemory>::ring_len(setup.ring_size) as u64;
            Queue {
                driver: Driver::new(&**memory, base, setup.ring_size),
                kick: new_eventfd(),
                error: new_eventfd(),
                buffers_start,
                next_buffer: buffers_start,
                outstanding: HashMap::new(),
                taken_over: false,
                worker: None,
            }
        });
        let mut guest = Self { disk, memory, setup, queues: queues.collect(), call: new_eventfd() };
        for index in 0..setup.queues {
            let ring = guest.queues[index].driver.device(setup.event_idx).unwrap();
            guest.start_queue(index, ring);
        }
        guest
    }

    /// Hands `ring` to a worker on a thread of its own.
    pub(crate) fn start_queue(&mut self, index: usize, ring: SplitRing) {
        let queue = &self.queues[index];
        self.start_vring(Vring {
            index,
            ring,
            kick: KickFd::new(clone(&queue.kick)).unwrap(),
            call: Some(CallFd::new(clone(&self.call)).unwrap()),
            error: Some(CallFd::new(clone(&queue.error)).unwrap()),
            inflight: self.setup.inflight.then(|| {
                let ring_size = self.setup.ring_size;
                take_over(&new_inflight_region(ring_size), ring_size)
            }),
            writethrough: self.setup.writethrough,
            used_log: None,
            retired: false,
            memory_lost: false,
        });
    }

    /// Hands a queue over as it is.
    pub(crate) fn start_vring(&mut self, vring: Vring) {
        let index = vring.index;
        let (disk, memory) = (self.disk.clone(), self.memory.clone());
        self.queues[index].worker =
            Some(thread::spawn(move || QueueWorker::new(disk, &memory, vring).and_then(QueueWorker::run)));
    }

    /// Asks a queue's worker to stop, without waiting for it.
    pub(crate) fn ask_to_stop(&self, index: usize) {
        self.disk.inboxes[index].post(WorkerMessage::Stop);
    }

    /// Asks a queue's worker to stop, and waits until it sleeps again because it cannot yet.
    pub(crate) fn ask_to_stop_and_wait_for_sleep(&self, index: usize) {
        let metrics = &self.disk.metrics[index];
        let sleeps = || metrics.awake.get() == 0;
        until(sleeps);
        let before = metrics.turns.get();
        self.ask_to_stop(index);
        // it takes the message in the turn in which it wakes up
        until(|| metrics.turns.get() > before && sleeps());
    }

    /// Whether a queue's worker has ended.
    pub(crate) fn has_stopped(&self, index: usize) -> bool {
        self.queues[index].worker.as_ref().is_none_or(JoinHandle::is_finished)
    }

    /// Waits until a queue's worker has ended, and takes what it returns.
    pub(crate) fn join(&mut self, index: usize) -> io::Result<Vring> {
        until(|| self.has_stopped(index));
        self.queues[index].worker.take().expect("the queue ran").join().expect("the worker panicked")
    }

    /// Stops all queues, and checks that nothing is left behind: no chain, no range of the disk.
    pub(crate) fn stop_all(&mut self) {
        let running: Vec<_> = (0..self.queues.len()).filter(|&at| self.queues[at].worker.is_some()).collect();
        for &index in &running {
            self.ask_to_stop(index);
        }
        for index in running {
            let vring = self.join(index).unwrap();
            assert_eq!(vring.ring.outstanding(), 0, "queue {index} has chains that were not returned");
        }
        let owner = RangeOwner { queue: 0, request: 0 };
        let mut table = self.disk.locks.table();
        let (ticket, held) = table.acquire(0..u64::MAX, RangeAccess::Exclusive, owner);
        assert!(held, "a request has kept its range");
        table.release(ticket, |_| {});
    }

    /// The driver of a queue, to do what no driver should.
    pub(crate) fn driver(&mut self, index: usize) -> &mut Driver<&'m GuestMemory> {
        &mut self.queues[index].driver
    }

    /// The next used element of a queue whose chains are the test's own.
    pub(crate) fn next_used(&mut self, index: usize) -> Used {
        let mut used = None;
        until(|| {
            used = self.queues[index].driver.take_used();
            used.is_some()
        });
        used.unwrap()
    }

    /// Leaves what comes back on a queue to the test, until the ring is reset.
    pub(crate) fn take_over(&mut self, index: usize) {
        self.queues[index].taken_over = true;
    }

    /// Sets a stopped queue's ring up again, as a driver does after a reset. Returns the device's
    /// side.
    pub(crate) fn reset_ring(&mut self, index: usize) -> SplitRing {
        let queue = &mut self.queues[index];
        queue.outstanding.clear();
        queue.taken_over = false;
        queue.driver = Driver::new(&**self.memory, index as u64 * QUEUE_SPAN, self.setup.ring_size);
        queue.driver.device(self.setup.event_idx).unwrap()
    }

    /// Waits until a queue's worker has popped all there is and sleeps. Needs `EVENT_IDX`.
    pub(crate) fn until_popped(&self, index: usize) {
        until(|| !self.queues[index].driver.wants_notification());
    }

    /// Whether the device says, soon, that a queue is lost.
    pub(crate) fn is_retired(&self, index: usize) -> bool {
        is_signalled(&self.queues[index].error, TIME_LIMIT)
    }
}

impl<B: BlockDevice> Drop for Guest<'_, B> {
    fn drop(&mut self) {
        // a test that failed leaves no worker behind
        (0..self.queues.len()).for_each(|index| self.ask_to_stop(index));
    }
}

/// Waits for `condition`, which is to come true soon.
pub(crate) fn until(mut condition: impl FnMut() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < TIME_LIMIT, "a worker hangs");
        thread::sleep(Duration::from_millis(1));
    }
}

fn new_eventfd() -> OwnedFd {
    eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).unwrap()
}

fn clone(fd: &OwnedFd) -> File {
    fd.try_clone().unwrap().into()
}

fn is_signalled(fd: &OwnedFd, within: Duration) -> bool {
    let timeout = Timespec::try_from(within).unwrap();
    poll(&mut [PollFd::new(fd, PollFlags::IN)], Some(&timeout)).unwrap() > 0
}
