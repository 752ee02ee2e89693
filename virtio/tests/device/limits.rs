//! Which requests a device refuses, and how (virtio 1.2, 5.2.6.2; QEMU's vhost-user-blk qtest).

use stableblk_virtio::testing::{ChainBuffer, range};
use stableblk_virtio::{ConfigSpace, DiskLimits, Features, Range, RangeLimits, Status, request_type};
use vm_memory::{Bytes, GuestAddress};

use crate::harness::{DATA, Harness, guest_memory};

const CAPACITY: u64 = 1 << 17;

const LIMITS: DiskLimits = DiskLimits {
    capacity_sectors: CAPACITY,
    block_size: 512,
    read_only: false,
    discard: Some(RangeLimits { sectors_max: 0x8000, ranges_max: 1 }),
    write_zeroes: Some(RangeLimits { sectors_max: 0x4000, ranges_max: 1 }),
};

/// Checks a read and a write of `len` bytes from `sector` on.
#[track_caller]
fn assert_transfer(limits: &DiskLimits, sector: u64, len: u32, expected: Result<(), Status>) {
    for (request_type, buffer) in [
        (request_type::IN, ChainBuffer::writable(0, len)),
        (request_type::OUT, ChainBuffer::readable(0, len)),
    ] {
        let mem = guest_memory();
        let mut harness = Harness::new(&mem);
        harness.post_request(request_type, sector, &[buffer]);
        let request = harness.parse().unwrap();
        assert_eq!(request.check(limits), expected, "{:?}", request.operation);
        request.reply.abandon();
    }
}

/// Checks a request of `request_type` with these ranges of sector, number of sectors and flags.
#[track_caller]
fn assert_ranges(
    limits: &DiskLimits,
    request_type: u32,
    ranges: &[(u64, u32, u32)],
    expected: Result<(), Status>,
) {
    let mem = guest_memory();
    let mut harness = Harness::new(&mem);
    let payload: Vec<u8> = ranges.iter().flat_map(|(s, n, f)| range(*s, *n, *f)).collect();
    mem.write_slice(&payload, GuestAddress(DATA)).unwrap();
    let len = u32::try_from(payload.len()).unwrap();
    harness.post_request(request_type, 0, &[ChainBuffer::readable(DATA, len)]);
    let request = harness.parse().unwrap();
    assert_eq!(request.check(limits), expected, "{:?}", request.operation);
    request.reply.abandon();
}

const BOTH: [u32; 2] = [request_type::DISCARD, request_type::WRITE_ZEROES];

#[test]
fn transfers_end_at_the_capacity() {
    assert_transfer(&LIMITS, 0, 512, Ok(()));
    assert_transfer(&LIMITS, CAPACITY - 1, 512, Ok(()));
    assert_transfer(&LIMITS, CAPACITY - 1, 1024, Err(Status::IoErr));
    assert_transfer(&LIMITS, CAPACITY, 512, Err(Status::IoErr));
    assert_transfer(&LIMITS, CAPACITY + 1, 512, Err(Status::IoErr));
}

#[test]
fn sectors_do_not_overflow() {
    let huge = DiskLimits { capacity_sectors: u64::MAX, ..LIMITS };
    for sector in [u64::MAX, u64::MAX - 1, u64::MAX / 512 + 1, 1 << 63] {
        assert_transfer(&LIMITS, sector, 512, Err(Status::IoErr));
        assert_transfer(&huge, sector, 512, Err(Status::IoErr));
        assert_ranges(&LIMITS, request_type::DISCARD, &[(sector, 8, 0)], Err(Status::IoErr));
        assert_ranges(&huge, request_type::DISCARD, &[(sector, 8, 0)], Err(Status::IoErr));
    }
}

#[test]
fn transfers_are_whole_blocks() {
    for len in [1, 511, 513, 1023] {
        assert_transfer(&LIMITS, 0, len, Err(Status::IoErr));
    }
    let limits = DiskLimits { block_size: 4096, ..LIMITS };
    assert_transfer(&limits, 8, 4096, Ok(()));
    assert_transfer(&limits, 8, 512, Err(Status::IoErr));
    assert_transfer(&limits, 8, 4096 + 512, Err(Status::IoErr));
    assert_transfer(&limits, 1, 4096, Err(Status::IoErr));
}

/// As QEMU: nothing to do is done.
#[test]
fn transfers_of_no_bytes_are_valid_within_the_disk() {
    assert_transfer(&LIMITS, 5, 0, Ok(()));
    assert_transfer(&LIMITS, CAPACITY, 0, Ok(()));
    assert_transfer(&LIMITS, CAPACITY + 1, 0, Err(Status::IoErr));
    assert_ranges(&LIMITS, request_type::DISCARD, &[(5, 0, 0)], Ok(()));
}

#[test]
fn read_only_disk_is_not_changed() {
    let limits = DiskLimits { read_only: true, ..LIMITS };
    for (request_type, buffer, expected) in [
        (request_type::IN, ChainBuffer::writable(DATA, 512), Ok(())),
        (request_type::OUT, ChainBuffer::readable(DATA, 512), Err(Status::IoErr)),
        (request_type::FLUSH, ChainBuffer::readable(DATA, 0), Ok(())),
        (request_type::GET_ID, ChainBuffer::writable(DATA, 20), Ok(())),
    ] {
        let mem = guest_memory();
        let mut harness = Harness::new(&mem);
        harness.post_request(request_type, 0, &[buffer]);
        let request = harness.parse().unwrap();
        assert_eq!(request.check(&limits), expected, "{:?}", request.operation);
        request.reply.abandon();
    }
    for request_type in BOTH {
        assert_ranges(&limits, request_type, &[(0, 8, 0)], Err(Status::IoErr));
    }
}

#[test]
fn unknown_types_are_unsupported() {
    for request_type in [2, 3, 5, 9, 10, 14, 1 << 31] {
        let mem = guest_memory();
        let mut harness = Harness::new(&mem);
        harness.post_request(request_type, 0, &[]);
        let request = harness.parse().unwrap();
        assert_eq!(request.check(&LIMITS), Err(Status::Unsupp));
        request.reply.abandon();
    }
}

#[test]
fn ranges_within_the_limits_are_valid() {
    assert_ranges(&LIMITS, request_type::DISCARD, &[(8, 0x8000, 0)], Ok(()));
    assert_ranges(&LIMITS, request_type::WRITE_ZEROES, &[(8, 0x4000, 0)], Ok(()));
    assert_ranges(&LIMITS, request_type::WRITE_ZEROES, &[(8, 0x4000, Range::UNMAP)], Ok(()));
    assert_ranges(&LIMITS, request_type::WRITE_ZEROES, &[(CAPACITY - 1, 1, 0)], Ok(()));
}

#[test]
fn more_ranges_than_allowed_are_unsupported() {
    for request_type in BOTH {
        assert_ranges(&LIMITS, request_type, &[(0, 1, 0), (1, 1, 0)], Err(Status::Unsupp));
    }
    let limits = DiskLimits { discard: Some(RangeLimits { sectors_max: 1, ranges_max: 2 }), ..LIMITS };
    assert_ranges(&limits, request_type::DISCARD, &[(0, 1, 0), (1, 1, 0)], Ok(()));
    // every range counts, not the first alone
    assert_ranges(&limits, request_type::DISCARD, &[(0, 1, 0), (1, 2, 0)], Err(Status::IoErr));
    assert_ranges(&limits, request_type::DISCARD, &[(0, 1, 0), (1, 1, 1)], Err(Status::Unsupp));
}

#[test]
fn ranges_larger_than_allowed_fail() {
    assert_ranges(&LIMITS, request_type::DISCARD, &[(0, 0x8001, 0)], Err(Status::IoErr));
    assert_ranges(&LIMITS, request_type::WRITE_ZEROES, &[(0, 0x4001, 0)], Err(Status::IoErr));
    for request_type in BOTH {
        assert_ranges(&LIMITS, request_type, &[(0, u32::MAX, 0)], Err(Status::IoErr));
    }
}

#[test]
fn ranges_past_the_capacity_fail() {
    for request_type in BOTH {
        assert_ranges(&LIMITS, request_type, &[(CAPACITY + 1, 1, 0)], Err(Status::IoErr));
        assert_ranges(&LIMITS, request_type, &[(CAPACITY - 1, 2, 0)], Err(Status::IoErr));
    }
}

#[test]
fn ranges_are_whole_blocks() {
    let limits = DiskLimits { block_size: 4096, ..LIMITS };
    for request_type in BOTH {
        assert_ranges(&limits, request_type, &[(8, 8, 0)], Ok(()));
        assert_ranges(&limits, request_type, &[(1, 8, 0)], Err(Status::IoErr));
        assert_ranges(&limits, request_type, &[(8, 1, 0)], Err(Status::IoErr));
    }
}

/// Unknown flags are UNSUPP by the specification's word, whatever else is wrong.
#[test]
fn unknown_flags_are_unsupported() {
    for request_type in BOTH {
        for sector in [0, CAPACITY + 1] {
            assert_ranges(&LIMITS, request_type, &[(sector, 1, !Range::UNMAP)], Err(Status::Unsupp));
            assert_ranges(&LIMITS, request_type, &[(sector, 1, 2)], Err(Status::Unsupp));
        }
    }
    assert_ranges(&LIMITS, request_type::DISCARD, &[(0, 1, Range::UNMAP)], Err(Status::Unsupp));
}

#[test]
fn requests_that_are_not_offered_are_unsupported() {
    let limits = DiskLimits { discard: None, ..LIMITS };
    assert_ranges(&limits, request_type::DISCARD, &[(0, 1, 0)], Err(Status::Unsupp));
    assert_ranges(&limits, request_type::WRITE_ZEROES, &[(0, 1, 0)], Ok(()));
    let limits = DiskLimits { write_zeroes: None, ..LIMITS };
    assert_ranges(&limits, request_type::DISCARD, &[(0, 1, 0)], Ok(()));
    assert_ranges(&limits, request_type::WRITE_ZEROES, &[(0, 1, 0)], Err(Status::Unsupp));
}

#[test]
fn limits_are_those_in_configuration_space() {
    let config = ConfigSpace {
        capacity_sectors: CAPACITY,
        block_size: 512,
        max_discard_sectors: 0x8000,
        max_discard_seg: 1,
        max_write_zeroes_sectors: 0x4000,
        max_write_zeroes_seg: 1,
        ..ConfigSpace::default()
    };
    assert_eq!(DiskLimits::new(&config, Features::DISCARD | Features::WRITE_ZEROES), LIMITS);
    let read_only = DiskLimits { read_only: true, discard: None, write_zeroes: None, ..LIMITS };
    assert_eq!(DiskLimits::new(&config, Features::RO), read_only);
}
