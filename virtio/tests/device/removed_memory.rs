//! Memory that goes away while requests are in it: a typed error, and every chain still comes back.

use stableblk_virtio::testing::{ChainBuffer, Driver, Used};
use stableblk_virtio::{CopyError, MalformedReason, Request, RingArea, RingError, Status, request_type};
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

use crate::harness::{FILL, RING_SIZE};

const LEN: usize = 0x1_0000;
/// The region that is removed.
const REMOVED: GuestAddress = GuestAddress(1 << 32);
const DATA: u64 = REMOVED.0 + 0x1000;
const STATUS: u64 = REMOVED.0 + 0x2000;
const HEADER: u64 = 0x8000;

fn memory() -> GuestMemoryMmap {
    GuestMemoryMmap::from_ranges(&[(GuestAddress(0), LEN), (REMOVED, LEN)]).unwrap()
}

/// The same memory without its second region.
fn remove(mem: &GuestMemoryMmap) -> GuestMemoryMmap {
    mem.remove_region(REMOVED, LEN as u64).unwrap().0
}

#[test]
fn removed_data_and_status_of_a_request_in_flight_are_errors() {
    let mem = memory();
    let mut driver = Driver::new(&mem, 0, RING_SIZE);
    let mut ring = driver.device(true).unwrap();
    driver.write_header(HEADER, request_type::IN, 0);
    mem.write_obj(FILL, GuestAddress(STATUS)).unwrap();
    let head = driver.write_chain(&[
        ChainBuffer::readable(HEADER, 16),
        ChainBuffer::writable(0x9000, 512),
        ChainBuffer::writable(DATA, 512),
        ChainBuffer::writable(STATUS, 1),
    ]);
    driver.make_available(head);
    let request = Request::parse(&mem, ring.pop(&mem).unwrap().unwrap()).unwrap();

    let rest = remove(&mem);
    assert!(matches!(request.data.copy_from(&rest, 0, &[1; 1024]), Err(CopyError::NotInMemory(_))));
    assert!(matches!(request.data.copy_to(&rest, 0, &mut [0; 1024]), Err(CopyError::NotInMemory(_))));
    request.data.copy_to(&rest, 0, &mut [0; 512]).unwrap();
    assert!(request.data.slices(&rest, 0, 1024).unwrap().any(|slice| slice.is_err()));
    request.reply.complete(&mut ring, &rest, Status::IoErr, 0);
    ring.publish(&rest).unwrap();
    assert_eq!(driver.take_used(), Some(Used { head: 0, len: 0 }));
    assert_eq!(mem.read_obj::<u8>(GuestAddress(STATUS)).unwrap(), FILL);
}

#[test]
fn data_removed_between_pop_and_parse_is_an_error() {
    let mem = memory();
    let mut driver = Driver::new(&mem, 0, RING_SIZE);
    let mut ring = driver.device(true).unwrap();
    driver.write_header(HEADER, request_type::IN, 0);
    let head = driver.write_chain(&[
        ChainBuffer::readable(HEADER, 16),
        ChainBuffer::writable(DATA, 512),
        ChainBuffer::writable(HEADER + 16, 1),
    ]);
    driver.make_available(head);
    let rest = remove(&mem);
    let malformed = Request::parse(&rest, ring.pop(&mem).unwrap().unwrap()).unwrap_err();
    assert!(matches!(malformed.reason(), MalformedReason::OutsideMemory(s) if s.address.0 == DATA));
    malformed.complete(&mut ring, &rest);
    ring.publish(&rest).unwrap();
    assert_eq!(driver.take_used(), Some(Used { head: 0, len: 1 }));
}

#[test]
fn a_removed_ring_is_an_error() {
    let mem = memory();
    let mut driver = Driver::new(&mem, REMOVED.0, RING_SIZE);
    for event_idx in [false, true] {
        let mut ring = driver.device(event_idx).unwrap();
        driver.write_header(HEADER, request_type::FLUSH, 0);
        let head =
            driver.write_chain(&[ChainBuffer::readable(HEADER, 16), ChainBuffer::writable(HEADER + 16, 1)]);
        driver.make_available(head);
        let request = Request::parse(&mem, ring.pop(&mem).unwrap().unwrap()).unwrap();

        let rest = remove(&mem);
        ring.disable_notifications(&rest);
        let is_outside = |error| matches!(error, RingError::OutsideMemory { area: RingArea::UsedRing, .. });
        assert!(is_outside(ring.enable_notifications(&rest).unwrap_err()));
        assert!(ring.pop(&rest).is_err());
        assert!(ring.resume(&rest, 5).is_err());
        request.reply.complete(&mut ring, &rest, Status::Ok, 0);
        assert!(is_outside(ring.publish(&rest).unwrap_err()));
        assert_eq!(ring.outstanding(), 0);
        // nothing is lost if the memory comes back
        ring.publish(&mem).unwrap();
        assert_eq!(driver.take_used(), Some(Used { head: u32::from(head), len: 1 }));
    }
}
