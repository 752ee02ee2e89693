//! The requests in flight of a queue whose back-end died are done again, once and in order; other
//! contents of a region do no harm.

use std::os::fd::AsRawFd;

use fastrand::Rng;
use vhost::VhostBackend;
use vhost::vhost_user::VhostUserFrontend;
use vhost::vhost_user::message::VhostUserInflight;

use crate::harness::inflight::{
    COUNTER, DESC_NUM, INFLIGHT, InflightRegion, LAST_BATCH_HEAD, NEXT, USED_IDX, VERSION, descriptor,
};
use crate::harness::{Backend, Frontend, GuestMemory, Image, OK, Queue, Request, Setup, pattern};

const RING_SIZE: u16 = 64;

/// Notes `heads` as a back-end does that popped them in this order and was killed; `used_idx` is
/// the ring's.
fn note(region: &InflightRegion, heads: &[u16], used_idx: u16) {
    region.write(0, VERSION, &1u16.to_ne_bytes());
    region.write(0, DESC_NUM, &RING_SIZE.to_ne_bytes());
    region.write(0, USED_IDX, &used_idx.to_ne_bytes());
    for (counter, head) in (7u64..).zip(heads) {
        region.write(0, descriptor(*head) + COUNTER, &counter.to_ne_bytes());
        region.write(0, descriptor(*head) + INFLIGHT, &[1]);
    }
}

fn write_request(memory: &GuestMemory, sector: u64, data: &[u8]) -> Request {
    let buffer = memory.allocate(data.len());
    memory.write(buffer, data);
    Request::write(sector, &[(buffer, data.len().try_into().unwrap())])
}

#[test]
fn a_region_is_as_large_as_asked_and_keeps_its_size() {
    let mut vm = Setup::disk(1 << 20).options(&["--num-queues", "4"]).connect();
    let region = InflightRegion::ask(&mut vm.frontend, 4, RING_SIZE);
    assert_eq!((region.message.mmap_offset, region.message.mmap_size), (0, 4 * 1088));
    assert_eq!(region.file.metadata().unwrap().len(), 4 * 1088);
    assert!(region.file.set_len(0).is_err(), "who can shrink it can kill us");
    assert_eq!(region.part(3), vec![0; 1088], "never used");
    region.give_to(&mut vm.frontend);
    vm.frontend.queue_of_size(0, RING_SIZE).write(0, &pattern(1, 4096));
    assert_eq!(region.part(0)[VERSION], 1);
    assert_eq!(region.part(3), vec![0; 1088], "a queue that was not started");
}

#[test]
fn a_region_for_more_than_is_served_is_refused() {
    let image = Image::create(1 << 20);
    let backend = Backend::serve(&image, &["--num-queues", "2", "--queue-size", "128"]);
    for (queues, size, cure) in [(3, 64, "--num-queues"), (2, 256, "--queue-size")] {
        let mut frontend = backend.connect();
        assert!(frontend.protocol.get_inflight_fd(&VhostUserInflight::new(0, 0, queues, size)).is_err());
        backend.log().wait_for(cure);
        let region = InflightRegion::make(queues, size);
        let mut frontend = backend.connect();
        let given = frontend.protocol.set_inflight_fd(&region.message, region.file.as_raw_fd());
        assert!(given.is_err() || frontend.protocol.get_features().is_err(), "{queues} queues of {size}");
    }
}

#[test]
fn a_region_that_is_not_in_its_file_is_refused() {
    let image = Image::create(1 << 20);
    let backend = Backend::serve(&image, &["--num-queues", "2"]);
    let region = InflightRegion::make(2, 64);
    let whole = region.message.mmap_size;
    for (size, offset) in [(whole - 1, 0), (whole + 1, 0), (whole, 64), (whole, u64::MAX), (u64::MAX, 0)] {
        let mut frontend = backend.connect();
        let message = VhostUserInflight::new(size, offset, 2, 64);
        let given = frontend.protocol.set_inflight_fd(&message, region.file.as_raw_fd());
        assert!(given.is_err() || frontend.protocol.get_features().is_err(), "{size} bytes at {offset}");
    }
    let mut frontend = backend.connect();
    region.give_to(&mut frontend);
    frontend.queue_of_size(0, 64).write(0, &pattern(1, 4096));
}

/// The heads descend, so that neither their order nor that of the ring is right by chance; the last
/// write must win.
#[test]
fn requests_in_flight_are_done_again_in_the_order_of_their_counters() {
    let mut vm = Setup::disk(1 << 20).connect();
    let region = InflightRegion::make(1, RING_SIZE);
    let mut queue = vm.frontend.queue_of_size(0, RING_SIZE);
    vm.frontend.stop(&queue);
    queue.restart_at(u16::MAX - 2);
    let heads: Vec<u16> =
        (0..8).map(|seed| queue.submit(&write_request(&vm.memory, 8, &pattern(seed, 4096)))).collect();
    // one more, which was not popped
    queue.submit(&write_request(&vm.memory, 16, &pattern(9, 4096)));
    let order: Vec<u16> = heads.iter().rev().copied().collect();
    note(&region, &order, u16::MAX - 2);
    region.give_to(&mut vm.frontend);
    vm.frontend.start(&queue, u16::MAX - 2);
    let completions = queue.wait_all();
    assert!(completions.iter().all(|completion| completion.status == OK), "{completions:?}");
    assert_eq!(completions.len(), 9);
    assert!(queue.read(8, 4096) == pattern(0, 4096), "another write than the last is there");
    assert!(queue.read(16, 4096) == pattern(9, 4096));
    assert_eq!(vm.frontend.stop(&queue), queue.driver().used_index());
    // only now: a mark is taken away behind the completion that was seen
    assert_eq!(region.in_flight(0), [0u16; 0]);
}

/// The driver has seen these already: they must not come back again.
#[test]
fn a_published_batch_is_not_done_again() {
    let mut vm = Setup::disk(1 << 20).ring_size(RING_SIZE).start();
    let shown: Vec<u16> =
        (0..3).map(|seed| vm.queue.submit(&write_request(&vm.memory, 8, &pattern(seed, 4096)))).collect();
    vm.queue.kick();
    assert_eq!(vm.queue.wait_all().len(), 3);
    vm.frontend.stop(&vm.queue);
    let region = InflightRegion::make(1, RING_SIZE);
    note(&region, &shown, 0);
    // killed after it had cleared the first of the batch
    region.write(0, descriptor(shown[0]) + INFLIGHT, &[0]);
    region.write(0, LAST_BATCH_HEAD, &shown[2].to_ne_bytes());
    region.write(0, descriptor(shown[2]) + NEXT, &shown[1].to_ne_bytes());
    region.write(0, descriptor(shown[1]) + NEXT, &shown[0].to_ne_bytes());
    region.give_to(&mut vm.frontend);
    // as a front-end gives it that knows only the rings
    vm.frontend.start(&vm.queue, 0);
    assert!(vm.queue.read(8, 4096) == pattern(2, 4096));
    assert_eq!(vm.queue.driver().used_index(), 4);
    // the region records a completion after it is published
    vm.frontend.stop(&vm.queue);
    assert_eq!(region.in_flight(0), [0u16; 0]);
    assert_eq!(region.part(0)[USED_IDX..][..2], 4u16.to_ne_bytes());
}

/// SPDK issue 3766: a ring that was in use before it had a region.
#[test]
fn a_new_region_begins_where_the_ring_stands() {
    let mut vm = Setup::disk(1 << 20).ring_size(RING_SIZE).start();
    (0..5).for_each(|seed| vm.queue.write(8, &pattern(seed, 4096)));
    let base = vm.frontend.stop(&vm.queue);
    let region = InflightRegion::ask(&mut vm.frontend, 1, RING_SIZE);
    region.give_to(&mut vm.frontend);
    vm.frontend.start(&vm.queue, base);
    assert_eq!(region.part(0)[USED_IDX..][..2], 5u16.to_ne_bytes());
    vm.backend.kill();
    let backend = Backend::serve(&vm.image, &[]);
    let mut frontend = Frontend::connect(&backend, &vm.memory);
    region.give_to(&mut frontend);
    frontend.start(&vm.queue, base);
    assert!(vm.queue.read(8, 4096) == pattern(4, 4096));
    assert_eq!(vm.queue.driver().used_index(), 6);
}

/// No content of a region causes a panic or a hang, and the next front-end is served.
#[test]
fn a_region_of_random_bytes_does_no_harm() {
    let image = Image::create(1 << 20);
    let backend = Backend::serve(&image, &[]);
    let seed = fastrand::u64(..);
    println!("seed {seed}");
    let mut rng = Rng::with_seed(seed);
    for _ in 0..100 {
        let mut frontend = backend.connect();
        let region = InflightRegion::make(1, RING_SIZE);
        let bytes: Vec<u8> = (0..region.part(0).len()).map(|_| rng.u8(..)).collect();
        region.write(0, 0, &bytes);
        // mostly those that are not refused for their first words
        if rng.u8(..8) > 0 {
            region.write(0, VERSION, &1u16.to_ne_bytes());
            region.write(0, DESC_NUM, &RING_SIZE.to_ne_bytes());
        }
        if rng.bool() {
            region.write(0, USED_IDX, &rng.u16(..64).wrapping_neg().to_ne_bytes());
            for head in 0..RING_SIZE {
                region.write(0, descriptor(head) + NEXT, &rng.u16(..RING_SIZE).to_ne_bytes());
                region.write(0, descriptor(head) + INFLIGHT, &[rng.u8(..2)]);
            }
        }
        region.give_to(&mut frontend);
        let queue = Queue::new(0, RING_SIZE, &frontend.memory, backend.log().clone());
        let _ = frontend.try_start(&queue, 0);
        // not a hang: it still answers, or has ended the session
        let _ = frontend.protocol.get_features();
        if rng.bool() {
            let _ = region.file.set_len(0);
            queue.kick();
        }
    }
    let mut frontend = backend.connect();
    frontend.queue(0).write(0, &pattern(1, 4096));
    drop(frontend);
    backend.stop();
    image.assert_clean();
}
