//! Our ring compared with an independent one, `virtio-queue` of rust-vmm: both serve the same
//! chains in the same memory.
//!
//! Each has a copy of guest memory, to which a driver does the same. After each round the copies
//! must be equal byte for byte: data, status bytes, used elements, used index and event index.

use proptest::prelude::*;
use proptest::sample::Index;
use stableblk_virtio::testing::{Driver, header};
use stableblk_virtio::{
    Descriptor, DescriptorFlags, Features, Operation, Reply, Request, SplitRing, Status, request_type,
};
use virtio_queue::{Queue, QueueOwnedT, QueueT};
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

const MEMORY_LEN: usize = 0x4_0000;
const RING_SIZE: u16 = 64;
/// Chains in flight at most. Each has descriptors, a table and buffers of its own.
const SLOTS: u16 = 8;
const DESCRIPTORS: u16 = RING_SIZE / SLOTS;
const TABLES: u64 = 0x8000;
const TABLE_LEN: u64 = 0x100;
const BUFFERS: u64 = 0x1_0000;
const BUFFER_LEN: u64 = 0x400;
const HEADER_LEN: usize = 16;

/// Where the descriptors of a chain lie.
#[derive(Clone, Copy, Debug)]
enum Layout {
    Direct,
    Indirect,
    /// The first one in the ring's table, the others in an indirect table.
    Mixed,
}

/// A request: the lengths of its buffers, and what it transfers.
#[derive(Clone, Debug)]
struct Shape {
    is_write: bool,
    /// The lengths of the pieces of the header, which are 16 bytes together.
    header: Vec<u32>,
    /// The lengths of the buffers of data.
    data: Vec<u32>,
    /// Whether header and data of a write, or data and status of a read, share a descriptor.
    merged: bool,
    layout: Layout,
    fill: u8,
}

fn shape() -> impl Strategy<Value = Shape> {
    let header = prop::sample::select(vec![vec![16], vec![10, 6], vec![1, 15]]);
    let data = prop::collection::vec(1..500_u32, 0..4);
    let layout = prop::sample::select(vec![Layout::Direct, Layout::Indirect, Layout::Mixed]);
    (any::<bool>(), header, data, any::<bool>(), layout, any::<u8>()).prop_map(
        |(is_write, header, data, merged, layout, fill)| Shape {
            is_write,
            header,
            data,
            merged,
            layout,
            fill,
        },
    )
}

/// The changes between two looks at the memory.
#[derive(Clone, Debug)]
struct Round {
    requests: Vec<Shape>,
    /// Which of the chains in flight are completed, in this order.
    completed: Vec<Index>,
    /// How far behind the used index the driver wants an interrupt.
    used_event: u16,
}

fn round() -> impl Strategy<Value = Round> {
    let requests = prop::collection::vec(shape(), 0..6);
    let completed = prop::collection::vec(any::<Index>(), 0..8);
    let used_event = prop_oneof![8 => 0..6_u16, 1 => any::<u16>()];
    (requests, completed, used_event).prop_map(|(requests, completed, used_event)| Round {
        requests,
        completed,
        used_event,
    })
}

impl Shape {
    fn data_len(&self) -> usize {
        self.data.iter().sum::<u32>() as usize
    }

    /// The bytes that the driver writes for the device.
    fn readable(&self) -> Vec<u8> {
        let kind = if self.is_write { request_type::OUT } else { request_type::IN };
        let mut bytes = header(kind, self.fill.into()).to_vec();
        if self.is_write {
            bytes.resize(HEADER_LEN + self.data_len(), self.fill);
        }
        bytes
    }

    /// Lengths of the buffers in order, and whether the device writes them.
    fn buffers(&self) -> Vec<(u32, bool)> {
        let (mut readable, mut writable) = (self.header.clone(), vec![1]);
        if self.is_write {
            readable.extend(&self.data);
        } else {
            writable.splice(0..0, self.data.iter().copied());
        }
        let (side, at) =
            if self.is_write { (&mut readable, self.header.len()) } else { (&mut writable, self.data.len()) };
        if self.merged && at > 0 && at < side.len() {
            side[at - 1] += side.remove(at);
        }
        let readable = readable.into_iter().map(|len| (len, false));
        readable.chain(writable.into_iter().map(|len| (len, true))).collect()
    }

    /// Lays the request out in `slot`. Returns the head.
    fn lay_out(&self, mem: &GuestMemoryMmap, driver: &Driver<&GuestMemoryMmap>, slot: u16) -> u16 {
        let (head, table) = (slot * DESCRIPTORS, TABLES + u64::from(slot) * TABLE_LEN);
        let (buffers, bytes) = (self.buffers(), self.readable());
        let mut rest = bytes.as_slice();
        let direct = match self.layout {
            Layout::Direct => buffers.len(),
            Layout::Indirect => 0,
            Layout::Mixed => 1,
        };
        for (number, &(len, is_writable)) in buffers.iter().enumerate() {
            let address = BUFFERS + (u64::from(head) + number as u64) * BUFFER_LEN;
            if !is_writable {
                let (piece, tail) = rest.split_at(len as usize);
                mem.write_slice(piece, GuestAddress(address)).unwrap();
                rest = tail;
            }
            let is_direct = number < direct;
            let index = u16::try_from(if is_direct { number } else { number - direct }).unwrap();
            let first = if is_direct { head } else { 0 };
            let mut flags = DescriptorFlags::empty();
            flags.set(DescriptorFlags::WRITE, is_writable);
            flags.set(DescriptorFlags::NEXT, number + 1 < buffers.len());
            let descriptor = Descriptor { address, len, flags, next: first + index + 1 };
            if is_direct {
                driver.write_descriptor(head + index, descriptor);
            } else {
                driver.write_table_entry(GuestAddress(table), index, descriptor);
            }
        }
        if direct < buffers.len() {
            let len = u32::try_from((buffers.len() - direct) * Descriptor::SIZE).unwrap();
            let indirect = Descriptor { address: table, len, flags: DescriptorFlags::INDIRECT, next: 0 };
            driver.write_descriptor(head + u16::try_from(direct).unwrap(), indirect);
        }
        head
    }
}

/// Data that a device gives to the read at `head`.
fn answer(head: u16, len: usize) -> Vec<u8> {
    (0..len).map(|at| (usize::from(head) * 31 + at).to_le_bytes()[0]).collect()
}

/// A request as a ring gives it out: its head, whether it is a write, its sector, and the data of a
/// write or the length of a read.
type Popped = (u16, bool, u64, Vec<u8>, usize);

/// Our ring, with the chains that were popped and not completed.
struct Ours<'m> {
    mem: &'m GuestMemoryMmap,
    ring: SplitRing,
    replies: Vec<(Reply, u32)>,
}

impl Ours<'_> {
    fn pop(&mut self) -> Option<Popped> {
        let chain = self.ring.pop(self.mem).unwrap()?;
        let request = Request::parse(self.mem, chain).expect("a well-formed request");
        let (head, len) = (request.reply.head(), usize::try_from(request.data.len()).unwrap());
        let (popped, written) = match request.operation {
            Operation::Write { sector } => {
                let mut data = vec![0; len];
                request.data.copy_to(self.mem, 0, &mut data).unwrap();
                ((head, true, sector, data, 0), 0)
            }
            Operation::Read { sector } => {
                request.data.copy_from(self.mem, 0, &answer(head, len)).unwrap();
                ((head, false, sector, Vec::new(), len), u32::try_from(len).unwrap())
            }
            other => panic!("{other:?} was not requested"),
        };
        self.replies.push((request.reply, written));
        Some(popped)
    }

    /// Completes chains of those in flight by their numbers. Returns whether to interrupt.
    fn complete(&mut self, numbers: &[usize]) -> bool {
        for &number in numbers {
            let (reply, written) = self.replies.remove(number);
            reply.complete(&mut self.ring, self.mem, Status::Ok, written);
        }
        self.ring.publish(self.mem).unwrap()
    }
}

/// The independent ring, with the head, the status address and the used length of each chain in
/// flight.
struct Theirs<'m> {
    mem: &'m GuestMemoryMmap,
    queue: Queue,
    replies: Vec<(u16, GuestAddress, u32)>,
}

impl<'m> Theirs<'m> {
    fn new(mem: &'m GuestMemoryMmap, driver: &Driver<&GuestMemoryMmap>, event_idx: bool, start: u16) -> Self {
        let mut queue = Queue::new(RING_SIZE).unwrap();
        let addresses = driver.addresses();
        queue.try_set_desc_table_address(addresses.descriptor_table).unwrap();
        queue.try_set_avail_ring_address(addresses.available_ring).unwrap();
        queue.try_set_used_ring_address(addresses.used_ring).unwrap();
        queue.set_event_idx(event_idx);
        queue.set_next_avail(start);
        queue.set_next_used(start);
        queue.set_ready(true);
        assert!(queue.is_valid(mem));
        Self { mem, queue, replies: Vec::new() }
    }

    fn pop(&mut self) -> Option<Popped> {
        let chain = self.queue.iter(self.mem).unwrap().next()?;
        let head = chain.head_index();
        let (mut readable, mut writable) = (Vec::new(), Vec::new());
        for descriptor in chain {
            let buffer = (descriptor.addr(), descriptor.len() as usize);
            if descriptor.is_write_only() {
                writable.push(buffer);
            } else {
                let mut bytes = vec![0; buffer.1];
                self.mem.read_slice(&mut bytes, buffer.0).unwrap();
                readable.extend(bytes);
            }
        }
        let (last, last_len) = writable.last_mut().expect("a status");
        *last_len -= 1;
        let status = GuestAddress(last.0 + *last_len as u64);
        let is_write = readable[..4] == request_type::OUT.to_le_bytes();
        let sector = u64::from_le_bytes(*readable[8..].first_chunk().unwrap());
        let len = if is_write { 0 } else { writable.iter().map(|(_, len)| len).sum() };
        let data = answer(head, len);
        let mut rest = data.as_slice();
        for (address, len) in writable.into_iter().filter(|_| !is_write) {
            let (piece, tail) = rest.split_at(len);
            self.mem.write_slice(piece, address).unwrap();
            rest = tail;
        }
        self.replies.push((head, status, u32::try_from(len).unwrap() + 1));
        Some((head, is_write, sector, readable.split_off(HEADER_LEN), len))
    }

    /// As [`Ours::complete`].
    fn complete(&mut self, numbers: &[usize]) -> bool {
        for &number in numbers {
            let (head, status, used_len) = self.replies.remove(number);
            self.mem.write_obj(Status::Ok as u8, status).unwrap();
            self.queue.add_used(self.mem, head, used_len).unwrap();
        }
        !numbers.is_empty() && self.queue.needs_notification(self.mem).unwrap()
    }
}

fn memory() -> GuestMemoryMmap {
    GuestMemoryMmap::from_ranges(&[(GuestAddress(0), MEMORY_LEN)]).unwrap()
}

fn contents(mem: &GuestMemoryMmap) -> Vec<u8> {
    let mut bytes = vec![0; MEMORY_LEN];
    mem.read_slice(&mut bytes, GuestAddress(0)).unwrap();
    bytes
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn our_ring_agrees_with_an_independent_one(
        event_idx: bool,
        start: u16,
        rounds in prop::collection::vec(round(), 1..12),
    ) {
        let (our_mem, their_mem) = (memory(), memory());
        let mems = [&our_mem, &their_mem];
        let mut drivers = mems.map(|mem| Driver::new(mem, 0, RING_SIZE));
        for driver in &mut drivers {
            driver.start_at(start);
        }
        let mut features = Features::INDIRECT_DESC;
        features.set(Features::EVENT_IDX, event_idx);
        let ring = SplitRing::new(&our_mem, RING_SIZE, drivers[0].addresses(), features, start).unwrap();
        let mut ours = Ours { mem: &our_mem, ring, replies: Vec::new() };
        let mut theirs = Theirs::new(&their_mem, &drivers[1], event_idx, start);
        let mut free: Vec<u16> = (0..SLOTS).collect();
        // ours interrupts for its first batch in any case, as a predecessor may have died before it
        // did
        let mut is_first = event_idx;
        for Round { requests, completed, used_event } in rounds {
            for shape in requests {
                let Some(slot) = free.pop() else { break };
                for (mem, driver) in mems.into_iter().zip(&mut drivers) {
                    let head = shape.lay_out(mem, driver, slot);
                    driver.make_available(head);
                }
            }
            for driver in &mut drivers {
                let used = driver.used_index();
                driver.set_used_event(used.wrapping_add(used_event));
            }
            ours.ring.disable_notifications(&our_mem);
            theirs.queue.disable_notification(&their_mem).unwrap();
            loop {
                let (our, their) = (ours.pop(), theirs.pop());
                prop_assert_eq!(&our, &their);
                if our.is_none() {
                    break;
                }
            }
            let in_flight = ours.replies.len();
            let numbers: Vec<_> = completed.iter().take(in_flight).enumerate()
                .map(|(done, index)| index.index(in_flight - done)).collect();
            let (our, their) = (ours.complete(&numbers), theirs.complete(&numbers));
            if !numbers.is_empty() && std::mem::take(&mut is_first) {
                prop_assert!(our);
            } else {
                prop_assert_eq!(our, their, "an interrupt");
            }
            let more = ours.ring.enable_notifications(&our_mem).unwrap();
            prop_assert_eq!(more, theirs.queue.enable_notification(&their_mem).unwrap());
            prop_assert_eq!(ours.ring.next_used(), theirs.queue.next_used());
            prop_assert!(contents(&our_mem) == contents(&their_mem), "the memory differs");
            while let Some(used) = drivers[0].take_used() {
                prop_assert_eq!(Some(used), drivers[1].take_used());
                free.push(u16::try_from(used.head).unwrap() / DESCRIPTORS);
            }
        }
        ours.replies.into_iter().for_each(|(reply, _)| reply.abandon());
    }
}
