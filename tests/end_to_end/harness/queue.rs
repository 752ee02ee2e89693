//! The driver's side of one queue: chains laid out as asked, kicks, and waits that end.

use std::mem;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::{Ordering, fence};
use std::thread;
use std::time::Instant;

use virtio::testing::{ChainBuffer, DeviceAccess, Driver, header};
use virtio::{Descriptor, DescriptorFlags, RingAddresses, request_type};
use vm_memory::{GuestAddress, GuestMemoryMmap};
use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent, EventSet};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use super::process::Transcript;
use super::{GuestMemory, NOT_WRITTEN, OK, TIME_LIMIT};

/// Entries of the indirect table that each head has at hand.
const TABLE_LEN: usize = 64;
const HEADER_SIZE: u32 = 16;
/// Header, status byte and room to the next.
const SLOT_SIZE: u64 = 32;
const STATUS_OFFSET: u64 = HEADER_SIZE as u64;

/// A request, before it is laid out.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    /// `VIRTIO_BLK_T_*`
    pub(crate) kind: u32,
    pub(crate) sector: u64,
    /// Between header and status; device-readable buffers first.
    pub(crate) data: Vec<ChainBuffer>,
}

impl Request {
    /// Reads into `segments`: guest addresses and lengths.
    pub(crate) fn read(sector: u64, segments: &[(u64, u32)]) -> Self {
        let data = segments.iter().map(|&(address, len)| ChainBuffer::writable(address, len)).collect();
        Self { kind: request_type::IN, sector, data }
    }

    /// Writes from `segments`: guest addresses and lengths.
    pub(crate) fn write(sector: u64, segments: &[(u64, u32)]) -> Self {
        let data = segments.iter().map(|&(address, len)| ChainBuffer::readable(address, len)).collect();
        Self { kind: request_type::OUT, sector, data }
    }

    pub(crate) fn flush() -> Self {
        Self { kind: request_type::FLUSH, sector: 0, data: Vec::new() }
    }

    /// Any kind, with `len` bytes at `address` for the answer.
    pub(crate) fn answered(kind: u32, address: u64, len: u32) -> Self {
        Self { kind, sector: 0, data: vec![ChainBuffer::writable(address, len)] }
    }

    /// Discard or write zeroes, of the ranges in `len` bytes at `address`.
    pub(crate) fn zeroing(kind: u32, address: u64, len: u32) -> Self {
        Self { kind, sector: 0, data: vec![ChainBuffer::readable(address, len)] }
    }
}

/// A chain that came back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Completion {
    pub(crate) head: u16,
    /// The status byte, for a chain that [`Queue::submit`] or [`Queue::submit_indirect`] laid out.
    pub(crate) status: u8,
    /// The used length, in bytes.
    pub(crate) used_len: u32,
}

/// A ring and its eventfds. Owned by one thread at a time.
#[derive(Debug)]
pub(crate) struct Queue {
    index: usize,
    size: u16,
    memory: Arc<GuestMemory>,
    driver: Driver<Arc<GuestMemoryMmap>>,
    kick: EventFd,
    call: EventFd,
    /// Waits for the call.
    interrupts: Epoll,
    /// Header and status byte by head.
    slots: u64,
    /// Indirect table by head.
    tables: u64,
    free: Vec<u16>,
    /// Descriptors by head.
    in_flight: Vec<Vec<u16>>,
    used_seen: u16,
    /// Data of the blocking reads and writes.
    scratch: (u64, usize),
    log: Transcript,
}

impl Queue {
    /// A ring of `size` entries in `memory` that no device knows yet.
    pub(crate) fn new(index: usize, size: u16, memory: &Arc<GuestMemory>, log: Transcript) -> Self {
        let (call, interrupts) = new_call();
        let ring = memory.allocate_low(Driver::<Arc<GuestMemoryMmap>>::ring_len(size));
        Self {
            index,
            size,
            memory: memory.clone(),
            driver: Driver::new(memory.mmap().clone(), ring, size),
            kick: EventFd::new(EFD_NONBLOCK).unwrap(),
            call,
            interrupts,
            slots: memory.allocate_low(usize::from(size) * usize::try_from(SLOT_SIZE).unwrap()),
            tables: memory.allocate_low(usize::from(size) * TABLE_LEN * Descriptor::SIZE),
            free: (0..size).rev().collect(),
            in_flight: vec![Vec::new(); size.into()],
            used_seen: 0,
            scratch: (0, 0),
            log,
        }
    }

    pub(crate) fn index(&self) -> usize {
        self.index
    }

    pub(crate) fn size(&self) -> u16 {
        self.size
    }

    pub(crate) fn addresses(&self) -> RingAddresses {
        self.driver.addresses()
    }

    /// Where headers and status bytes are: start and length.
    pub(crate) fn slots(&self) -> (u64, u64) {
        (self.slots, u64::from(self.size) * SLOT_SIZE)
    }

    pub(crate) fn kick_fd(&self) -> &EventFd {
        &self.kick
    }

    pub(crate) fn call_fd(&self) -> &EventFd {
        &self.call
    }

    /// The ring itself, for what no driver should do.
    pub(crate) fn driver(&mut self) -> &mut Driver<Arc<GuestMemoryMmap>> {
        &mut self.driver
    }

    /// Descriptors that no chain uses.
    pub(crate) fn free_descriptors(&self) -> usize {
        self.free.len()
    }

    /// Makes `request` available: header, each data buffer and status in a descriptor of its own.
    /// Returns the head.
    pub(crate) fn submit(&mut self, request: &Request) -> u16 {
        let buffers = self.frame(request);
        self.submit_chain(&buffers)
    }

    /// As [`Self::submit`], in an indirect table.
    pub(crate) fn submit_indirect(&mut self, request: &Request) -> u16 {
        let buffers = self.frame(request);
        assert!(buffers.len() <= TABLE_LEN);
        let head = self.next_head();
        let table = GuestAddress(self.tables + u64::from(head) * (TABLE_LEN * Descriptor::SIZE) as u64);
        for (index, descriptor) in (0..).zip(linked(&buffers, (1..).take(buffers.len() - 1))) {
            self.driver.write_table_entry(table, index, descriptor);
        }
        let len = u32::try_from(buffers.len() * Descriptor::SIZE).unwrap();
        self.take_descriptors(1);
        self.driver.write_descriptor(
            head,
            Descriptor { address: table.0, len, flags: DescriptorFlags::INDIRECT, next: 0 },
        );
        self.driver.make_available(head);
        head
    }

    /// Makes a chain of `buffers` available, in this order and with nothing added. Returns the
    /// head.
    pub(crate) fn submit_chain(&mut self, buffers: &[ChainBuffer]) -> u16 {
        let descriptors = self.take_descriptors(buffers.len());
        let head = descriptors[0];
        for (&index, descriptor) in descriptors.iter().zip(linked(buffers, descriptors[1..].iter().copied()))
        {
            self.driver.write_descriptor(index, descriptor);
        }
        self.in_flight[usize::from(head)] = descriptors;
        self.driver.make_available(head);
        head
    }

    /// Notifies the device of all that was made available.
    pub(crate) fn kick(&self) {
        self.kick.write(1).unwrap();
    }

    /// The next completion, if there is one.
    pub(crate) fn take_completion(&mut self) -> Option<Completion> {
        let used = self.driver.take_used()?;
        self.used_seen = self.used_seen.wrapping_add(1);
        let head = u16::try_from(used.head).unwrap();
        self.free.append(&mut self.in_flight[usize::from(head)]);
        Some(Completion {
            head,
            status: self.memory.read_byte(self.status_address(head)),
            used_len: used.len,
        })
    }

    /// Waits for the next completion, asleep until the device interrupts.
    pub(crate) fn wait(&mut self) -> Completion {
        loop {
            if let Some(completion) = self.take_completion() {
                return completion;
            }
            self.driver.set_used_event(self.used_seen);
            // we store the event, then read the used index; the device the other way round
            fence(Ordering::SeqCst);
            if self.driver.used_index() == self.used_seen {
                self.wait_for_interrupt();
            }
        }
    }

    /// Waits for the next completion without asking for an interrupt, as a driver that polls.
    pub(crate) fn poll(&mut self) -> Completion {
        let deadline = Instant::now() + TIME_LIMIT;
        loop {
            if let Some(completion) = self.take_completion() {
                return completion;
            }
            assert!(
                Instant::now() < deadline,
                "no completion on queue {}:\n{}",
                self.index,
                self.log.so_far()
            );
            thread::yield_now();
        }
    }

    /// Waits until the device interrupts, and takes all its interrupts back.
    pub(crate) fn wait_for_interrupt(&self) {
        let limit = i32::try_from(TIME_LIMIT.as_millis()).unwrap();
        let signalled = self.interrupts.wait(limit, &mut [EpollEvent::default()]).unwrap();
        assert_eq!(
            signalled,
            1,
            "no interrupt on queue {}; the back-end says:\n{}",
            self.index,
            self.log.so_far()
        );
        self.take_interrupts();
    }

    /// How often the device has interrupted since last asked.
    pub(crate) fn take_interrupts(&self) -> u64 {
        self.call.read().unwrap_or(0)
    }

    /// Waits for all that is in flight.
    pub(crate) fn wait_all(&mut self) -> Vec<Completion> {
        let outstanding = self.in_flight.iter().filter(|descriptors| !descriptors.is_empty()).count();
        (0..outstanding).map(|_| self.wait()).collect()
    }

    /// Submits `request` and waits for it. Nothing else may be in flight.
    pub(crate) fn execute(&mut self, request: &Request) -> Completion {
        let head = self.submit(request);
        self.complete(head)
    }

    /// Kicks, and waits for the chain at `head`, the only one in flight.
    pub(crate) fn complete(&mut self, head: u16) -> Completion {
        self.kick();
        let completion = self.wait();
        assert_eq!(completion.head, head);
        completion
    }

    /// Reads `len` bytes from `sector` on. The status, and what is in the buffer after it, which
    /// held [`NOT_WRITTEN`].
    pub(crate) fn try_read(&mut self, sector: u64, len: usize) -> (Completion, Vec<u8>) {
        let scratch = self.scratch(len);
        self.memory.write(scratch, &vec![NOT_WRITTEN; len]);
        let completion = self.execute(&Request::read(sector, &[(scratch, u32::try_from(len).unwrap())]));
        (completion, self.memory.read(scratch, len))
    }

    /// Reads `len` bytes from `sector` on, which must succeed.
    pub(crate) fn read(&mut self, sector: u64, len: usize) -> Vec<u8> {
        let (Completion { status, used_len, .. }, data) = self.try_read(sector, len);
        assert_eq!(status, OK, "reading {len} bytes at sector {sector}:\n{}", self.log.so_far());
        assert_eq!(used_len as usize, len + 1);
        data
    }

    /// Writes `data` at `sector`, with whatever outcome.
    pub(crate) fn try_write(&mut self, sector: u64, data: &[u8]) -> Completion {
        let scratch = self.scratch(data.len());
        self.memory.write(scratch, data);
        self.execute(&Request::write(sector, &[(scratch, u32::try_from(data.len()).unwrap())]))
    }

    /// Writes `data` at `sector`, which must succeed.
    pub(crate) fn write(&mut self, sector: u64, data: &[u8]) {
        let Completion { status, used_len, .. } = self.try_write(sector, data);
        assert_eq!((status, used_len), (OK, 1), "writing at sector {sector}:\n{}", self.log.so_far());
    }

    /// Flushes, which must succeed.
    pub(crate) fn flush(&mut self) {
        let Completion { status, used_len, .. } = self.execute(&Request::flush());
        assert_eq!((status, used_len), (OK, 1), "flushing:\n{}", self.log.so_far());
    }

    /// Starts both indexes at `index`, with nothing in flight. No device may have the ring.
    pub(crate) fn restart_at(&mut self, index: u16) {
        self.driver.start_at(index);
        self.used_seen = index;
        self.free = (0..self.size).rev().collect();
        self.in_flight.iter_mut().for_each(Vec::clear);
    }

    /// Waits at a new eventfd from now on. Returns the old one.
    pub(crate) fn replace_call(&mut self) -> EventFd {
        let (call, interrupts) = new_call();
        self.interrupts = interrupts;
        mem::replace(&mut self.call, call)
    }

    /// Kicks a new eventfd from now on. Returns the old one.
    pub(crate) fn replace_kick(&mut self) -> EventFd {
        mem::replace(&mut self.kick, EventFd::new(EFD_NONBLOCK).unwrap())
    }

    /// Header, data, status.
    fn frame(&self, request: &Request) -> Vec<ChainBuffer> {
        let head = self.next_head();
        let header_address = self.slots + u64::from(head) * SLOT_SIZE;
        let status_address = self.status_address(head);
        self.memory.write(header_address, &header(request.kind, request.sector));
        self.memory.write(status_address, &[NOT_WRITTEN]);
        let mut buffers = vec![ChainBuffer::readable(header_address, HEADER_SIZE)];
        buffers.extend(&request.data);
        buffers.push(ChainBuffer::writable(status_address, 1));
        buffers
    }

    fn status_address(&self, head: u16) -> u64 {
        self.slots + u64::from(head) * SLOT_SIZE + STATUS_OFFSET
    }

    fn next_head(&self) -> u16 {
        *self.free.last().expect("the ring has room for another chain")
    }

    fn take_descriptors(&mut self, count: usize) -> Vec<u16> {
        assert!(count <= self.free.len(), "the ring has no room for {count} descriptors");
        let taken: Vec<u16> = self.free.split_off(self.free.len() - count).into_iter().rev().collect();
        self.in_flight[usize::from(taken[0])].clone_from(&taken);
        taken
    }

    fn scratch(&mut self, len: usize) -> u64 {
        if self.scratch.1 < len {
            self.scratch = (self.memory.allocate(len), len);
        }
        self.scratch.0
    }
}

/// An eventfd and what waits for it.
fn new_call() -> (EventFd, Epoll) {
    let call = EventFd::new(EFD_NONBLOCK).unwrap();
    let interrupts = Epoll::new().unwrap();
    interrupts.ctl(ControlOperation::Add, call.as_raw_fd(), EpollEvent::new(EventSet::IN, 0)).unwrap();
    (call, interrupts)
}

/// Descriptors of `buffers`, each but the last followed by the next of `successors`.
fn linked(
    buffers: &[ChainBuffer],
    mut successors: impl Iterator<Item = u16>,
) -> impl Iterator<Item = Descriptor> {
    buffers.iter().map(move |buffer| {
        let next = successors.next();
        let mut flags = DescriptorFlags::empty();
        flags.set(DescriptorFlags::NEXT, next.is_some());
        flags.set(DescriptorFlags::WRITE, buffer.access == DeviceAccess::Writes);
        Descriptor { address: buffer.address.0, len: buffer.len, flags, next: next.unwrap_or(0) }
    })
}
