//! Chains that break a rule of virtio 1.2, 2.7.5, each refused for the right reason and returned
//! once.

use stableblk_virtio::testing::{ChainBuffer, Driver};
use stableblk_virtio::{
    Descriptor, DescriptorFlags, Features, Malformed, MalformedReason, Operation, Request, Segment,
    SplitRing, Status, request_type,
};
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

use crate::harness::{DATA, HEADER, Harness, MEMORY_END, RING_SIZE, STATUS, TABLE, guest_memory};

const NEXT: DescriptorFlags = DescriptorFlags::NEXT;
const WRITE: DescriptorFlags = DescriptorFlags::WRITE;
const INDIRECT: DescriptorFlags = DescriptorFlags::INDIRECT;

const HEADER_BUFFER: ChainBuffer = ChainBuffer {
    address: GuestAddress(HEADER),
    len: 16,
    access: stableblk_virtio::testing::DeviceAccess::Reads,
};

fn descriptor(address: u64, len: u32, flags: DescriptorFlags, next: u16) -> Descriptor {
    Descriptor { address, len, flags, next }
}

fn segment(address: u64, len: u32) -> Segment {
    Segment { address: GuestAddress(address), len }
}

/// Makes the chain that starts at descriptor 0 available.
fn post_raw(harness: &mut Harness<'_>, descriptors: &[Descriptor]) {
    for (index, descriptor) in descriptors.iter().enumerate() {
        harness.driver.write_descriptor(u16::try_from(index).unwrap(), *descriptor);
    }
    harness.driver.make_available(0);
}

/// Makes a chain of one indirect descriptor available, its table given.
fn post_table(harness: &mut Harness<'_>, table: &[Descriptor]) {
    for (index, descriptor) in table.iter().enumerate() {
        harness.driver.write_table_entry(GuestAddress(TABLE), u16::try_from(index).unwrap(), *descriptor);
    }
    let len = u32::try_from(table.len() * Descriptor::SIZE).unwrap();
    post_raw(harness, &[descriptor(TABLE, len, INDIRECT, 0)]);
}

#[test]
fn loop_is_refused() {
    let mem = guest_memory();
    let mut harness = Harness::new(&mem);
    post_raw(&mut harness, &[descriptor(HEADER, 16, NEXT, 1), descriptor(DATA, 512, NEXT, 0)]);
    harness.assert_unanswerable(MalformedReason::Loop);
}

#[test]
fn descriptor_that_is_its_own_successor_is_refused() {
    let mem = guest_memory();
    let mut harness = Harness::new(&mem);
    post_raw(&mut harness, &[descriptor(STATUS, 1, NEXT | WRITE, 0)]);
    harness.assert_unanswerable(MalformedReason::Loop);
}

#[test]
fn loop_in_indirect_table_is_refused() {
    let mem = guest_memory();
    let mut harness = Harness::new(&mem);
    post_table(&mut harness, &[descriptor(HEADER, 16, NEXT, 1), descriptor(DATA, 512, NEXT, 0)]);
    harness.assert_unanswerable(MalformedReason::Loop);
}

#[test]
fn successor_outside_the_table_is_refused() {
    let mem = guest_memory();
    let mut harness = Harness::new(&mem);
    post_raw(&mut harness, &[descriptor(HEADER, 16, NEXT, RING_SIZE)]);
    harness.assert_unanswerable(MalformedReason::NextOutOfRange { next: RING_SIZE });
}

#[test]
fn successor_outside_the_indirect_table_is_refused() {
    let mem = guest_memory();
    let mut harness = Harness::new(&mem);
    // the third entry exists in memory, but not in the table
    harness.driver.write_table_entry(GuestAddress(TABLE), 2, descriptor(STATUS, 1, WRITE, 0));
    post_table(&mut harness, &[descriptor(HEADER, 16, NEXT, 1), descriptor(DATA, 512, NEXT, 2)]);
    harness.assert_unanswerable(MalformedReason::NextOutOfRange { next: 2 });
}

#[test]
fn indirect_descriptor_with_successor_is_refused() {
    let mem = guest_memory();
    let mut harness = Harness::new(&mem);
    post_raw(&mut harness, &[descriptor(TABLE, 16, INDIRECT | NEXT, 1), descriptor(STATUS, 1, WRITE, 0)]);
    harness.assert_unanswerable(MalformedReason::IndirectWithNext);
}

#[test]
fn nested_indirect_table_is_refused() {
    let mem = guest_memory();
    let mut harness = Harness::new(&mem);
    post_table(&mut harness, &[descriptor(HEADER, 16, NEXT, 1), descriptor(TABLE, 16, INDIRECT, 0)]);
    harness.assert_unanswerable(MalformedReason::NestedIndirect);
}

#[test]
fn indirect_table_of_a_wrong_length_is_refused() {
    for len in [0, 1, 15, 17, 33] {
        let mem = guest_memory();
        let mut harness = Harness::new(&mem);
        post_raw(&mut harness, &[descriptor(TABLE, len, INDIRECT, 0)]);
        harness.assert_unanswerable(MalformedReason::IndirectTableLength { len });
    }
}

#[test]
fn indirect_table_outside_memory_is_refused() {
    for address in [MEMORY_END - 16, MEMORY_END, u64::MAX - 15, u64::MAX] {
        let mem = guest_memory();
        let mut harness = Harness::new(&mem);
        post_raw(&mut harness, &[descriptor(address, 32, INDIRECT, 0)]);
        harness.assert_unanswerable(MalformedReason::IndirectTableOutsideMemory(segment(address, 32)));
    }
}

#[test]
fn indirect_descriptor_that_was_not_negotiated_is_refused() {
    let mem = guest_memory();
    let mut harness = Harness::new(&mem);
    harness.ring =
        SplitRing::new(&mem, RING_SIZE, harness.driver.addresses(), Features::EVENT_IDX, 0).unwrap();
    post_table(&mut harness, &[descriptor(HEADER, 16, NEXT, 1), descriptor(STATUS, 1, WRITE, 0)]);
    harness.assert_unanswerable(MalformedReason::IndirectNotNegotiated);
}

#[test]
fn write_flag_of_an_indirect_descriptor_is_ignored() {
    let mem = guest_memory();
    let mut harness = Harness::new(&mem);
    harness.driver.write_header(HEADER, request_type::FLUSH, 0);
    harness.driver.write_table_entry(GuestAddress(TABLE), 0, descriptor(HEADER, 16, NEXT, 1));
    harness.driver.write_table_entry(GuestAddress(TABLE), 1, descriptor(STATUS, 1, WRITE, 0));
    post_raw(&mut harness, &[descriptor(TABLE, 32, INDIRECT | WRITE, 0)]);
    let request = harness.parse().unwrap();
    assert_eq!(request.operation, Operation::Flush);
    request.reply.abandon();
}

#[test]
fn direct_descriptors_may_precede_an_indirect_one() {
    let mem = guest_memory();
    let mut harness = Harness::new(&mem);
    harness.driver.write_header(HEADER, request_type::IN, 3);
    harness.driver.write_table_entry(GuestAddress(TABLE), 0, descriptor(DATA, 512, WRITE | NEXT, 1));
    harness.driver.write_table_entry(GuestAddress(TABLE), 1, descriptor(STATUS, 1, WRITE, 0));
    post_raw(&mut harness, &[descriptor(HEADER, 16, NEXT, 1), descriptor(TABLE, 32, INDIRECT, 0)]);
    let request = harness.parse().unwrap();
    assert_eq!(request.operation, Operation::Read { sector: 3 });
    assert_eq!(request.data.iter().copied().collect::<Vec<_>>(), [segment(DATA, 512)]);
    request.reply.abandon();
}

#[test]
fn reserved_flags_are_ignored() {
    let mem = guest_memory();
    let mut harness = Harness::new(&mem);
    harness.driver.write_header(HEADER, request_type::FLUSH, 0);
    let reserved = DescriptorFlags::from_bits_retain(0xfff8);
    post_raw(
        &mut harness,
        &[descriptor(HEADER, 16, NEXT | reserved, 1), descriptor(STATUS, 1, WRITE | reserved, 0)],
    );
    let request = harness.parse().unwrap();
    assert_eq!(request.operation, Operation::Flush);
    request.reply.abandon();
}

#[test]
fn readable_descriptor_after_a_writable_one_is_answered() {
    let mem = guest_memory();
    let mut harness = Harness::new(&mem);
    harness.post_request(
        request_type::IN,
        0,
        &[
            ChainBuffer::writable(DATA, 512),
            ChainBuffer::readable(DATA, 512),
            ChainBuffer::writable(DATA, 512),
        ],
    );
    harness.assert_answered(MalformedReason::ReadableAfterWritable, 1);
}

#[test]
fn first_of_two_faults_is_reported() {
    let mem = guest_memory();
    let mut harness = Harness::new(&mem);
    let half = ChainBuffer::writable(0, 1 << 31);
    harness.post_request(request_type::IN, 0, &[half, ChainBuffer::readable(DATA, 1), half]);
    harness.assert_answered(MalformedReason::ReadableAfterWritable, 1);
    harness.post_request(request_type::IN, 0, &[half, half, ChainBuffer::readable(DATA, 1)]);
    harness.assert_answered(MalformedReason::TooManyBytes, 1);
}

#[test]
fn fault_of_one_chain_does_not_affect_the_next() {
    let mem = guest_memory();
    let mut harness = Harness::new(&mem);
    harness.post_request(
        request_type::IN,
        0,
        &[ChainBuffer::writable(DATA, 1), ChainBuffer::readable(DATA, 1)],
    );
    harness.assert_answered(MalformedReason::ReadableAfterWritable, 1);
    harness.post_request(request_type::FLUSH, 0, &[]);
    let request = harness.parse().unwrap();
    assert_eq!(harness.answer(request, Status::Ok, 0), 1);
}

#[test]
fn buffer_outside_memory_is_answered() {
    for (address, len) in
        [(MEMORY_END, 512), (MEMORY_END - 256, 512), (u64::MAX - 511, 512), (u64::MAX, 512), (DATA, 1 << 31)]
    {
        for (kind, buffer) in [
            (request_type::IN, ChainBuffer::writable(address, len)),
            (request_type::OUT, ChainBuffer::readable(address, len)),
        ] {
            let mem = guest_memory();
            let mut harness = Harness::new(&mem);
            harness.post_request(kind, 0, &[buffer]);
            harness.assert_answered(MalformedReason::OutsideMemory(segment(address, len)), 1);
        }
    }
}

#[test]
fn chain_of_more_bytes_than_a_used_length_can_hold_is_answered() {
    let mem = guest_memory();
    let mut harness = Harness::new(&mem);
    harness.post_request(
        request_type::IN,
        0,
        &[ChainBuffer::writable(0, u32::MAX), ChainBuffer::writable(0, u32::MAX)],
    );
    harness.assert_answered(MalformedReason::TooManyBytes, 1);
}

#[test]
fn missing_status_is_unanswerable() {
    let mem = guest_memory();
    let mut harness = Harness::new(&mem);
    harness.driver.write_header(HEADER, request_type::OUT, 0);
    harness.post(&[HEADER_BUFFER, ChainBuffer::readable(DATA, 512)]);
    harness.assert_unanswerable(MalformedReason::NoStatus);
}

#[test]
fn writable_buffers_of_no_bytes_hold_no_status() {
    let mem = guest_memory();
    let mut harness = Harness::new(&mem);
    harness.post(&[HEADER_BUFFER, ChainBuffer::writable(STATUS, 0)]);
    harness.assert_unanswerable(MalformedReason::NoStatus);
}

#[test]
fn status_outside_memory_is_unanswerable() {
    for (address, len) in [(MEMORY_END, 1), (MEMORY_END - 1, 2), (u64::MAX, 1), (u64::MAX, 2)] {
        let mem = guest_memory();
        let mut harness = Harness::new(&mem);
        harness.post(&[HEADER_BUFFER, ChainBuffer::writable(address, len)]);
        harness.assert_unanswerable(MalformedReason::StatusOutsideMemory(segment(address, len)));
    }
}

#[test]
fn short_header_is_answered() {
    let mem = guest_memory();
    let mut harness = Harness::new(&mem);
    harness.post(&[ChainBuffer::readable(HEADER, 15), ChainBuffer::writable(STATUS, 1)]);
    harness.assert_answered(MalformedReason::HeaderTooShort { len: 15 }, 1);
    harness.post(&[ChainBuffer::writable(STATUS, 1)]);
    harness.assert_answered(MalformedReason::HeaderTooShort { len: 0 }, 1);
}

#[test]
fn header_outside_memory_is_answered() {
    let mem = guest_memory();
    let mut harness = Harness::new(&mem);
    harness.post(&[ChainBuffer::readable(MEMORY_END - 8, 16), ChainBuffer::writable(STATUS, 1)]);
    harness.assert_answered(MalformedReason::HeaderOutsideMemory, 1);
}

/// Windows sends 515 descriptors whatever the ring's size and `seg_max` say.
#[test]
fn chain_longer_than_the_ring_is_served() {
    let mem = guest_memory();
    let mut harness = Harness::new(&mem);
    let data = (0..1022).map(|_| ChainBuffer::writable(DATA, 512));
    harness.driver.write_header(HEADER, request_type::IN, 0);
    let buffers: Vec<_> =
        std::iter::once(HEADER_BUFFER).chain(data).chain([ChainBuffer::writable(STATUS, 1)]).collect();
    assert_eq!(buffers.len(), 1024);
    let head = harness.driver.write_indirect_chain(TABLE, &buffers);
    for _ in 0..2 {
        harness.driver.make_available(head);
        let request = harness.parse().unwrap();
        assert_eq!(request.data.len(), 1022 * 512);
        harness.answer(request, Status::IoErr, 0);
    }
}

#[test]
fn chain_of_too_many_descriptors_is_refused() {
    let mem = guest_memory();
    let mut harness = Harness::new(&mem);
    let buffers = vec![ChainBuffer::readable(DATA, 512); 1025];
    let head = harness.driver.write_indirect_chain(TABLE, &buffers);
    harness.driver.make_available(head);
    harness.assert_unanswerable(MalformedReason::TooManyDescriptors);
}

#[test]
fn direct_descriptors_count_towards_the_limit() {
    let mem = guest_memory();
    let mut harness = Harness::new(&mem);
    harness.driver.write_indirect_chain(TABLE, &vec![ChainBuffer::readable(DATA, 512); 1024]);
    post_raw(&mut harness, &[descriptor(HEADER, 16, NEXT, 1), descriptor(TABLE, 1024 * 16, INDIRECT, 0)]);
    harness.assert_unanswerable(MalformedReason::TooManyDescriptors);
}

#[test]
fn chain_may_be_as_long_as_a_large_ring() {
    let mem = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 0x40_0000)]).unwrap();
    let mut driver: Driver<&GuestMemoryMmap> = Driver::new(&mem, 0, 32768);
    let mut ring = driver.device(false).unwrap();
    let header = 0x30_0000;
    driver.write_header(header, request_type::OUT, 0);
    let mut buffers = vec![ChainBuffer::readable(header, 16); 32767];
    buffers.push(ChainBuffer::writable(header, 1));
    let head = driver.write_chain(&buffers);
    driver.make_available(head);
    let request = Request::parse(&mem, ring.pop(&mem).unwrap().unwrap()).unwrap();
    assert_eq!(request.data.len(), 32766 * 16);
    request.reply.abandon();
}

/// A device-writable byte may be anywhere in the last buffer's region, even the last byte of
/// memory.
#[test]
fn status_is_the_last_writable_byte() {
    let mem = guest_memory();
    let mut harness = Harness::new(&mem);
    harness.driver.write_header(HEADER, request_type::IN, 0);
    harness.post(&[HEADER_BUFFER, ChainBuffer::writable(MEMORY_END - 513, 513), ChainBuffer::writable(0, 0)]);
    let request = harness.parse().unwrap();
    assert_eq!(request.data.iter().copied().collect::<Vec<_>>(), [segment(MEMORY_END - 513, 512)]);
    assert_eq!(harness.answer(request, Status::Unsupp, 0), 1);
    assert_eq!(mem.read_obj::<u8>(GuestAddress(MEMORY_END - 1)).unwrap(), 2);
}

#[test]
fn malformed_chain_does_not_stop_the_ring() {
    let mem = guest_memory();
    let mut harness = Harness::new(&mem);
    harness.post(&[ChainBuffer::readable(HEADER, 15)]);
    harness.post_request(request_type::FLUSH, 0, &[]);
    let malformed = harness.parse().unwrap_err();
    assert!(matches!(malformed, Malformed::Unanswerable { reason: MalformedReason::NoStatus, .. }));
    malformed.complete(&mut harness.ring, &mem);
    assert_eq!(harness.publish().len, 0);
    let request = harness.parse().unwrap();
    assert_eq!(harness.answer(request, Status::Ok, 0), 1);
    assert_eq!(harness.status(), 0);
}
