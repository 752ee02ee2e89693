//! A whole worker against a driver that does anything: its ring, its buffers and its memory change
//! between any two turns of the worker, and the device fails now and then.

use std::io;
use std::mem;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use integrity::sidecar;
use integrity::{Guard, IntegrityProfile, PiType};
use rustix::event::{EventfdFlags, eventfd};
use stableblk::device::bounce::Arena;
use stableblk::device::faulty::{Fault, FaultyDevice};
use stableblk::device::mem::MemDevice;
use stableblk::device::operation::DeviceOperation;
use stableblk::device::{BlockDevice, DeviceInfo, DeviceQueue, Event, EventSources};
use stableblk::guest::eventfd::{CallFd, KickFd};
use stableblk::guest::memory_table::GuestMemory;
use stableblk::worker::message::WorkerMessage;
use stableblk::worker::range_lock::{RangeAccess, RangeOwner};
use stableblk::worker::{QueueWorker, Vring};
use virtio::testing::{Driver, header, range};
use virtio::{Descriptor, DescriptorFlags, Features, RingAddresses, SplitRing, request_type};
use vm_memory::{Bytes, GuestAddress};

use super::disk::disk;
use super::input::Input;

/// Two regions with a hole between them.
const REGIONS: [(GuestAddress, usize); 2] = [(GuestAddress(0), 0x1_0000), (GuestAddress(0x2_0000), 0x1_0000)];
const RING: RingAddresses = RingAddresses {
    descriptor_table: GuestAddress(0),
    available_ring: GuestAddress(0x1000),
    used_ring: GuestAddress(0x2000),
};
const INDIRECT_TABLE: GuestAddress = GuestAddress(0x3000);
const CAPACITY: usize = 128 << 10;
/// Turns after which a worker is taken to be going round in circles. An input has fewer steps.
const TURNS_MAX: usize = 1 << 16;

/// Runs a worker over the input until it stops, and checks what must hold whatever the driver did.
pub fn run(input: &[u8]) {
    let mut input = Input(input);
    let flags = input.u8();
    let flag = |bit: u8| flags >> bit & 1 != 0;
    let size = 1 << (input.u8() % 6);
    let profile = IntegrityProfile::new(Guard::Crc64Nvme, PiType::Type1, 4096).expect("it is the default");
    let profile = flag(0).then_some(profile);
    let granule = input.choose([4096, 65536]);
    let media = Arc::new(MemDevice::new(profile, CAPACITY).with_granule(granule));
    let memory = Arc::new(GuestMemory::from_ranges(&REGIONS).expect("two small regions"));
    let next_avail = input.u16();
    let driver = Driver::at(&*memory, RING, size);
    driver.set_available_index(next_avail);
    let mut features = Features::empty();
    features.set(Features::EVENT_IDX, flag(1));
    features.set(Features::INDIRECT_DESC, flag(2));
    let ring = SplitRing::new(&*memory, size, RING, features, next_avail);
    let ring = ring.expect("all areas are aligned and in the first region");
    let first_used = ring.next_used();
    let block_size = if flag(3) { 512 } else { 4096 };
    let script = Script { memory: memory.clone(), size, steps: input.0.to_vec() };
    let disk = disk(Arc::new(Scripted::new(media.clone(), script)), 1, block_size, flag(4));
    let vring = Vring {
        index: 0,
        ring,
        kick: KickFd::new(new_eventfd().into()).expect("it is an eventfd"),
        call: Some(CallFd::new(new_eventfd().into()).expect("it is an eventfd")),
        error: Some(CallFd::new(new_eventfd().into()).expect("it is an eventfd")),
        inflight: None,
        writethrough: flag(5),
        used_log: None,
        retired: false,
        memory_lost: false,
    };
    disk.inboxes[0].post(WorkerMessage::Stop);
    let worker = QueueWorker::new(disk.clone(), &memory, vring).expect("the arena is small");
    let ring = worker.run().expect("the device is in memory").ring;

    assert_eq!(ring.outstanding(), 0, "a chain was not returned");
    let popped = ring.next_avail().wrapping_sub(next_avail);
    assert_eq!(ring.next_used().wrapping_sub(first_used), popped, "not every chain was returned once");
    let (_ticket, held) =
        disk.locks.table().acquire(0..u64::MAX, RangeAccess::Exclusive, RangeOwner { queue: 0, request: 0 });
    assert!(held, "a request has kept its range");
    if let Some(profile) = profile {
        let media = media.media();
        let mismatch =
            sidecar::mismatches(&profile, 0, &media.data, &media.tuples).expect("whole blocks").next();
        assert_eq!(mismatch, None, "the guest has damaged its disk");
    }
}

fn new_eventfd() -> std::os::fd::OwnedFd {
    eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).expect("an eventfd")
}

/// The steps of the driver, one for each turn of the worker.
#[derive(Debug)]
struct Script {
    memory: Arc<GuestMemory>,
    size: u16,
    steps: Vec<u8>,
}

/// A disk in memory whose workers, when they enter, let the driver do a step. No worker ever
/// sleeps.
#[derive(Debug)]
struct Scripted {
    device: Arc<FaultyDevice<MemDevice>>,
    /// For the next operation.
    fault: Arc<Mutex<Option<Fault>>>,
    script: Mutex<Option<Script>>,
}

impl Scripted {
    fn new(media: Arc<MemDevice>, script: Script) -> Self {
        let fault = Arc::new(Mutex::new(None));
        let next = fault.clone();
        let plan = move |_: &DeviceOperation| next.lock().unwrap_or_else(PoisonError::into_inner).take();
        let device = Arc::new(FaultyDevice::new(media, plan));
        Self { device, fault, script: Mutex::new(Some(script)) }
    }
}

impl BlockDevice for Scripted {
    type Queue = ScriptedQueue;

    fn info(&self) -> &DeviceInfo {
        self.device.info()
    }

    fn open_queue(self: &Arc<Self>, arena: &Arena, sources: EventSources<'_>) -> io::Result<ScriptedQueue> {
        let script = self.script.lock().unwrap_or_else(PoisonError::into_inner).take();
        Ok(ScriptedQueue {
            queue: self.device.open_queue(arena, sources)?,
            device: self.clone(),
            script: script.expect("there is one queue"),
            wake: Wake::Awaited,
            turns: 0,
        })
    }

    fn close(&self) -> io::Result<()> {
        self.device.close()
    }
}

/// The state of the message to stop, which is posted at the start.
#[derive(Debug, PartialEq)]
enum Wake {
    Awaited,
    /// Held back until the script has ended.
    Held,
    Delivered,
}

#[derive(Debug)]
struct ScriptedQueue {
    queue: <FaultyDevice<MemDevice> as BlockDevice>::Queue,
    device: Arc<Scripted>,
    script: Script,
    wake: Wake,
    turns: usize,
}

impl DeviceQueue for ScriptedQueue {
    fn submit(&mut self, operation: DeviceOperation) {
        self.queue.submit(operation);
    }

    fn enter(&mut self, wait: bool) -> io::Result<()> {
        self.turns += 1;
        assert!(self.turns < TURNS_MAX, "the worker goes round in circles");
        let has_work = self.queue.has_work();
        assert!(has_work || !wait || self.wake != Wake::Delivered, "the worker waits for what cannot come");
        if let Some(fault) = self.script.step() {
            *self.device.fault.lock().unwrap_or_else(PoisonError::into_inner) = Some(fault);
        }
        self.queue.enter(wait && has_work)
    }

    fn enter_for(&mut self, _limit: Duration) -> io::Result<()> {
        self.enter(false)
    }

    fn has_work(&mut self) -> bool {
        self.queue.has_work()
    }

    fn reap(&mut self) -> Option<Event> {
        let over = self.script.steps.is_empty();
        if over && self.wake == Wake::Held {
            self.wake = Wake::Delivered;
            return Some(Event::Wake);
        }
        match self.queue.reap()? {
            Event::Wake if over => self.wake = Wake::Delivered,
            Event::Wake => {
                self.wake = Wake::Held;
                return self.reap();
            }
            other => return Some(other),
        }
        Some(Event::Wake)
    }
}

impl Script {
    /// The driver's next step; a fault for the next operation, if the step is that.
    fn step(&mut self) -> Option<Fault> {
        let steps = mem::take(&mut self.steps);
        let mut input = Input(&steps);
        let memory = self.memory.clone();
        let mut driver = Driver::at(&*memory, RING, self.size);
        let mut fault = None;
        match input.u8() % 8 {
            0 if !input.is_empty() => {
                let (to, bytes) = (address(&mut input), input.bytes::<8>());
                // a write into the hole is the driver's own problem
                let _ = memory.write_slice(&bytes, to);
            }
            1 => {
                let (table, index) = (input.choose([RING.descriptor_table, INDIRECT_TABLE]), input.u8());
                let entry = u16::from(index) % if table == INDIRECT_TABLE { 64 } else { self.size };
                driver.write_table_entry(table, entry, self.descriptor(&mut input));
            }
            2 | 3 => self.make_request(&mut driver, &mut input),
            4 => driver.make_available(u16::from(input.u8()) % (2 * self.size)),
            5 => driver.set_available_index(input.u16()),
            6 => {
                let delay = Fault::Delayed(usize::from(input.u8() % 8));
                // EIO, ENOSPC
                fault = Some(input.choose([delay, delay, Fault::Error(5), Fault::Error(28)]));
            }
            _ => {}
        }
        self.steps = input.0.to_vec();
        fault
    }

    fn descriptor(&self, input: &mut Input<'_>) -> Descriptor {
        let address = address(input).0;
        let len = input.choose([1, 16, 512, 513, 4096, 8192]);
        let len = if input.u8().is_multiple_of(8) { u32::from_le_bytes(input.bytes()) } else { len };
        let flags = DescriptorFlags::from_bits_retain(u16::from(input.u8() % 8));
        Descriptor { address, len, flags, next: u16::from(input.u8()) % (2 * self.size) }
    }

    /// Makes a request available that is right but for its range and what later steps change:
    /// header, data and status in descriptors from any one on.
    fn make_request(&self, driver: &mut Driver<&GuestMemory>, input: &mut Input<'_>) {
        let first = u16::from(input.u8()) % self.size;
        let kind = input.choose([
            request_type::IN,
            request_type::OUT,
            request_type::FLUSH,
            request_type::GET_ID,
            request_type::DISCARD,
            request_type::WRITE_ZEROES,
            99,
        ]);
        let (sector, sectors) = (u64::from(input.u16() % 260), u32::from(input.u8() % 20));
        let place = 0x4000 + u64::from(first) * 64;
        // data of other requests than discards is not taken as a range
        let readable = [header(kind, sector), range(sector, sectors, u32::from(input.u8() % 3))].concat();
        self.memory.write_slice(&readable, GuestAddress(place)).expect("it is in the first region");
        let (next, write) = (DescriptorFlags::NEXT, DescriptorFlags::WRITE);
        let status = (place + 48, 1, write);
        let chain = match kind {
            request_type::IN => {
                vec![(place, 16, next), (address(input).0, sectors * 512, next | write), status]
            }
            request_type::OUT => vec![(place, 16, next), (address(input).0, sectors * 512, next), status],
            request_type::GET_ID => {
                vec![(place, 16, next), (address(input).0, sectors, next | write), status]
            }
            request_type::DISCARD | request_type::WRITE_ZEROES => vec![(place, 32, next), status],
            _ => vec![(place, 16, next), status],
        };
        for (index, (address, len, flags)) in (first..).zip(chain) {
            let next = (index + 1) % self.size;
            driver.write_descriptor(index % self.size, Descriptor { address, len, flags, next });
        }
        driver.make_available(first);
    }
}

/// Mostly in memory; also in the hole, across a border and anywhere.
fn address(input: &mut Input<'_>) -> GuestAddress {
    GuestAddress(match input.u8() % 8 {
        0 => input.u64(),
        1 => 0x1_0000 - u64::from(input.u8()),
        2 => 0x2_0000 + u64::from(input.u16()),
        3 => u64::from(input.u16()) % 0x4000,
        _ => 0x4000 + u64::from(input.u16()) % 0xC000,
    })
}
