//! Chains that no driver should make: each comes back once, with a status where one can be written, and nobody else notices.

use vhost::VhostBackend;
use vhost::vhost_user::VhostUserFrontend;
use vhost::vhost_user::message::FrontendReq;
use virtio::testing::{Buffer, header};
use virtio::{Descriptor, DescriptorFlags, request_type};
use vm_memory::GuestAddress;
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use crate::harness::{
    Backend, Frontend, GuestMemory, IOERR, Image, NOT_WRITTEN, OK, Queue, Request, pattern,
};

/// A disk with a queue to be mistreated and one to be served.
struct Rig<'m> {
    backend: Backend,
    memory: &'m GuestMemory,
    frontend: Frontend<'m>,
    queue: Queue<'m>,
    other: Queue<'m>,
    /// Signalled when `queue` is given up.
    error: EventFd,
    header: u64,
    data: u64,
    status: u64,
    image: Image,
}

impl<'m> Rig<'m> {
    fn new(memory: &'m GuestMemory) -> Self {
        let image = Image::create(16 << 20);
        let backend = Backend::serve(&image, &[]);
        let mut frontend = Frontend::connect(&backend, memory);
        let (queue, other) = (frontend.queue(0), frontend.queue(1));
        let error = EventFd::new(EFD_NONBLOCK).unwrap();
        frontend.protocol.set_vring_err(0, &error).unwrap();
        let (header_address, data, status) =
            (memory.allocate(4096), memory.allocate(8192), memory.allocate(4096));
        memory.write(header_address, &header(request_type::OUT, 0));
        memory.write(data, &pattern(1, 8192));
        memory.write(status, &[NOT_WRITTEN]);
        Self { backend, memory, frontend, queue, other, error, header: header_address, data, status, image }
    }

    /// Sends `buffers` as a chain, which must come back with IOERR.
    fn assert_refused(&mut self, buffers: &[Buffer]) {
        let head = self.queue.submit_chain(buffers);
        let completion = self.queue.complete(head);
        assert_eq!((self.memory.read_byte(self.status), completion.used_len), (IOERR, 1));
        self.memory.write(self.status, &[NOT_WRITTEN]);
        // this queue goes on, and so does the other
        let data = pattern(u64::from(head) + 5, 4096);
        self.queue.write(64, &data);
        assert!(self.other.read(64, 4096) == data);
    }

    /// Sends `buffers` as a chain that cannot be answered.
    fn assert_retires(&mut self, buffers: &[Buffer]) {
        let head = self.queue.submit_chain(buffers);
        self.assert_comes_back_unanswered(head);
    }

    /// Lays `descriptors` out from entry 0 of the ring on and sends entry 0, which cannot be answered.
    fn assert_descriptors_retire(&mut self, descriptors: &[Descriptor]) {
        for (index, &descriptor) in (0..).zip(descriptors) {
            self.queue.driver().write_descriptor(index, descriptor);
        }
        self.queue.driver().make_available(0);
        self.assert_comes_back_unanswered(0);
    }

    /// The chain at `head` must come back with nothing written, and its queue end; the other goes on, and so does this
    /// one once the driver has reset it.
    fn assert_comes_back_unanswered(&mut self, head: u16) {
        let completion = self.queue.complete(head);
        assert_eq!((self.memory.read_byte(self.status), completion.used_len), (NOT_WRITTEN, 0));
        let data = pattern(u64::from(head) + 5, 4096);
        self.other.write(64, &data);
        self.frontend.stop(&self.queue);
        assert_eq!(self.error.read().unwrap(), 1, "the front-end is told");
        self.queue.restart_at(0);
        self.frontend.protocol.set_vring_err(0, &self.error).unwrap();
        self.frontend.start(&self.queue, 0);
        assert!(self.queue.read(64, 4096) == data);
    }

    /// Nothing was written but by the rounds in between.
    fn finish(self, reason: &str) {
        drop(self.frontend);
        let log = self.backend.stop();
        assert!(log.contains(reason), "{reason:?} is not in the log:\n{log}");
        assert!(self.image.read(0, 64 * 512).iter().all(|&byte| byte == 0), "a malformed request wrote");
        self.image.assert_clean();
    }
}

fn descriptor(address: u64, len: u32, flags: DescriptorFlags, next: u16) -> Descriptor {
    Descriptor { address, len, flags, next }
}

#[test]
fn no_status() {
    let memory = GuestMemory::new();
    let mut rig = Rig::new(&memory);
    rig.assert_retires(&[Buffer::readable(rig.header, 16), Buffer::readable(rig.data, 4096)]);
    rig.finish("no device-writable byte for the status");
}

#[test]
fn no_header() {
    let memory = GuestMemory::new();
    let mut rig = Rig::new(&memory);
    rig.assert_refused(&[Buffer::writable(rig.status, 1)]);
    rig.finish("a header of 0 bytes");
}

#[test]
fn short_header() {
    let memory = GuestMemory::new();
    let mut rig = Rig::new(&memory);
    rig.assert_refused(&[Buffer::readable(rig.header, 15), Buffer::writable(rig.status, 1)]);
    rig.finish("a header of 15 bytes");
}

#[test]
fn loop_of_descriptors() {
    let memory = GuestMemory::new();
    let mut rig = Rig::new(&memory);
    let (next, write) = (DescriptorFlags::NEXT, DescriptorFlags::WRITE);
    let descriptors = [
        descriptor(rig.header, 16, next, 1),
        descriptor(rig.data, 4096, next, 2),
        descriptor(rig.status, 1, next | write, 1),
    ];
    // there is no last descriptor, hence no status
    rig.assert_descriptors_retire(&descriptors);
    rig.finish("the descriptor chain loops");
}

#[test]
fn descriptor_that_follows_itself() {
    let memory = GuestMemory::new();
    let mut rig = Rig::new(&memory);
    let descriptors = [descriptor(rig.header, 16, DescriptorFlags::NEXT, 0)];
    rig.assert_descriptors_retire(&descriptors);
    rig.finish("the descriptor chain loops");
}

#[test]
fn successor_outside_the_table() {
    let memory = GuestMemory::new();
    let mut rig = Rig::new(&memory);
    let outside = rig.queue.size();
    let descriptors = [descriptor(rig.header, 16, DescriptorFlags::NEXT, outside)];
    rig.assert_descriptors_retire(&descriptors);
    rig.finish("is outside its table");
}

#[test]
fn data_outside_memory() {
    let memory = GuestMemory::new();
    let mut rig = Rig::new(&memory);
    for (address, len) in [(GuestMemory::HOLE, 4096), (u64::MAX - 511, 512), (u64::MAX, 512), (0, 512)] {
        let (header, status) = (rig.header, rig.status);
        let chain =
            [Buffer::readable(header, 16), Buffer::readable(address, len), Buffer::writable(status, 1)];
        rig.assert_refused(&chain);
    }
    rig.finish("is not in guest memory");
}

/// It begins in memory and ends in a hole.
#[test]
fn data_that_leaves_memory() {
    let memory = GuestMemory::new();
    let mut rig = Rig::new(&memory);
    let end = (1 << 32) + (256 << 20);
    let chain = [
        Buffer::readable(rig.header, 16),
        Buffer::readable(end - 512, 1024),
        Buffer::writable(rig.status, 1),
    ];
    rig.assert_refused(&chain);
    rig.finish("is not in guest memory");
}

#[test]
fn header_outside_memory() {
    let memory = GuestMemory::new();
    let mut rig = Rig::new(&memory);
    rig.assert_refused(&[Buffer::readable(GuestMemory::HOLE, 16), Buffer::writable(rig.status, 1)]);
    rig.finish("the header is not in guest memory");
}

#[test]
fn status_outside_memory() {
    let memory = GuestMemory::new();
    let mut rig = Rig::new(&memory);
    let chain = [
        Buffer::readable(rig.header, 16),
        Buffer::readable(rig.data, 4096),
        Buffer::writable(GuestMemory::HOLE, 1),
    ];
    rig.assert_retires(&chain);
    rig.finish("status byte");
}

#[test]
fn readable_after_writable() {
    let memory = GuestMemory::new();
    let mut rig = Rig::new(&memory);
    let chain = [
        Buffer::readable(rig.header, 16),
        Buffer::writable(rig.data, 512),
        Buffer::readable(rig.data, 4096),
        Buffer::writable(rig.status, 1),
    ];
    rig.assert_refused(&chain);
    rig.finish("a device-readable descriptor follows a device-writable one");
}

#[test]
fn nested_indirect() {
    let memory = GuestMemory::new();
    let mut rig = Rig::new(&memory);
    let (outer, inner) = (memory.allocate(4096), memory.allocate(4096));
    let (next, write) = (DescriptorFlags::NEXT, DescriptorFlags::WRITE);
    let driver = rig.queue.driver();
    driver.write_table_entry(GuestAddress(inner), 0, descriptor(rig.status, 1, write, 0));
    driver.write_table_entry(GuestAddress(outer), 0, descriptor(rig.header, 16, next, 1));
    driver.write_table_entry(GuestAddress(outer), 1, descriptor(inner, 16, DescriptorFlags::INDIRECT, 0));
    rig.assert_descriptors_retire(&[descriptor(outer, 32, DescriptorFlags::INDIRECT, 0)]);
    rig.finish("an indirect table holds an indirect descriptor");
}

#[test]
fn indirect_tables_that_are_none() {
    let memory = GuestMemory::new();
    let mut rig = Rig::new(&memory);
    let indirect = DescriptorFlags::INDIRECT;
    let table = memory.allocate(4096);
    for (address, len) in [(table, 0), (table, 17), (GuestMemory::HOLE, 32), (table, u32::MAX - 15)] {
        rig.assert_descriptors_retire(&[descriptor(address, len, indirect, 0)]);
    }
    rig.finish("indirect table");
}

/// What the ring itself says is not to be believed: this queue ends, the other goes on, and so does the next session.
#[test]
fn a_broken_ring_retires_its_queue_alone() {
    for (case, reason) in
        [("index", "available index"), ("head", "head index"), ("twice", "made available again")]
    {
        let memory = GuestMemory::new();
        let mut rig = Rig::new(&memory);
        match case {
            "index" => rig.queue.driver().set_available_index(20_000),
            "head" => rig.queue.driver().make_available(256),
            _ => {
                let (next, write) = (DescriptorFlags::NEXT, DescriptorFlags::WRITE);
                let chain = [(rig.header, 16, next), (rig.data, 4096, next), (rig.status, 1, write)];
                for (index, (address, len, flags)) in (0..).zip(chain) {
                    rig.queue.driver().write_descriptor(index, descriptor(address, len, flags, index + 1));
                }
                // at once, or the first may be done before the second is there
                rig.queue.driver().make_all_available([0, 0]);
            }
        }
        rig.queue.kick();
        rig.backend.log().wait_for("queue retired");
        for round in 0..10 {
            let data = pattern(round, 4096);
            rig.other.write(64 + round * 8, &data);
            assert!(rig.other.read(64 + round * 8, 4096) == data);
        }
        drop(rig.frontend);
        let mut frontend = Frontend::connect(&rig.backend, &memory);
        frontend.queue(0).write(0, &pattern(1, 4096));
        drop(frontend);
        let log = rig.backend.stop();
        assert!(log.contains(reason), "{reason:?} is not in the log:\n{log}");
        rig.image.assert_clean();
    }
}

/// Stops and starts that the driver knows nothing of mend no ring.
#[test]
fn a_retired_queue_serves_again_only_when_it_is_set_up_anew() {
    let by_its_base = |rig: &mut Rig<'_>| rig.frontend.protocol.set_vring_base(0, 0).unwrap();
    let by_being_handed_back = |rig: &mut Rig<'_>| {
        assert_eq!(rig.frontend.stop(&rig.queue), 0);
        rig.frontend.protocol.set_vring_kick(0, rig.queue.kick_fd()).unwrap();
    };
    let by_a_reset = |rig: &mut Rig<'_>| {
        assert!(rig.frontend.acknowledged(FrontendReq::RESET_DEVICE, &[], &[]));
        let config = rig.frontend.config_of(&rig.queue);
        rig.frontend.protocol.set_vring_num(0, rig.queue.size()).unwrap();
        rig.frontend.protocol.set_vring_addr(0, &config).unwrap();
        rig.frontend.protocol.set_vring_kick(0, rig.queue.kick_fd()).unwrap();
        rig.frontend.protocol.set_vring_enable(0, true).unwrap();
    };
    let ways: [&dyn Fn(&mut Rig<'_>); 3] = [&by_its_base, &by_being_handed_back, &by_a_reset];
    for set_up_anew in ways {
        let memory = GuestMemory::new();
        let mut rig = Rig::new(&memory);
        rig.queue.driver().set_available_index(20_000);
        rig.queue.kick();
        rig.backend.log().wait_for("queue retired");
        // from here on it looks well
        let write = Request::write(64, &[(rig.data, 4096)]);
        let head = rig.queue.submit(&write);
        // each of these stops the queues; a worker looks at its ring before it heeds the next one
        for _ in 0..2 {
            rig.frontend.protocol.set_mem_table(&memory.regions()).unwrap();
            rig.frontend.protocol.set_vring_enable(0, false).unwrap();
            rig.frontend.protocol.set_vring_enable(0, true).unwrap();
            assert_eq!(rig.backend.ctl(&["drain"]).code, Some(0));
        }
        rig.queue.kick();
        assert_eq!(rig.queue.driver().used_index(), 0, "a retired queue was served");
        assert_eq!(rig.error.read().unwrap(), 1, "the front-end is told once");

        set_up_anew(&mut rig);
        let completion = rig.queue.poll();
        assert_eq!((completion.head, completion.status), (head, OK));
        drop(rig.frontend);
        let log = rig.backend.stop();
        assert_eq!(log.matches("queue retired").count(), 1, "{log}");
        assert!(rig.image.read(64 * 512, 4096) == pattern(1, 4096));
        rig.image.assert_clean();
    }
}

/// A guest that makes nothing but errors does not fill the host's log.
#[test]
fn a_flood_is_not_logged_line_by_line() {
    let memory = GuestMemory::new();
    let mut rig = Rig::new(&memory);
    for _ in 0..1000 {
        let head = rig.queue.submit_chain(&[Buffer::writable(rig.status, 1)]);
        rig.queue.complete(head);
    }
    assert_eq!(rig.other.try_read(0, 4096).0.status, OK);
    drop(rig.frontend);
    let log = rig.backend.stop();
    assert!((1..20).contains(&log.matches("malformed request").count()), "{log}");
}
