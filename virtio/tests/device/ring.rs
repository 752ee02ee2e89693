//! The ring: what it refuses, what it counts, what it publishes and when.

use std::ops::Deref;

use stableblk_virtio::testing::{ChainBuffer, Driver, Used};
use stableblk_virtio::{
    Features, Request, RingAddresses, RingArea, RingError, SplitRing, Status, request_type,
};
use vm_memory::bitmap::{AtomicBitmap, Bitmap};
use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend, GuestMemoryMmap};

use crate::harness::{DATA, HEADER, Harness, MEMORY_END, MEMORY_LEN, RING_SIZE, STATUS, guest_memory};

fn addresses(descriptor_table: u64, available_ring: u64, used_ring: u64) -> RingAddresses {
    RingAddresses {
        descriptor_table: GuestAddress(descriptor_table),
        available_ring: GuestAddress(available_ring),
        used_ring: GuestAddress(used_ring),
    }
}

fn new_ring(mem: &GuestMemoryMmap, size: u16, addresses: RingAddresses) -> Result<SplitRing, RingError> {
    SplitRing::new(mem, size, addresses, Features::EVENT_IDX, 0)
}

#[test]
fn only_powers_of_two_are_sizes() {
    let mem = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 0x20_0000)]).unwrap();
    let addresses = addresses(0, 0x10_0000, 0x18_0000);
    for size in [1, 2, 16, 256, 1024, 32768] {
        assert_eq!(new_ring(&mem, size, addresses).unwrap().size(), size);
    }
    for size in [0, 3, 100, 32767, 32769, u16::MAX] {
        assert!(matches!(new_ring(&mem, size, addresses), Err(RingError::Size { size: s }) if s == size));
    }
}

#[test]
fn areas_are_aligned() {
    let mem = guest_memory();
    for (addresses, expected) in [
        (addresses(8, 0x1000, 0x2000), RingArea::DescriptorTable),
        (addresses(0, 0x1001, 0x2000), RingArea::AvailableRing),
        (addresses(0, 0x1000, 0x2002), RingArea::UsedRing),
    ] {
        let error = new_ring(&mem, RING_SIZE, addresses).unwrap_err();
        assert!(matches!(error, RingError::Misaligned { area, .. } if area == expected), "{error}");
    }
    new_ring(&mem, RING_SIZE, addresses(16, 0x1002, 0x2004)).unwrap();
}

#[test]
fn areas_lie_wholly_in_memory() {
    let mem = guest_memory();
    let end = MEMORY_END;
    let (table_len, available_len, used_len) = (16 * 16, 4 + 2 * 16 + 2, 4 + 8 * 16 + 2);
    for (addresses, expected) in [
        (addresses(end - table_len + 16, 0x1000, 0x2000), RingArea::DescriptorTable),
        (addresses(0, end - available_len + 2, 0x2000), RingArea::AvailableRing),
        (addresses(0, 0x1000, end - used_len + 2), RingArea::UsedRing),
        (addresses(0, 0x1000, u64::MAX - 3), RingArea::UsedRing),
    ] {
        let error = new_ring(&mem, RING_SIZE, addresses).unwrap_err();
        assert!(matches!(error, RingError::OutsideMemory { area, .. } if area == expected), "{error}");
    }
    new_ring(&mem, RING_SIZE, addresses(end - table_len, 0x1000, 0x2000)).unwrap();
    new_ring(&mem, RING_SIZE, addresses(0, end - available_len, 0x2000)).unwrap();
}

/// Without `EVENT_IDX` there is no event index behind the entries.
#[test]
fn event_index_takes_room_only_where_negotiated() {
    let mem = guest_memory();
    let addresses = addresses(0, 0x1000, MEMORY_END - (4 + 8 * 16));
    SplitRing::new(&mem, RING_SIZE, addresses, Features::empty(), 0).unwrap();
    assert!(SplitRing::new(&mem, RING_SIZE, addresses, Features::EVENT_IDX, 0).is_err());
}

#[test]
fn empty_ring_pops_nothing() {
    let mem = guest_memory();
    let mut harness = Harness::new(&mem);
    assert!(harness.ring.pop(&mem).unwrap().is_none());
    assert!(!harness.ring.publish(&mem).unwrap());
}

#[test]
fn available_index_beyond_the_size_is_refused() {
    let mem = guest_memory();
    let mut harness = Harness::new(&mem);
    for available in [RING_SIZE + 1, 0x8000, u16::MAX] {
        harness.driver.set_available_index(available);
        let error = harness.ring.pop(&mem).unwrap_err();
        assert!(matches!(error, RingError::AvailableIndex { available: a, next: 0, .. } if a == available));
        assert!(harness.ring.enable_notifications(&mem).is_err());
    }
    assert_eq!(harness.ring.outstanding(), 0);
}

/// The driver's index is in a cache line that the driver writes: it is read once for all chains it
/// covers.
#[test]
fn available_index_is_read_again_only_when_all_chains_were_popped() {
    let mem = guest_memory();
    let mut harness = Harness::new(&mem);
    harness.post_request(request_type::FLUSH, 0, &[]);
    harness.post_request(request_type::FLUSH, 0, &[]);
    let first = harness.parse().unwrap();
    harness.driver.set_available_index(RING_SIZE + 3);
    let second = harness.parse().unwrap();
    assert!(matches!(harness.ring.pop(&mem), Err(RingError::AvailableIndex { next: 2, .. })));
    first.reply.abandon();
    second.reply.abandon();
}

#[test]
fn head_outside_the_table_is_refused() {
    let mem = guest_memory();
    let mut harness = Harness::new(&mem);
    harness.driver.make_available(RING_SIZE);
    for _ in 0..2 {
        let error = harness.ring.pop(&mem).unwrap_err();
        assert!(matches!(error, RingError::HeadOutOfRange { head: RING_SIZE, .. }));
    }
    assert_eq!((harness.ring.outstanding(), harness.ring.next_avail()), (0, 0));
}

/// Not even a completed head may be used again before the driver can know that it is completed.
#[test]
fn head_in_use_is_refused_until_published() {
    let mem = guest_memory();
    let mut harness = Harness::new(&mem);
    harness.post_request(request_type::FLUSH, 0, &[]);
    harness.driver.make_available(0);

    let request = harness.parse().unwrap();
    assert!(matches!(harness.ring.pop(&mem), Err(RingError::HeadInUse { head: 0 })));
    request.reply.complete(&mut harness.ring, &mem, Status::Ok, 0);
    assert!(matches!(harness.ring.pop(&mem), Err(RingError::HeadInUse { head: 0 })));
    harness.publish();
    harness.parse().unwrap().reply.abandon();
}

#[test]
fn outstanding_counts_what_was_popped_and_not_completed() {
    let mem = guest_memory();
    let mut harness = Harness::new(&mem);
    for _ in 0..3 {
        harness.post_request(request_type::FLUSH, 0, &[]);
    }
    let requests = [0; 3].map(|_| harness.parse().unwrap());
    assert_eq!(harness.ring.outstanding(), 3);
    assert_eq!(harness.ring.next_avail(), 3);
    for (left, request) in [2, 1, 0].into_iter().zip(requests) {
        request.reply.complete(&mut harness.ring, &mem, Status::Ok, 0);
        assert_eq!(harness.ring.outstanding(), left);
    }
}

#[test]
fn completions_appear_at_publish_in_completion_order() {
    let mem = guest_memory();
    let mut harness = Harness::new(&mem);
    for _ in 0..3 {
        harness.post_request(request_type::FLUSH, 0, &[]);
    }
    let [first, second, third] = [0; 3].map(|_| harness.parse().unwrap());
    let heads = [&third, &first, &second].map(|request| u32::from(request.reply.head()));
    third.reply.complete(&mut harness.ring, &mem, Status::Ok, 7);
    first.reply.complete(&mut harness.ring, &mem, Status::Ok, 0);
    second.reply.complete(&mut harness.ring, &mem, Status::Ok, u32::MAX);
    assert_eq!(harness.driver.take_used(), None);

    harness.ring.publish(&mem).unwrap();
    assert_eq!(harness.driver.used_index(), 3);
    let lens = [8, 1, u32::MAX];
    for (head, len) in heads.into_iter().zip(lens) {
        assert_eq!(harness.driver.take_used(), Some(Used { head, len }));
    }
}

/// Both indexes count modulo 2^16, entries modulo the size.
#[test]
fn indexes_wrap() {
    let mem = guest_memory();
    let mut harness = Harness::new(&mem);
    harness.driver.start_at(u16::MAX - 20);
    harness.ring = harness.driver.device(true).unwrap();
    harness.driver.write_header(HEADER, request_type::FLUSH, 0);
    let head =
        harness.driver.write_chain(&[ChainBuffer::readable(HEADER, 16), ChainBuffer::writable(STATUS, 1)]);
    for round in 0..50_u16 {
        harness.driver.make_available(head);
        let request = harness.parse().unwrap();
        request.reply.complete(&mut harness.ring, &mem, Status::Ok, u32::from(round));
        assert_eq!(harness.publish(), Used { head: u32::from(head), len: u32::from(round) + 1 });
    }
    assert_eq!(harness.ring.next_avail(), 29);
    assert_eq!(harness.ring.next_used(), 29);
    assert_eq!(harness.driver.used_index(), 29);
}

#[test]
fn full_ring_is_served() {
    let mem = guest_memory();
    let mut driver = Driver::new(&mem, 0, RING_SIZE);
    let mut ring = driver.device(false).unwrap();
    // one descriptor a chain, which serves as header and status by being malformed
    for _ in 0..RING_SIZE {
        let head = driver.write_chain(&[ChainBuffer::writable(STATUS, 1)]);
        driver.make_available(head);
    }
    while let Some(chain) = ring.pop(&mem).unwrap() {
        Request::parse(&mem, chain).unwrap_err().complete(&mut ring, &mem);
    }
    assert!(ring.publish(&mem).unwrap());
    let heads: Vec<_> = std::iter::from_fn(|| driver.take_used()).map(|used| used.head).collect();
    assert_eq!(heads, (0..u32::from(RING_SIZE)).collect::<Vec<_>>());
}

#[test]
fn resumed_chain_is_served_like_a_popped_one() {
    let mem = guest_memory();
    let mut harness = Harness::new(&mem);
    harness.post_request(request_type::OUT, 5, &[ChainBuffer::readable(DATA, 512)]);
    harness.parse().unwrap().reply.abandon();

    // the successor starts behind the chain that was popped
    let mut ring =
        SplitRing::new(&mem, RING_SIZE, harness.driver.addresses(), Features::EVENT_IDX, 0).unwrap();
    ring.start_behind(1);
    assert_eq!(ring.next_avail(), 1);
    assert!(ring.pop(&mem).unwrap().is_none());
    let request = Request::parse(&mem, ring.resume(&mem, 0).unwrap()).unwrap();
    assert_eq!(ring.outstanding(), 1);
    assert!(matches!(ring.resume(&mem, 0), Err(RingError::HeadInUse { head: 0 })));
    assert!(matches!(ring.resume(&mem, RING_SIZE), Err(RingError::HeadOutOfRange { .. })));
    request.reply.complete(&mut ring, &mem, Status::Ok, 0);
    assert!(ring.completed_heads().eq([0]));
    assert!(ring.publish(&mem).unwrap());
    assert_eq!(ring.completed_heads().count(), 0);
    assert_eq!(harness.driver.take_used(), Some(Used { head: 0, len: 1 }));
}

#[test]
#[cfg(debug_assertions)]
#[should_panic(expected = "dropped without being completed")]
fn forgotten_chain_is_a_bug() {
    let mem = guest_memory();
    let mut harness = Harness::new(&mem);
    harness.post_request(request_type::FLUSH, 0, &[]);
    drop(harness.parse());
}

/// Migration depends on it: every page the device writes is dirty, and no other.
#[test]
fn writes_mark_their_pages_dirty() {
    let mem = GuestMemoryMmap::<AtomicBitmap>::from_ranges(&[(GuestAddress(0), MEMORY_LEN)]).unwrap();
    let mut driver = Driver::new(&mem, 0, RING_SIZE);
    let mut ring = driver.device(true).unwrap();
    driver.write_header(HEADER, request_type::IN, 0);
    let head = driver.write_chain(&[
        ChainBuffer::readable(HEADER, 16),
        ChainBuffer::writable(DATA, 512),
        ChainBuffer::writable(STATUS, 1),
    ]);
    driver.make_available(head);

    let region = mem.find_region(GuestAddress(0)).unwrap();
    let bitmap = region.deref().bitmap();
    bitmap.reset();
    let request = Request::parse(&mem, ring.pop(&mem).unwrap().unwrap()).unwrap();
    request.data.copy_from(&mem, 0, &[1; 512]).unwrap();
    request.reply.complete(&mut ring, &mem, Status::Ok, 512);
    ring.publish(&mem).unwrap();

    let used_ring = driver.addresses().used_ring.0;
    let dirty: Vec<_> = (0..MEMORY_LEN).step_by(4096).filter(|page| bitmap.dirty_at(*page)).collect();
    let written = [used_ring, STATUS & !0xfff, DATA].map(|page| usize::try_from(page).unwrap());
    assert_eq!(dirty, written);
    assert_eq!(mem.read_obj::<u8>(GuestAddress(DATA + 511)).unwrap(), 1);
}
