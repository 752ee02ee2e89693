//! Requests from a byte stream: any split, every type, answered exactly.

use proptest::prelude::*;
use stableblk_virtio::testing::{ChainBuffer, DeviceAccess, header, range};
use stableblk_virtio::{MalformedReason, Operation, RANGES_MAX, Range, Request, Status, request_type};
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

use crate::harness::{DATA, FILL, HEADER, Harness, RING_SIZE, STATUS, TABLE, guest_memory};

fn read(mem: &GuestMemoryMmap, address: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    mem.read_slice(&mut bytes, GuestAddress(address)).unwrap();
    bytes
}

/// The data of a write as the device gets it.
fn data_of(mem: &GuestMemoryMmap, request: &Request) -> Vec<u8> {
    let mut data = vec![0; usize::try_from(request.data.len()).unwrap()];
    request.data.copy_to(mem, 0, &mut data).unwrap();
    data
}

/// Posts a request whose device-readable part after the header is `payload`.
fn post_payload(harness: &mut Harness<'_>, request_type: u32, payload: &[u8]) {
    harness.mem.write_slice(payload, GuestAddress(DATA)).unwrap();
    let len = u32::try_from(payload.len()).unwrap();
    harness.post_request(request_type, 0, &[ChainBuffer::readable(DATA, len)]);
}

#[test]
fn write_reads_the_drivers_data() {
    let mem = guest_memory();
    let mut harness = Harness::new(&mem);
    mem.write_slice(&[0x11; 1024], GuestAddress(DATA)).unwrap();
    harness.post_request(request_type::OUT, 0x1_2345_6789, &[ChainBuffer::readable(DATA, 1024)]);
    let request = harness.parse().unwrap();
    assert_eq!(request.operation, Operation::Write { sector: 0x1_2345_6789 });
    assert_eq!(data_of(&mem, &request), [0x11; 1024]);
    assert_eq!(harness.answer(request, Status::Ok, 0), 1);
    assert_eq!(harness.status(), 0);
}

#[test]
fn read_writes_the_drivers_buffers() {
    let mem = guest_memory();
    let mut harness = Harness::new(&mem);
    harness.post_request(
        request_type::IN,
        9,
        &[ChainBuffer::writable(DATA, 512), ChainBuffer::writable(DATA + 0x1000, 512)],
    );
    let request = harness.parse().unwrap();
    assert_eq!(request.operation, Operation::Read { sector: 9 });
    request.data.copy_from(&mem, 0, &[0x22; 1024]).unwrap();
    assert_eq!(harness.answer(request, Status::Ok, 1024), 1025);
    assert_eq!(harness.status(), 0);
    for address in [DATA, DATA + 0x1000] {
        assert_eq!(read(&mem, address, 513), [[0x22; 512].as_slice(), &[FILL]].concat());
    }
}

#[test]
fn failed_read_leaves_the_buffers_alone() {
    let mem = guest_memory();
    let mut harness = Harness::new(&mem);
    harness.post_request(request_type::IN, 9, &[ChainBuffer::writable(DATA, 512)]);
    harness.parse().unwrap().reply.complete(&mut harness.ring, &mem, Status::IoErr, 0);
    assert_eq!(harness.publish().len, 1);
    assert_eq!(harness.status(), 1);
    assert_eq!(read(&mem, DATA, 512), [FILL; 512]);
}

#[test]
fn requests_without_a_sector_are_parsed() {
    let mem = guest_memory();
    let mut harness = Harness::new(&mem);
    for (request_type, operation) in [
        (request_type::FLUSH, Operation::Flush),
        (2, Operation::Unknown(2)),
        (10, Operation::Unknown(10)),
        (14, Operation::Unknown(14)),
        (u32::MAX, Operation::Unknown(u32::MAX)),
    ] {
        harness.post_request(request_type, 0, &[]);
        let request = harness.parse().unwrap();
        assert_eq!(request.operation, operation);
        assert!(request.data.is_empty());
        harness.answer(request, Status::Unsupp, 0);
        assert_eq!(harness.status(), 2);
    }
}

#[test]
fn device_id_goes_to_the_data() {
    let mem = guest_memory();
    let mut harness = Harness::new(&mem);
    harness.post_request(request_type::GET_ID, 0, &[ChainBuffer::writable(DATA, 20)]);
    let request = harness.parse().unwrap();
    assert_eq!(request.operation, Operation::GetId);
    assert_eq!(request.data.len(), 20);
    request.data.copy_from(&mem, 0, b"0123456789abcdefghij").unwrap();
    assert_eq!(harness.answer(request, Status::Ok, 20), 21);
    assert_eq!(read(&mem, DATA, 20), b"0123456789abcdefghij");
}

#[test]
fn ranges_are_read_whole() {
    let mem = guest_memory();
    let mut harness = Harness::new(&mem);
    let ranges = [(1, 2, 0), (u64::MAX, u32::MAX, u32::MAX)];
    let payload: Vec<u8> = ranges.iter().flat_map(|(s, n, f)| range(*s, *n, *f)).collect();
    let expected = ranges.map(|(sector, num_sectors, flags)| Range { sector, num_sectors, flags });
    post_payload(&mut harness, request_type::DISCARD, &payload);
    let request = harness.parse().unwrap();
    assert_eq!(request.operation, Operation::Discard(expected.as_slice().into()));
    harness.answer(request, Status::Ok, 0);

    post_payload(&mut harness, request_type::WRITE_ZEROES, &payload);
    let request = harness.parse().unwrap();
    assert_eq!(request.operation, Operation::WriteZeroes(expected.as_slice().into()));
    harness.answer(request, Status::Ok, 0);
}

#[test]
fn ranges_of_a_wrong_length_are_answered() {
    for len in [0_u64, 1, 15, 17, 24] {
        let mem = guest_memory();
        let mut harness = Harness::new(&mem);
        post_payload(&mut harness, request_type::DISCARD, &vec![0; usize::try_from(len).unwrap()]);
        harness.assert_answered(MalformedReason::RangesLength { len }, 1);
    }
}

#[test]
fn ranges_are_bounded() {
    let mem = guest_memory();
    let mut harness = Harness::new(&mem);
    post_payload(&mut harness, request_type::DISCARD, &vec![0; RANGES_MAX * 16]);
    let request = harness.parse().unwrap();
    assert!(matches!(&request.operation, Operation::Discard(ranges) if ranges.len() == RANGES_MAX));
    harness.answer(request, Status::Ok, 0);

    post_payload(&mut harness, request_type::DISCARD, &vec![0; (RANGES_MAX + 1) * 16]);
    harness.assert_answered(MalformedReason::TooManyRanges { count: 257 }, 2);
}

/// virtio-win 1326: after a bus reset the driver uses the memory of the header and of the status
/// again.
#[test]
fn header_and_status_address_are_read_once() {
    let mem = guest_memory();
    let mut harness = Harness::new(&mem);
    harness.post_request(request_type::OUT, 7, &[ChainBuffer::readable(DATA, 512)]);
    let request = harness.parse().unwrap();
    harness.driver.write_header(HEADER, request_type::IN, 99);
    for index in 0..RING_SIZE {
        let nowhere = stableblk_virtio::Descriptor::from_bytes([0xff; 16]);
        harness.driver.write_descriptor(index, nowhere);
    }
    assert_eq!(request.operation, Operation::Write { sector: 7 });
    assert_eq!(harness.answer(request, Status::Ok, 0), 1);
    assert_eq!(harness.status(), 0);
}

/// QEMU's qtest: header and data in one descriptor of 528 bytes, data and status in one of 513.
#[test]
fn header_and_data_or_data_and_status_share_a_descriptor() {
    let mem = guest_memory();
    let mut harness = Harness::new(&mem);
    mem.write_slice(&[header(request_type::OUT, 1).as_slice(), &[0x33; 512]].concat(), GuestAddress(DATA))
        .unwrap();
    harness.post(&[ChainBuffer::readable(DATA, 528), ChainBuffer::writable(STATUS, 1)]);
    let request = harness.parse().unwrap();
    assert_eq!(data_of(&mem, &request), [0x33; 512]);
    assert_eq!(harness.answer(request, Status::Ok, 0), 1);

    harness.driver.write_header(HEADER, request_type::IN, 1);
    harness.post(&[ChainBuffer::readable(HEADER, 16), ChainBuffer::writable(DATA + 0x1000, 513)]);
    let request = harness.parse().unwrap();
    request.data.copy_from(&mem, 0, &[0x44; 512]).unwrap();
    assert_eq!(harness.answer(request, Status::IoErr, 512), 513);
    assert_eq!(read(&mem, DATA + 0x1000, 514), [[0x44; 512].as_slice(), &[1, FILL]].concat());
}

/// Lays `stream` out from `address` on in pieces of the given lengths, with a gap of one byte
/// between them.
fn scatter(
    mem: &GuestMemoryMmap,
    mut address: u64,
    mut stream: &[u8],
    lens: &[usize],
    access: DeviceAccess,
) -> Vec<ChainBuffer> {
    let mut buffers = Vec::new();
    for len in lens.iter().copied().chain([stream.len()]) {
        let (piece, rest) = stream.split_at(len.min(stream.len()));
        mem.write_slice(piece, GuestAddress(address)).unwrap();
        let len = u32::try_from(piece.len()).unwrap();
        buffers.push(ChainBuffer { address: GuestAddress(address), len, access });
        address += u64::from(len) + 1;
        stream = rest;
    }
    buffers
}

/// The bytes of `buffers`, one after the other.
fn gather(mem: &GuestMemoryMmap, buffers: &[ChainBuffer]) -> Vec<u8> {
    buffers.iter().flat_map(|buffer| read(mem, buffer.address.0, buffer.len as usize)).collect()
}

fn split() -> impl Strategy<Value = Vec<usize>> {
    prop::collection::vec(prop_oneof![0..20_usize, 0..700_usize], 0..5)
}

proptest! {
    #[test]
    fn split_of_a_write_does_not_matter(
        sector: u64, data in prop::collection::vec(any::<u8>(), 0..2000),
        readable in split(), indirect: bool, status: bool,
    ) {
        let mem = guest_memory();
        let mut harness = Harness::new(&mem);
        let stream = [header(request_type::OUT, sector).as_slice(), &data].concat();
        let mut buffers = scatter(&mem, DATA, &stream, &readable, DeviceAccess::Reads);
        buffers.push(ChainBuffer::writable(STATUS, 1));
        let head = if indirect {
            harness.driver.write_indirect_chain(TABLE, &buffers)
        } else {
            harness.driver.write_chain(&buffers)
        };
        harness.driver.make_available(head);

        let request = harness.parse().unwrap();
        prop_assert_eq!(&request.operation, &Operation::Write { sector });
        prop_assert_eq!(request.data.len(), data.len() as u64);
        prop_assert_eq!(data_of(&mem, &request), data);
        let status = if status { Status::Ok } else { Status::IoErr };
        prop_assert_eq!(harness.answer(request, status, 0), 1);
        prop_assert_eq!(harness.status(), status as u8);
    }

    #[test]
    fn split_of_a_read_does_not_matter(
        sector: u64, data in prop::collection::vec(any::<u8>(), 0..2000),
        readable in split(), writable in split(), indirect: bool,
    ) {
        let mem = guest_memory();
        let mut harness = Harness::new(&mem);
        let mut buffers =
            scatter(&mem, HEADER, &header(request_type::IN, sector), &readable, DeviceAccess::Reads);
        let answer = vec![FILL; data.len() + 1];
        let writable = scatter(&mem, DATA, &answer, &writable, DeviceAccess::Writes);
        buffers.extend(&writable);
        let head = if indirect {
            harness.driver.write_indirect_chain(TABLE, &buffers)
        } else {
            harness.driver.write_chain(&buffers)
        };
        harness.driver.make_available(head);

        let request = harness.parse().unwrap();
        prop_assert_eq!(&request.operation, &Operation::Read { sector });
        request.data.copy_from(&mem, 0, &data).unwrap();
        let data_written = u32::try_from(data.len()).unwrap();
        prop_assert_eq!(harness.answer(request, Status::Ok, data_written), data_written + 1);
        prop_assert_eq!(gather(&mem, &writable), [data.as_slice(), &[0]].concat());
    }
}
