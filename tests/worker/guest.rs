//! The guest's side of a disk: memory, a ring a queue, requests laid out as asked, and the workers that serve them.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{Ordering, fence};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use stableblk::device::BlockDevice;
use stableblk::guest::eventfd::{CallFd, KickFd};
use stableblk::guest::inflight_region::{self, InflightLimits, InflightQueue, InflightRegion};
use stableblk::guest::memory_table::GuestMemory;
use stableblk::inbox::Inbox;
use stableblk::metrics::{Gauge, QueueMetrics};
use stableblk::worker::disk::{Bounce, Disk};
use stableblk::worker::message::WorkerMessage;
use stableblk::worker::range_lock::{RangeAccess, RangeLock, RangeOwner};
use stableblk::worker::{QueueWorker, Vring};
use vhost::vhost_user::message::VhostUserInflight;
use virtio::testing::{ChainBuffer, Driver, Used, header, range};
use virtio::{DEVICE_ID_LEN, DiskLimits, Range, RangeLimits, SECTOR_SIZE, SplitRing, request_type};
use vm_memory::{Bytes, GuestAddress};

/// Status bytes, as the specification numbers them.
pub(crate) const OK: u8 = 0;
pub(crate) const IOERR: u8 = 1;
/// What a buffer of the device holds before the device writes it.
pub(crate) const NOT_WRITTEN: u8 = 0xEE;

/// After this long without a completion, a worker hangs.
const TIME_LIMIT: Duration = Duration::from_secs(120);
/// Guest memory of one queue: its ring, then buffers.
pub(crate) const QUEUE_SPAN: u64 = 64 << 20;
/// Between buffers, to notice a device that writes past one.
const MARGIN: [u8; 16] = [0xA5; 16];

/// A region for one queue.
pub(crate) fn new_inflight_region(ring_size: u16) -> Arc<InflightRegion> {
    let limits = InflightLimits { queues: 1, queue_size: ring_size };
    let (made, file) = inflight_region::create(&VhostUserInflight::new(0, 0, 1, ring_size), limits).unwrap();
    Arc::new(InflightRegion::map(&made, file, limits).unwrap())
}

/// Its part of that queue, as a predecessor left it.
pub(crate) fn take_over(region: &Arc<InflightRegion>, ring_size: u16) -> InflightQueue {
    InflightQueue::take_over(region, 0, ring_size, 0).unwrap().unwrap()
}

/// Memory for a guest with `queues` queues; pages that are not touched cost nothing.
pub(crate) fn guest_memory(queues: u64) -> Arc<GuestMemory> {
    let len = usize::try_from(queues * QUEUE_SPAN).unwrap();
    Arc::new(GuestMemory::from_ranges(&[(GuestAddress(0), len)]).unwrap())
}

/// What front-end and driver chose.
#[expect(clippy::struct_excessive_bools, reason = "each is a choice of its own")]
#[derive(Clone, Copy, Debug)]
pub(crate) struct Setup {
    pub(crate) queues: usize,
    pub(crate) ring_size: u16,
    pub(crate) event_idx: bool,
    pub(crate) writethrough: bool,
    /// In bytes.
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

/// A request, before it is laid out.
#[derive(Clone, Debug)]
pub(crate) enum Command {
    Read { sector: u64, len: u32 },
    Write { sector: u64, data: Vec<u8> },
    Flush,
    Discard { sector: u64, sectors: u32 },
    WriteZeroes { sector: u64, sectors: u32, unmap: bool },
}

impl Command {
    /// Header and data, as one stream.
    fn readable(&self) -> Vec<u8> {
        let (request_type, sector) = match self {
            Self::Read { sector, .. } => (request_type::IN, *sector),
            Self::Write { sector, .. } => (request_type::OUT, *sector),
            Self::Flush => (request_type::FLUSH, 0),
            Self::Discard { .. } => (request_type::DISCARD, 0),
            Self::WriteZeroes { .. } => (request_type::WRITE_ZEROES, 0),
        };
        let mut stream = header(request_type, sector).to_vec();
        match self {
            Self::Write { data, .. } => stream.extend(data),
            Self::Discard { sector, sectors } => stream.extend(range(*sector, *sectors, 0)),
            Self::WriteZeroes { sector, sectors, unmap } => {
                stream.extend(range(*sector, *sectors, u32::from(*unmap) * Range::UNMAP));
            }
            Self::Read { .. } | Self::Flush => {}
        }
        stream
    }

    /// Bytes of header and data.
    pub(crate) fn readable_len(&self) -> u32 {
        let data = match self {
            Self::Write { data, .. } => data.len(),
            Self::Discard { .. } | Self::WriteZeroes { .. } => 16,
            Self::Read { .. } | Self::Flush => 0,
        };
        16 + u32::try_from(data).unwrap()
    }

    /// Bytes of data and the status.
    pub(crate) fn writable_len(&self) -> u32 {
        match self {
            Self::Read { len, .. } => len + 1,
            _ => 1,
        }
    }
}

/// How a request's two streams of bytes are cut into descriptors.
#[derive(Clone, Debug, Default)]
pub(crate) struct Layout {
    /// Where the device-readable stream is cut, ascending.
    pub(crate) readable_cuts: Vec<u32>,
    /// Where the device-writable stream is cut, ascending.
    pub(crate) writable_cuts: Vec<u32>,
    pub(crate) indirect: bool,
}

/// The name of a request until the buffers of its queue are recycled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct RequestId {
    pub(crate) queue: usize,
    pub(crate) head: u16,
}

/// A request that came back.
#[derive(Debug)]
pub(crate) struct Completion {
    pub(crate) id: RequestId,
    pub(crate) status: u8,
    pub(crate) used_len: u32,
    /// What is in the data buffers of a read.
    pub(crate) data: Vec<u8>,
}

impl Completion {
    /// Status and used length.
    pub(crate) fn outcome(&self) -> (u8, u32) {
        (self.status, self.used_len)
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
            metrics: (0..setup.queues).map(|_| QueueMetrics::default()).collect(),
            limits: DiskLimits {
                capacity_sectors,
                block_size: setup.block_size,
                read_only: setup.read_only,
                discard: Some(limits),
                write_zeroes: Some(limits),
            },
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

    /// Tells a queue's worker to stop, without waiting for it.
    pub(crate) fn ask_to_stop(&self, index: usize) {
        self.disk.inboxes[index].post(WorkerMessage::Stop);
    }

    /// Tells a queue's worker to stop, and waits until it sleeps again because it cannot yet.
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

    /// Sets a stopped queue's ring up anew, as a driver does after a reset; the device's side of it.
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

    /// Lays a request out as a driver usually does: header, data, status.
    pub(crate) fn submit(&mut self, queue: usize, command: &Command) -> RequestId {
        let data = command.writable_len() - 1;
        let writable_cuts = if data > 0 { vec![data] } else { Vec::new() };
        self.submit_as(queue, command, &Layout { readable_cuts: vec![16], writable_cuts, indirect: false })
    }

    /// Lays a request out as asked, makes it available, and notifies the device if it wants that.
    pub(crate) fn submit_as(&mut self, queue: usize, command: &Command, layout: &Layout) -> RequestId {
        let id = self.lay_out(queue, command, layout);
        self.make_available(id);
        self.kick(queue);
        id
    }

    /// Lays a request out, for [`Self::make_available`].
    pub(crate) fn lay_out(&mut self, index: usize, command: &Command, layout: &Layout) -> RequestId {
        let memory = self.memory;
        let queue = &mut self.queues[index];
        let stream = command.readable();
        let readable = queue.place(u32::try_from(stream.len()).unwrap(), &layout.readable_cuts);
        let writable = queue.place(command.writable_len(), &layout.writable_cuts);
        let mut rest = stream.as_slice();
        for &(address, len) in &readable {
            let (part, tail) = rest.split_at(len as usize);
            memory.write_slice(part, GuestAddress(address)).unwrap();
            rest = tail;
        }
        for &(address, len) in &writable {
            memory.write_slice(&vec![NOT_WRITTEN; len as usize], GuestAddress(address)).unwrap();
        }
        for &(address, len) in readable.iter().chain(&writable) {
            memory.write_slice(&MARGIN, GuestAddress(address + u64::from(len))).unwrap();
        }
        let buffers: Vec<_> = readable
            .iter()
            .map(|&(address, len)| ChainBuffer::readable(address, len))
            .chain(writable.iter().map(|&(address, len)| ChainBuffer::writable(address, len)))
            .collect();
        let head = if layout.indirect {
            let table = queue.take_memory(buffers.len() as u64 * 16);
            queue.driver.write_indirect_chain(table, &buffers)
        } else {
            queue.driver.write_chain(&buffers)
        };
        queue.outstanding.insert(head, writable);
        RequestId { queue: index, head }
    }

    /// Makes a request available that was laid out.
    pub(crate) fn make_available(&mut self, id: RequestId) {
        self.queues[id.queue].driver.make_available(id.head);
    }

    /// Makes requests of one queue available that were laid out, and notifies the device. It finds all of them at once, wherever
    /// its worker is: one batch, as far as a batch goes.
    pub(crate) fn make_all_available(&mut self, ids: &[RequestId]) {
        let index = ids[0].queue;
        self.queues[index].driver.make_all_available(ids.iter().map(|id| id.head));
        self.force_kick(index);
    }

    /// Notifies the device of the last available chain, if it wants that.
    pub(crate) fn kick(&self, index: usize) {
        let queue = &self.queues[index];
        let wanted = if self.setup.event_idx {
            queue.driver.wants_notification()
        } else {
            // the driver's index goes out before the device's flag is read
            fence(Ordering::SeqCst);
            !queue.driver.notifications_suppressed()
        };
        if wanted {
            self.force_kick(index);
        }
    }

    /// Notifies the device, whether it wants that or not.
    pub(crate) fn force_kick(&self, index: usize) {
        rustix::io::write(&self.queues[index].kick, &1u64.to_ne_bytes()).unwrap();
    }

    /// What has come back on all queues since the last call.
    pub(crate) fn completions(&mut self) -> Vec<Completion> {
        let memory = self.memory;
        let mut completions = Vec::new();
        for (index, queue) in self.queues.iter_mut().enumerate().filter(|(_, queue)| !queue.taken_over) {
            while let Some(used) = queue.driver.take_used() {
                let head = u16::try_from(used.head).unwrap();
                let writable = queue.outstanding.remove(&head).expect("a chain is returned once");
                let (data, status) = gather(memory, &writable);
                let id = RequestId { queue: index, head };
                completions.push(Completion { id, status, used_len: used.len, data });
            }
        }
        completions
    }

    /// Waits for an interrupt unless something has come back already; what has.
    pub(crate) fn wait(&mut self) -> Vec<Completion> {
        loop {
            for queue in &self.queues {
                queue.driver.set_used_event(queue.driver.used_index());
            }
            // the event index goes out before the used index is read again
            fence(Ordering::SeqCst);
            let completions = self.completions();
            if !completions.is_empty() {
                return completions;
            }
            assert!(is_signalled(&self.call, TIME_LIMIT), "no request comes back");
            rustix::io::read(&self.call, &mut [0; 8]).unwrap();
        }
    }

    /// Waits for all of `ids`, in the order given.
    pub(crate) fn wait_for<const N: usize>(&mut self, ids: [RequestId; N]) -> [Completion; N] {
        let mut found = HashMap::new();
        while found.len() < N {
            for completion in self.wait() {
                assert!(ids.contains(&completion.id), "{completion:?} was not waited for");
                found.insert(completion.id, completion);
            }
        }
        ids.map(|id| found.remove(&id).unwrap())
    }

    /// Submits a request and waits for it, while nothing else is out.
    pub(crate) fn perform(&mut self, queue: usize, command: &Command) -> Completion {
        let id = self.submit(queue, command);
        let [completion] = self.wait_for([id]);
        completion
    }

    /// How many requests have not come back.
    pub(crate) fn outstanding(&self) -> usize {
        self.queues.iter().map(|queue| queue.outstanding.len()).sum()
    }

    /// Uses descriptors and buffers again from the start, when nothing is out.
    pub(crate) fn recycle(&mut self) {
        assert_eq!(self.outstanding(), 0);
        for queue in &mut self.queues {
            queue.driver = Driver::at(&**self.memory, queue.driver.addresses(), self.setup.ring_size);
            queue.next_buffer = queue.buffers_start;
        }
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

impl Queue<'_> {
    /// Places for a stream of `len` bytes, cut at `cuts`.
    fn place(&mut self, len: u32, cuts: &[u32]) -> Vec<(u64, u32)> {
        let starts = std::iter::once(0).chain(cuts.iter().copied());
        let ends = cuts.iter().copied().chain([len]);
        starts.zip(ends).map(|(start, end)| (self.take_memory((end - start).into()), end - start)).collect()
    }

    fn take_memory(&mut self, len: u64) -> u64 {
        let address = self.next_buffer;
        self.next_buffer += len + MARGIN.len() as u64;
        assert!(self.next_buffer % QUEUE_SPAN > self.buffers_start % QUEUE_SPAN, "out of guest memory");
        address
    }
}

/// The bytes of `segments` but the last, and the last: data and status. Checks that nothing was written behind them.
fn gather(memory: &GuestMemory, segments: &[(u64, u32)]) -> (Vec<u8>, u8) {
    let mut stream = Vec::new();
    for &(address, len) in segments {
        let start = stream.len();
        stream.resize(start + len as usize, 0);
        memory.read_slice(&mut stream[start..], GuestAddress(address)).unwrap();
        let mut margin = [0; MARGIN.len()];
        memory.read_slice(&mut margin, GuestAddress(address + u64::from(len))).unwrap();
        assert_eq!(margin, MARGIN, "the device wrote past a buffer");
    }
    let status = stream.pop().unwrap();
    (stream, status)
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
