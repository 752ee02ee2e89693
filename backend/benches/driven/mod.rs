//! Workers that call their drivers where they would sleep: one thread for each queue, no wake-ups,
//! the same work in every run.

use std::cell::Cell;
use std::io;
use std::sync::{Arc, Barrier};
use std::thread;
use std::time::{Duration, Instant};

use rustix::event::{EventfdFlags, eventfd};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use stableblk::device::bounce::Arena;
use stableblk::device::operation::DeviceOperation;
use stableblk::device::{BlockDevice, DeviceInfo, DeviceQueue, Event, EventSources};
use stableblk::guest::eventfd::KickFd;
use stableblk::guest::inflight_region::InflightQueue;
use stableblk::guest::memory_table::GuestMemory;
use stableblk::inbox::Inbox;
use stableblk::metrics::{DiskMetrics, Gauge, QueueMetrics};
use stableblk::worker::beside::Beside;
use stableblk::worker::disk::{Bounce, Disk};
use stableblk::worker::limits::Limiter;
use stableblk::worker::message::WorkerMessage;
use stableblk::worker::range_lock::RangeLock;
use stableblk::worker::{QueueWorker, Vring};
use virtio::testing::{ChainBuffer, Driver};
use virtio::{DEVICE_ID_LEN, DiskLimits, RingAddresses, request_type};
use vm_memory::{Bytes, GuestAddress};

pub(crate) const RING_SIZE: u16 = 128;
/// Length of a request, and what the device reads and writes multiples of.
pub(crate) const GRANULE: u32 = 4096;
/// Requests made available at once.
pub(crate) const BATCH: u16 = 32;
/// Batches in a run.
const BATCHES: usize = 50;
/// From one request's place on the disk to the next one's, in bytes.
const STRIDE: u64 = 512 << 10;
/// Most queues at once; each has its own part of the disk.
const QUEUES: u64 = 2;
/// Size of the disk, in bytes.
pub(crate) const CAPACITY: u64 = STRIDE * BATCH as u64 * QUEUES;
/// Guest memory from here on holds the chains, each in a slot of its own.
const SLOTS: u64 = 1 << 20;
const SLOT_SIZE: u64 = 0x4000;

/// The load of one worker.
#[derive(Debug)]
pub(crate) struct Load {
    /// `VIRTIO_BLK_T_IN` or `VIRTIO_BLK_T_OUT`
    pub(crate) request_type: u32,
    /// The guest's block size, in bytes. Where it is smaller than [`GRANULE`], the range lock is
    /// taken.
    pub(crate) block_size: u32,
    pub(crate) bounce: Bounce,
    pub(crate) inflight: Option<InflightQueue>,
}

/// The time that a worker takes for a request, in nanoseconds.
pub(crate) fn run<B: BlockDevice>(device: Arc<B>, load: Load) -> f64 {
    run_at_once(device, vec![load], BATCHES)
}

/// As [`run`], where each of `loads` has a queue of the disk and a worker on a thread of its own,
/// at the same time. It is the longest time of all, for the requests of all. The disk's block size
/// and bounce are those of the first.
pub(crate) fn run_at_once<B: BlockDevice>(device: Arc<B>, loads: Vec<Load>, batches: usize) -> f64 {
    let disk = disk(Driven::new(device), &loads);
    let requests = loads.len() * batches * usize::from(BATCH);
    let ready = Barrier::new(loads.len());
    let elapsed = thread::scope(|scope| {
        let serve = |(index, load)| {
            let (disk, ready) = (&disk, &ready);
            scope.spawn(move || serve(disk, index, load, batches, ready))
        };
        let queues: Vec<_> = loads.into_iter().enumerate().map(serve).collect();
        queues.into_iter().map(|queue| queue.join().expect("no worker panics")).max()
    });
    per_request(elapsed.expect("there is a queue"), requests)
}

#[expect(clippy::cast_precision_loss, reason = "three digits are of interest")]
fn per_request(elapsed: Duration, requests: usize) -> f64 {
    elapsed.as_nanos() as f64 / requests as f64
}

/// The time that `batches` of a queue take, from the moment when all queues are `ready`.
fn serve<B: BlockDevice>(
    disk: &Arc<Disk<Driven<B>>>,
    index: usize,
    load: Load,
    batches: usize,
    ready: &Barrier,
) -> Duration {
    let memory = GuestMemory::from_ranges(&[(GuestAddress(0), 2 << 20)]).expect("a small region");
    let memory = Arc::new(memory);
    let mut driver = Driver::new(&*memory, 0, RING_SIZE);
    let first = index as u64 * u64::from(BATCH) * STRIDE;
    let heads = (0..BATCH).map(|slot| lay_out(&mut driver, load.request_type, slot.into(), first)).collect();
    let ring = driver.device(true).expect("the ring lies in memory");
    let addresses = driver.addresses();
    let guest = Guest { memory: memory.clone(), addresses, heads, batches, started: None };
    let kick = eventfd(0, EventfdFlags::NONBLOCK).expect("an eventfd");
    let kick = KickFd::new(kick.into()).expect("it is an eventfd");
    let vring = Vring {
        index,
        ring,
        kick,
        call: None,
        error: None,
        inflight: load.inflight,
        writethrough: false,
        used_log: None,
        retired: false,
        memory_lost: false,
    };
    disk.inboxes[index].post(WorkerMessage::Stop);
    GUEST.set(Some(guest));
    let worker = QueueWorker::new(disk.clone(), &memory, vring).expect("io_uring is allowed");
    keep_to_core(index);
    ready.wait();
    worker.run().expect("nothing fails here");
    for slot in 0..u64::from(BATCH) {
        let status: u8 = memory.read_obj(GuestAddress(SLOTS + slot * SLOT_SIZE + 0x2000)).expect("in memory");
        assert_eq!(status, 0, "a request has failed");
    }
    ELAPSED.take().expect("all batches came back")
}

/// Keeps the thread on the `index`th core that it may use, counted round and round. The scheduler
/// may take milliseconds to notice that another core is idle.
fn keep_to_core(index: usize) {
    let allowed = sched_getaffinity(None).expect("it can be asked");
    let mut cores = (0..CpuSet::MAX_CPU).filter(|core| allowed.is_set(*core)).cycle();
    let mut one = CpuSet::new();
    one.set(cores.nth(index).expect("this thread runs on one"));
    sched_setaffinity(None, &one).expect("it is allowed");
}

/// Writes the chain of one request of a queue whose part of the disk begins at byte `first`.
/// Returns its head.
fn lay_out(driver: &mut Driver<&GuestMemory>, request_type: u32, slot: u64, first: u64) -> u16 {
    let address = SLOTS + slot * SLOT_SIZE;
    driver.write_header(address, request_type, (first + slot * STRIDE) / 512);
    let data = match request_type {
        request_type::OUT => ChainBuffer::readable(address + 0x1000, GRANULE),
        _ => ChainBuffer::writable(address + 0x1000, GRANULE),
    };
    driver.write_chain(&[
        ChainBuffer::readable(address, 16),
        data,
        ChainBuffer::writable(address + 0x2000, 1),
    ])
}

fn disk<B: BlockDevice>(device: Driven<B>, loads: &[Load]) -> Arc<Disk<Driven<B>>> {
    Arc::new(Disk {
        device: Arc::new(device),
        locks: RangeLock::default(),
        inboxes: loads.iter().map(|_| Inbox::new().expect("an eventfd")).collect(),
        beside: Beside::new().expect("an eventfd"),
        metrics: loads.iter().map(|_| QueueMetrics::default()).collect(),
        events: DiskMetrics::default(),
        limits: DiskLimits {
            capacity_sectors: CAPACITY / 512,
            block_size: loads[0].block_size,
            read_only: false,
            discard: None,
            write_zeroes: None,
        },
        limiter: Limiter::none(loads.len()),
        negotiated: Gauge::default(),
        watch: stableblk::worker::watch::Watch::default(),
        serial: [0; DEVICE_ID_LEN],
        bounce: loads[0].bounce,
        poll: Duration::ZERO,
    })
}

thread_local! {
    /// The guest of the queue that is opened next, on the thread that serves it.
    static GUEST: Cell<Option<Guest>> = const { Cell::new(None) };
    /// The time that its batches have taken.
    static ELAPSED: Cell<Option<Duration>> = const { Cell::new(None) };
}

/// The driver's side.
#[derive(Debug)]
struct Guest {
    memory: Arc<GuestMemory>,
    addresses: RingAddresses,
    heads: Vec<u16>,
    /// Batches that are left.
    batches: usize,
    started: Option<Instant>,
}

impl Guest {
    /// Makes the next batch available when all requests are back. Returns the time of all batches
    /// after the last.
    fn next_batch(&mut self) -> Option<Duration> {
        let started = *self.started.get_or_insert_with(Instant::now);
        if self.batches == 0 {
            return Some(started.elapsed());
        }
        self.batches -= 1;
        let mut driver = Driver::at(&*self.memory, self.addresses, RING_SIZE);
        self.heads.iter().for_each(|head| driver.make_available(*head));
        None
    }
}

/// Another device with granules of 4 KiB, whose worker calls the guest when it would sleep.
#[derive(Debug)]
struct Driven<B> {
    device: Arc<B>,
    info: DeviceInfo,
}

impl<B: BlockDevice> Driven<B> {
    fn new(device: Arc<B>) -> Self {
        let info = DeviceInfo { granule: GRANULE as usize, ..device.info().clone() };
        Self { device, info }
    }
}

impl<B: BlockDevice> BlockDevice for Driven<B> {
    type Queue = DrivenQueue<B>;

    fn info(&self) -> &DeviceInfo {
        &self.info
    }

    fn open_queue(self: &Arc<Self>, arena: &Arena, sources: EventSources<'_>) -> io::Result<DrivenQueue<B>> {
        Ok(DrivenQueue {
            queue: self.device.open_queue(arena, sources)?,
            guest: GUEST.take().expect("the guest is set before its queue is opened"),
            in_flight: 0,
            stop: None,
        })
    }

    fn close(&self) -> io::Result<()> {
        self.device.close()
    }
}

struct DrivenQueue<B: BlockDevice> {
    queue: B::Queue,
    guest: Guest,
    in_flight: usize,
    /// The event for the message to stop, which is posted at the start and held back.
    stop: Option<Event>,
}

impl<B: BlockDevice> DeviceQueue for DrivenQueue<B> {
    fn submit(&mut self, operation: DeviceOperation) {
        self.in_flight += 1;
        self.queue.submit(operation);
    }

    fn enter(&mut self, wait: bool) -> io::Result<()> {
        if self.in_flight > 0 {
            return self.queue.enter(wait);
        }
        if let Some(elapsed) = self.guest.next_batch() {
            ELAPSED.set(Some(elapsed));
            self.stop = Some(Event::Wake);
        }
        Ok(())
    }

    fn enter_for(&mut self, _limit: Duration) -> io::Result<()> {
        self.enter(true)
    }

    fn has_work(&mut self) -> bool {
        self.queue.has_work()
    }

    fn reap(&mut self) -> Option<Event> {
        loop {
            match self.queue.reap() {
                None => return self.stop.take(),
                // the message to stop is held back
                Some(Event::Wake) => {}
                Some(event) => {
                    self.in_flight -= usize::from(matches!(event, Event::Done(..)));
                    return Some(event);
                }
            }
        }
    }
}
