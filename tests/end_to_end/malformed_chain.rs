//! Chains that no driver should make: each comes back once, with a status where one can be written,
//! and no other queue is disturbed.

use vhost::VhostBackend;
use vhost::vhost_user::VhostUserFrontend;
use vhost::vhost_user::message::FrontendReq;
use virtio::testing::{ChainBuffer, header};
use virtio::{Descriptor, DescriptorFlags, request_type};
use vm_memory::GuestAddress;
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use crate::harness::{GuestMemory, IOERR, NOT_WRITTEN, OK, Queue, Request, Setup, Vm, pattern};

/// A disk with a queue to be mistreated and one to be served.
struct Rig {
    vm: Vm,
    other: Queue,
    /// Signalled when the queue of `vm` is given up.
    error: EventFd,
    header: u64,
    data: u64,
    status: u64,
}

impl Rig {
    fn new() -> Self {
        let mut vm = Setup::disk(16 << 20).start();
        let other = vm.frontend.queue(1);
        let error = EventFd::new(EFD_NONBLOCK).unwrap();
        vm.frontend.protocol.set_vring_err(0, &error).unwrap();
        let room = |len| vm.memory.allocate(len);
        let (header_address, data, status) = (room(4096), room(8192), room(4096));
        vm.memory.write(header_address, &header(request_type::OUT, 0));
        vm.memory.write(data, &pattern(1, 8192));
        vm.memory.write(status, &[NOT_WRITTEN]);
        Self { vm, other, error, header: header_address, data, status }
    }

    /// Sends `buffers` as a chain, which must come back with IOERR.
    fn assert_refused(&mut self, buffers: &[ChainBuffer]) {
        let head = self.vm.queue.submit_chain(buffers);
        let completion = self.vm.queue.complete(head);
        assert_eq!((self.vm.memory.read_byte(self.status), completion.used_len), (IOERR, 1));
        self.vm.memory.write(self.status, &[NOT_WRITTEN]);
        // this queue is served on, and so is the other
        let data = pattern(u64::from(head) + 5, 4096);
        self.vm.queue.write(64, &data);
        assert!(self.other.read(64, 4096) == data);
    }

    /// Sends `buffers` as a chain that cannot be answered.
    fn assert_retires(&mut self, buffers: &[ChainBuffer]) {
        let head = self.vm.queue.submit_chain(buffers);
        self.assert_comes_back_unanswered(head);
    }

    /// Lays `descriptors` out from entry 0 of the ring on and sends entry 0, which cannot be
    /// answered.
    fn assert_descriptors_retire(&mut self, descriptors: &[Descriptor]) {
        for (index, &descriptor) in (0..).zip(descriptors) {
            self.vm.queue.driver().write_descriptor(index, descriptor);
        }
        self.vm.queue.driver().make_available(0);
        self.assert_comes_back_unanswered(0);
    }

    /// The chain at `head` must come back with nothing written, and its queue end; the other is
    /// served on, and so is this one once the driver has reset it.
    fn assert_comes_back_unanswered(&mut self, head: u16) {
        let completion = self.vm.queue.complete(head);
        assert_eq!((self.vm.memory.read_byte(self.status), completion.used_len), (NOT_WRITTEN, 0));
        let data = pattern(u64::from(head) + 5, 4096);
        self.other.write(64, &data);
        self.vm.frontend.stop(&self.vm.queue);
        assert_eq!(self.error.read().unwrap(), 1, "the front-end is notified");
        self.vm.queue.restart_at(0);
        self.vm.frontend.protocol.set_vring_err(0, &self.error).unwrap();
        self.vm.frontend.start(&self.vm.queue, 0);
        assert!(self.vm.queue.read(64, 4096) == data);
    }

    /// Nothing was written but by the rounds in between.
    fn finish(self, reason: &str) {
        drop(self.vm.frontend);
        let log = self.vm.backend.stop();
        assert!(log.contains(reason), "{reason:?} is not in the log:\n{log}");
        assert!(self.vm.image.read(0, 64 * 512).iter().all(|&byte| byte == 0), "a malformed request wrote");
        self.vm.image.assert_clean();
    }
}

fn descriptor(address: u64, len: u32, flags: DescriptorFlags, next: u16) -> Descriptor {
    Descriptor { address, len, flags, next }
}

#[test]
fn a_chain_without_status_retires_its_queue() {
    let mut rig = Rig::new();
    rig.assert_retires(&[ChainBuffer::readable(rig.header, 16), ChainBuffer::readable(rig.data, 4096)]);
    rig.finish("no device-writable byte for the status");
}

#[test]
fn a_chain_without_header_is_refused() {
    let mut rig = Rig::new();
    rig.assert_refused(&[ChainBuffer::writable(rig.status, 1)]);
    rig.finish("a header of 0 bytes");
}

#[test]
fn a_short_header_is_refused() {
    let mut rig = Rig::new();
    rig.assert_refused(&[ChainBuffer::readable(rig.header, 15), ChainBuffer::writable(rig.status, 1)]);
    rig.finish("a header of 15 bytes");
}

#[test]
fn a_loop_of_descriptors_retires_its_queue() {
    let mut rig = Rig::new();
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
fn a_descriptor_that_follows_itself_retires_its_queue() {
    let mut rig = Rig::new();
    let descriptors = [descriptor(rig.header, 16, DescriptorFlags::NEXT, 0)];
    rig.assert_descriptors_retire(&descriptors);
    rig.finish("the descriptor chain loops");
}

#[test]
fn a_successor_outside_the_table_retires_its_queue() {
    let mut rig = Rig::new();
    let outside = rig.vm.queue.size();
    let descriptors = [descriptor(rig.header, 16, DescriptorFlags::NEXT, outside)];
    rig.assert_descriptors_retire(&descriptors);
    rig.finish("is outside its table");
}

#[test]
fn data_outside_memory_is_refused() {
    let mut rig = Rig::new();
    for (address, len) in [(GuestMemory::HOLE, 4096), (u64::MAX - 511, 512), (u64::MAX, 512), (0, 512)] {
        let (header, status) = (rig.header, rig.status);
        let chain = [
            ChainBuffer::readable(header, 16),
            ChainBuffer::readable(address, len),
            ChainBuffer::writable(status, 1),
        ];
        rig.assert_refused(&chain);
    }
    rig.finish("is not in guest memory");
}

/// It begins in memory and ends in a hole.
#[test]
fn data_that_leaves_memory_is_refused() {
    let mut rig = Rig::new();
    let end = (1 << 32) + (256 << 20);
    let chain = [
        ChainBuffer::readable(rig.header, 16),
        ChainBuffer::readable(end - 512, 1024),
        ChainBuffer::writable(rig.status, 1),
    ];
    rig.assert_refused(&chain);
    rig.finish("is not in guest memory");
}

#[test]
fn a_header_outside_memory_is_refused() {
    let mut rig = Rig::new();
    rig.assert_refused(&[ChainBuffer::readable(GuestMemory::HOLE, 16), ChainBuffer::writable(rig.status, 1)]);
    rig.finish("the header is not in guest memory");
}

#[test]
fn a_status_outside_memory_retires_its_queue() {
    let mut rig = Rig::new();
    let chain = [
        ChainBuffer::readable(rig.header, 16),
        ChainBuffer::readable(rig.data, 4096),
        ChainBuffer::writable(GuestMemory::HOLE, 1),
    ];
    rig.assert_retires(&chain);
    rig.finish("status byte");
}

#[test]
fn a_readable_descriptor_after_a_writable_one_is_refused() {
    let mut rig = Rig::new();
    let chain = [
        ChainBuffer::readable(rig.header, 16),
        ChainBuffer::writable(rig.data, 512),
        ChainBuffer::readable(rig.data, 4096),
        ChainBuffer::writable(rig.status, 1),
    ];
    rig.assert_refused(&chain);
    rig.finish("a device-readable descriptor follows a device-writable one");
}

#[test]
fn a_nested_indirect_table_retires_its_queue() {
    let mut rig = Rig::new();
    let (outer, inner) = (rig.vm.memory.allocate(4096), rig.vm.memory.allocate(4096));
    let (next, write) = (DescriptorFlags::NEXT, DescriptorFlags::WRITE);
    let driver = rig.vm.queue.driver();
    driver.write_table_entry(GuestAddress(inner), 0, descriptor(rig.status, 1, write, 0));
    driver.write_table_entry(GuestAddress(outer), 0, descriptor(rig.header, 16, next, 1));
    driver.write_table_entry(GuestAddress(outer), 1, descriptor(inner, 16, DescriptorFlags::INDIRECT, 0));
    rig.assert_descriptors_retire(&[descriptor(outer, 32, DescriptorFlags::INDIRECT, 0)]);
    rig.finish("an indirect table holds an indirect descriptor");
}

#[test]
fn invalid_indirect_tables_retire_their_queue() {
    let mut rig = Rig::new();
    let indirect = DescriptorFlags::INDIRECT;
    let table = rig.vm.memory.allocate(4096);
    for (address, len) in [(table, 0), (table, 17), (GuestMemory::HOLE, 32), (table, u32::MAX - 15)] {
        rig.assert_descriptors_retire(&[descriptor(address, len, indirect, 0)]);
    }
    rig.finish("indirect table");
}

/// The ring itself is broken: this queue ends, the other is served on, and so is the next session.
#[test]
fn a_broken_ring_retires_its_queue_alone() {
    for (case, reason) in
        [("index", "available index"), ("head", "head index"), ("twice", "made available again")]
    {
        let mut rig = Rig::new();
        match case {
            "index" => rig.vm.queue.driver().set_available_index(20_000),
            "head" => rig.vm.queue.driver().make_available(256),
            _ => {
                let (next, write) = (DescriptorFlags::NEXT, DescriptorFlags::WRITE);
                let chain = [(rig.header, 16, next), (rig.data, 4096, next), (rig.status, 1, write)];
                for (index, (address, len, flags)) in (0..).zip(chain) {
                    rig.vm.queue.driver().write_descriptor(index, descriptor(address, len, flags, index + 1));
                }
                // at once, or the first may be done before the second is there
                rig.vm.queue.driver().make_all_available([0, 0]);
            }
        }
        rig.vm.queue.kick();
        rig.vm.backend.log().wait_for("queue retired");
        for round in 0..10 {
            let data = pattern(round, 4096);
            rig.other.write(64 + round * 8, &data);
            assert!(rig.other.read(64 + round * 8, 4096) == data);
        }
        drop(rig.vm.frontend);
        rig.vm.backend.connect().queue(0).write(0, &pattern(1, 4096));
        let log = rig.vm.backend.stop();
        assert!(log.contains(reason), "{reason:?} is not in the log:\n{log}");
        rig.vm.image.assert_clean();
    }
}

/// Stops and starts that the driver knows nothing of mend no ring.
#[test]
fn a_retired_queue_serves_again_only_when_it_is_set_up_again() {
    let by_its_base = |rig: &mut Rig| rig.vm.frontend.protocol.set_vring_base(0, 0).unwrap();
    let by_being_handed_back = |rig: &mut Rig| {
        assert_eq!(rig.vm.frontend.stop(&rig.vm.queue), 0);
        rig.vm.frontend.protocol.set_vring_kick(0, rig.vm.queue.kick_fd()).unwrap();
    };
    let by_a_reset = |rig: &mut Rig| {
        assert!(rig.vm.frontend.acknowledged(FrontendReq::RESET_DEVICE, &[], &[]));
        let config = rig.vm.frontend.config_of(&rig.vm.queue);
        rig.vm.frontend.protocol.set_vring_num(0, rig.vm.queue.size()).unwrap();
        rig.vm.frontend.protocol.set_vring_addr(0, &config).unwrap();
        rig.vm.frontend.protocol.set_vring_kick(0, rig.vm.queue.kick_fd()).unwrap();
        rig.vm.frontend.protocol.set_vring_enable(0, true).unwrap();
    };
    let ways: [&dyn Fn(&mut Rig); 3] = [&by_its_base, &by_being_handed_back, &by_a_reset];
    for set_up_anew in ways {
        let mut rig = Rig::new();
        rig.vm.queue.driver().set_available_index(20_000);
        rig.vm.queue.kick();
        rig.vm.backend.log().wait_for("queue retired");
        // from here on it looks well
        let write = Request::write(64, &[(rig.data, 4096)]);
        let head = rig.vm.queue.submit(&write);
        // each of these stops the queues; a worker looks at its ring before it handles the next one
        for _ in 0..2 {
            rig.vm.frontend.protocol.set_mem_table(&rig.vm.memory.regions()).unwrap();
            rig.vm.frontend.protocol.set_vring_enable(0, false).unwrap();
            rig.vm.frontend.protocol.set_vring_enable(0, true).unwrap();
            assert_eq!(rig.vm.backend.ctl(&["drain"]).code, Some(0));
        }
        rig.vm.queue.kick();
        assert_eq!(rig.vm.queue.driver().used_index(), 0, "a retired queue was served");
        assert_eq!(rig.error.read().unwrap(), 1, "the front-end is notified once");

        set_up_anew(&mut rig);
        let completion = rig.vm.queue.poll();
        assert_eq!((completion.head, completion.status), (head, OK));
        drop(rig.vm.frontend);
        let log = rig.vm.backend.stop();
        assert_eq!(log.matches("queue retired").count(), 1, "{log}");
        assert!(rig.vm.image.read(64 * 512, 4096) == pattern(1, 4096));
        rig.vm.image.assert_clean();
    }
}

/// A guest that makes nothing but errors does not fill the host's log.
#[test]
fn a_flood_is_not_logged_line_by_line() {
    let mut rig = Rig::new();
    for _ in 0..1000 {
        let head = rig.vm.queue.submit_chain(&[ChainBuffer::writable(rig.status, 1)]);
        rig.vm.queue.complete(head);
    }
    assert_eq!(rig.other.try_read(0, 4096).0.status, OK);
    drop(rig.vm.frontend);
    let log = rig.vm.backend.stop();
    assert!((1..20).contains(&log.matches("malformed request").count()), "{log}");
}
