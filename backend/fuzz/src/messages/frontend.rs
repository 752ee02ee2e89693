//! The resources of a front-end: memory with a ring for each queue, descriptors of all kinds, and a
//! way to send them.

use std::fs::File;
use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use rustix::fs::{MemfdFlags, memfd_create};
use rustix::net::{
    RecvAncillaryBuffer, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};
use virtio::testing::Driver;
use virtio::{Descriptor, DescriptorFlags as Flags, RingAddresses, request_type};
use vm_memory::{Bytes, FileOffset, GuestAddress, GuestMemoryMmap};

use super::QUEUES;

pub(super) const RING_SIZE: u16 = 16;
const MEMORY_LEN: usize = 128 << 10;
pub(super) const MEMORY_SIZE: u64 = MEMORY_LEN as u64;
/// Where the front-end has its memory in its own address space.
pub(super) const USER_ADDRESS: u64 = 0x7000_0000_0000;
/// Rings, header and status of each queue.
const QUEUE_SPAN: u64 = 16 << 10;
const HEADERS: u64 = QUEUE_SPAN - 4096;
const DATA: u64 = QUEUES as u64 * QUEUE_SPAN;
const FILES_MAX: usize = 253;

// places in `Frontend::files`
const MEMORY: usize = 0;
const CALL: usize = 2;
const CHANNEL: usize = 4;

pub(super) struct Frontend {
    pub(super) memory: GuestMemoryMmap<()>,
    files: Vec<OwnedFd>,
    kicks: Vec<OwnedFd>,
    rings: Vec<RingAddresses>,
    /// Sent so far.
    pub(super) messages: u64,
}

impl Frontend {
    pub(super) fn new() -> Self {
        let memory_file = memory_file(MEMORY_SIZE);
        let file = FileOffset::new(File::from(clone(&memory_file)), 0);
        let range = (GuestAddress(0), MEMORY_LEN, Some(file));
        let (socket, other) = UnixStream::pair().expect("a socket pair");
        let files = vec![
            memory_file,
            // sparse
            memory_file_of_no_pages(),
            new_eventfd(),
            File::open("/dev/null").expect("every system has it").into(),
            socket.into(),
            other.into(),
        ];
        let memory = GuestMemoryMmap::from_ranges_with_files([range]).expect("a small region");
        let ring = |queue| Driver::new(&memory, span(queue), RING_SIZE).addresses();
        Self {
            rings: (0..QUEUES).map(ring).collect(),
            memory,
            files,
            kicks: (0..QUEUES).map(|_| new_eventfd()).collect(),
            messages: 0,
        }
    }

    pub(super) fn memory_file(&self) -> BorrowedFd<'_> {
        self.files[MEMORY].as_fd()
    }

    /// A descriptor of any kind.
    pub(super) fn file(&self, choice: u8) -> BorrowedFd<'_> {
        self.files[usize::from(choice) % self.files.len()].as_fd()
    }

    /// All queues interrupt here.
    pub(super) fn call_fd(&self) -> BorrowedFd<'_> {
        self.files[CALL].as_fd()
    }

    pub(super) fn channel_fd(&self) -> BorrowedFd<'_> {
        self.files[CHANNEL].as_fd()
    }

    pub(super) fn kick_fd(&self, queue: usize) -> BorrowedFd<'_> {
        self.kicks[queue % QUEUES].as_fd()
    }

    /// Makes a request available and kicks.
    pub(super) fn request(&self, queue: usize, request_type: u32, sector: u64, len: u32) {
        let mut driver = Driver::at(&self.memory, self.rings[queue % QUEUES], RING_SIZE);
        // in turns, so that few requests share their descriptors with one in flight
        let slot = self.available_index(queue) % (RING_SIZE / 3);
        let header = span(queue) + HEADERS + u64::from(slot) * 32;
        driver.write_header(header, request_type, sector);
        let data = if request_type == request_type::OUT { Flags::empty() } else { Flags::WRITE };
        for (at, address, len, flags) in [
            (0, header, 16, Flags::NEXT),
            (1, DATA, len, Flags::NEXT | data),
            (2, header + 16, 1, Flags::WRITE),
        ] {
            let index = slot * 3 + at;
            driver.write_descriptor(index, Descriptor { address, len, flags, next: index + 1 });
        }
        driver.make_available(slot * 3);
        self.kick(queue);
    }

    /// Where a driver's ring is.
    pub(super) fn available_index(&self, queue: usize) -> u16 {
        let at = self.rings[queue % QUEUES].available_ring.0 + 2;
        self.memory.read_obj(GuestAddress(at)).expect("it is in the region")
    }

    /// Does to the memory what no driver should.
    pub(super) fn scribble(&self, offset: u64, value: u64) {
        let _ = self.memory.write_obj(value, GuestAddress(offset % MEMORY_SIZE));
    }

    pub(super) fn kick(&self, queue: usize) {
        let _ = rustix::io::write(&self.kicks[queue % QUEUES], &1u64.to_ne_bytes());
    }

    /// Waits a little for an interrupt, so that requests are served and not only torn away.
    pub(super) fn wait_for_interrupt(&self) {
        let _ = rustix::io::read(&self.files[CALL], &mut [0; 8]);
        let call = PollFd::new(&self.files[CALL], PollFlags::IN);
        let _ = poll(&mut [call], Some(&Timespec { tv_sec: 0, tv_nsec: 3_000_000 }));
    }

    /// Addresses of a queue's descriptor table, used ring and available ring, as the front-end sees
    /// them.
    pub(super) fn ring_addresses(&self, queue: usize) -> [u64; 3] {
        let addresses = self.rings[queue % QUEUES];
        [addresses.descriptor_table, addresses.used_ring, addresses.available_ring]
            .map(|address| USER_ADDRESS + address.0)
    }

    /// Sends `bytes`. False when the session has ended.
    pub(super) fn send(&mut self, stream: &UnixStream, bytes: &[u8], files: &[BorrowedFd<'_>]) -> bool {
        let mut sent = 0;
        while sent < bytes.len() {
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FILES_MAX))];
            let mut control = SendAncillaryBuffer::new(&mut space);
            if sent == 0 && !files.is_empty() {
                assert!(control.push(SendAncillaryMessage::ScmRights(files)));
            }
            let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
            match sendmsg(stream, &[IoSlice::new(&bytes[sent..])], &mut control, flags) {
                Ok(count) => sent += count,
                Err(rustix::io::Errno::AGAIN) => {
                    // it may be waiting for us to read
                    read_replies(stream);
                    let events = PollFlags::OUT | PollFlags::IN;
                    poll(&mut [PollFd::new(stream, events)], None).expect("a poll");
                }
                Err(_) => return false,
            }
        }
        self.messages += 1;
        true
    }
}

/// Takes what there is of replies, and closes what came with them.
pub(super) fn read_replies(stream: &UnixStream) {
    let mut bytes = [0; 4096];
    loop {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(8))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let flags = RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC;
        match recvmsg(stream, &mut [IoSliceMut::new(&mut bytes)], &mut control, flags) {
            Ok(received) if received.bytes > 0 => {}
            _ => return,
        }
    }
}

fn span(queue: usize) -> u64 {
    (queue % QUEUES) as u64 * QUEUE_SPAN
}

fn memory_file(len: u64) -> OwnedFd {
    let file = File::from(memfd_create("guest", MemfdFlags::CLOEXEC).expect("a memfd"));
    file.set_len(len).expect("room for it");
    file.into()
}

fn memory_file_of_no_pages() -> OwnedFd {
    memory_file(1 << 40)
}

fn new_eventfd() -> OwnedFd {
    eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).expect("an eventfd")
}

fn clone(fd: &OwnedFd) -> OwnedFd {
    fd.try_clone().expect("a descriptor")
}
