//! A driver that breaks its ring loses that queue and is notified of that. Other queues of the disk
//! are served.

use std::sync::Arc;

use integrity::{Guard, IntegrityProfile, PiType};
use stableblk::device::BlockDevice;
use stableblk::device::faulty::FaultyDevice;
use stableblk::device::mem::MemDevice;
use stableblk::device::operation::DeviceOperation;
use stableblk::guest::memory_table::GuestMemory;
use stableblk::worker::Vring;
use virtio::testing::{ChainBuffer, Driver, Used, header};
use virtio::{Descriptor, DescriptorFlags, request_type};
use vm_memory::{Bytes, GuestAddress};

use crate::gate::Gate;
use crate::guest::{
    Command, Guest, IOERR, Layout, OK, QUEUE_SPAN, Setup, guest_memory, new_inflight_region, take_over,
};
use crate::model::stamped;

const RING_SIZE: u16 = 256;
/// In the first queue's part of memory, behind everything a test lays out.
const HEADER: u64 = 40 << 20;
const DATA: u64 = HEADER + 4096;
const STATUS: u64 = DATA + 4096;
/// The sector of the request that is in flight.
const GATED: u64 = 64;
/// The end of two queues' memory.
const MEMORY_END: u64 = 2 * QUEUE_SPAN;
/// Behind all memory.
const NOWHERE: u64 = 1 << 40;

fn disk() -> Arc<MemDevice> {
    let profile = IntegrityProfile::new(Guard::Crc64Nvme, PiType::Type1, 4096).unwrap();
    Arc::new(MemDevice::new(Some(profile), 1 << 20))
}

/// Writes and reads on a queue, over what the other one writes.
fn assert_serves<B: BlockDevice>(guest: &mut Guest<'_, B>, queue: usize, stamp: u64) {
    let write = Command::Write { sector: 3, data: stamped(3, 8192, stamp) };
    assert_eq!(guest.perform(queue, &write).outcome(), (OK, 1));
    assert_eq!(guest.perform(queue, &Command::Read { sector: 3, len: 8192 }).data, stamped(3, 8192, stamp));
}

/// Breaks queue 1 while it has a request in flight and queue 0 works. `returned` are the used
/// lengths of the chains that came with the break.
fn assert_retires(returned: &[u32], break_ring: impl Fn(&mut Driver<&GuestMemory>)) {
    let memory = guest_memory(2);
    memory.write_slice(&header(request_type::IN, 0), GuestAddress(HEADER)).unwrap();
    let gate = Gate::default();
    let plan = gate.clone();
    let device = FaultyDevice::new(disk(), move |operation| {
        if matches!(operation, DeviceOperation::Transfer(transfer) if transfer.offset() == GATED * 512) {
            plan.pass();
        }
        None
    });
    let mut guest = Guest::start(&memory, Arc::new(device), Setup { queues: 2, ..Setup::default() });
    assert_serves(&mut guest, 1, 1);
    gate.close();
    let in_flight = guest.submit(1, &Command::Write { sector: GATED, data: stamped(GATED, 4096, 2) });
    gate.until_reached();
    guest.take_over(1);
    break_ring(guest.driver(1));
    gate.open();
    assert!(guest.is_retired(1));
    assert_serves(&mut guest, 0, 3);

    guest.ask_to_stop(1);
    assert_eq!(guest.join(1).unwrap().ring.outstanding(), 0);
    let used: Vec<_> = std::iter::from_fn(|| guest.driver(1).take_used()).collect();
    assert_eq!(used[0], Used { head: in_flight.head.into(), len: 1 });
    assert_eq!(used[1..].iter().map(|used| used.len).collect::<Vec<_>>(), returned);
    let retired: Vec<_> = guest.disk.metrics.iter().map(|metrics| metrics.retired.get()).collect();
    assert_eq!(retired, [0, 1]);

    let ring = guest.reset_ring(1);
    guest.start_queue(1, ring);
    assert_serves(&mut guest, 1, 4);
    assert_serves(&mut guest, 0, 5);
    guest.stop_all();
}

/// A chain of one descriptor each: header, data and, at `status`, the status.
fn make_read_available(driver: &mut Driver<&GuestMemory>, data: u64, status: u64) -> u16 {
    let head = driver.write_chain(&[
        ChainBuffer::readable(HEADER, 16),
        ChainBuffer::writable(data, 512),
        ChainBuffer::writable(status, 1),
    ]);
    driver.make_available(head);
    head
}

#[test]
fn a_head_made_available_twice() {
    // the second is popped while the device has the first
    assert_retires(&[513], |driver| {
        let head = make_read_available(driver, DATA, STATUS);
        driver.make_available(head);
    });
}

#[test]
fn a_head_outside_the_table() {
    assert_retires(&[], |driver| driver.make_available(RING_SIZE));
}

#[test]
fn an_available_index_that_jumps() {
    assert_retires(&[], |driver| driver.set_available_index(RING_SIZE + 100));
}

#[test]
fn an_available_index_that_goes_back() {
    assert_retires(&[], |driver| driver.set_available_index(1));
}

#[test]
fn descriptors_that_go_round() {
    assert_retires(&[0], |driver| {
        let flags = DescriptorFlags::NEXT | DescriptorFlags::WRITE;
        for index in [200, 201] {
            driver.write_descriptor(index, Descriptor { address: DATA, len: 512, flags, next: 401 - index });
        }
        driver.make_available(200);
    });
}

#[test]
fn a_status_outside_memory() {
    assert_retires(&[0], |driver| {
        make_read_available(driver, DATA, NOWHERE);
    });
}

#[test]
fn data_outside_memory_are_one_requests_error() {
    let memory = guest_memory(2);
    memory.write_slice(&header(request_type::IN, 0), GuestAddress(HEADER)).unwrap();
    let mut guest = Guest::start(&memory, disk(), Setup { queues: 2, ..Setup::default() });
    for data in [NOWHERE, u64::MAX - 100, MEMORY_END - 256] {
        let head = make_read_available(guest.driver(1), data, STATUS);
        guest.force_kick(1);
        let used = guest.next_used(1);
        assert_eq!((used.head, used.len), (head.into(), 1));
        assert_eq!(memory.read_obj::<u8>(GuestAddress(STATUS)).unwrap(), IOERR);
        assert_serves(&mut guest, 0, 6);
        assert_serves(&mut guest, 1, 7);
    }
    assert_eq!(guest.disk.metrics[1].failed.malformed.get(), 3);
    assert_eq!(guest.disk.metrics[1].retired.get(), 0);
    guest.stop_all();
}

#[test]
fn requests_of_a_retired_queue_stay_noted_until_it_is_set_up_again() {
    let memory = guest_memory(1);
    let mut guest = Guest::start(&memory, disk(), Setup { ring_size: RING_SIZE, ..Setup::default() });
    guest.ask_to_stop(0);
    let vring = guest.join(0).unwrap();
    let region = new_inflight_region(RING_SIZE);
    // a predecessor popped it, found the ring broken and died
    let read = guest.lay_out(0, &Command::Read { sector: 0, len: 512 }, &Layout::default());
    take_over(&region, RING_SIZE).popped(read.head);

    let inflight = Some(take_over(&region, RING_SIZE));
    guest.start_vring(Vring { retired: true, inflight, ..vring });
    guest.ask_to_stop(0);
    let vring = guest.join(0).unwrap();
    assert!(vring.retired);
    assert!(guest.completions().is_empty(), "a retired queue was served");
    assert_eq!(take_over(&region, RING_SIZE).interrupted(), Some(1));

    let inflight = Some(take_over(&region, RING_SIZE));
    guest.start_vring(Vring { retired: false, inflight, ..vring });
    let [completion] = guest.wait_for([read]);
    assert_eq!(completion.outcome(), (OK, 513));
    guest.stop_all();
    assert_eq!(take_over(&region, RING_SIZE).interrupted(), Some(0));
}
