//! A migration's log of what is written to guest memory, compared with the memory itself.

use std::collections::BTreeSet;

use vhost::vhost_user::VhostUserFrontend;
use vhost::{VhostBackend, VhostUserDirtyLogRegion};
use virtio::{RingAddresses, request_type};

use crate::harness::{
    Backend, DirtyLog, GuestMemory, IOERR, Image, NOT_WRITTEN, OK, Queue, Request, Setup, pattern,
};

const PAGE_SIZE: u64 = 4096;
const MIB: u64 = 1 << 20;

/// The pages of `len` bytes from `start`.
fn pages(start: u64, len: u64) -> impl Iterator<Item = u64> {
    (start / PAGE_SIZE..=(start + len - 1) / PAGE_SIZE).map(|page| page * PAGE_SIZE)
}

/// Pages that the device may write, besides the data: all of the used ring, and where the status
/// bytes are.
fn pages_of(queue: &Queue) -> BTreeSet<u64> {
    let RingAddresses { used_ring, .. } = queue.addresses();
    let (slots, len) = queue.slots();
    pages(used_ring.0, 6 + 8 * u64::from(queue.size())).chain(pages(slots, len)).collect()
}

/// One request of each kind, into buffers of all shapes. Returns the pages that they have the
/// device write.
fn submit_all_kinds(queue: &mut Queue, memory: &GuestMemory) -> BTreeSet<u64> {
    let buffer = |len: u64| {
        let start = memory.allocate(usize::try_from(len).unwrap());
        memory.write(start, &vec![NOT_WRITTEN; usize::try_from(len).unwrap()]);
        (start, u32::try_from(len).unwrap())
    };
    let (page, pieces, large) = (buffer(PAGE_SIZE), buffer(3 * PAGE_SIZE), buffer(3 * MIB));
    let (id, failing, written) = (buffer(PAGE_SIZE), buffer(PAGE_SIZE), buffer(PAGE_SIZE));
    queue.submit(&Request::read(8, &[page]));
    queue.submit_indirect(&Request::read(16, &[(pieces.0 + 100, 3952), (pieces.0 + 8000, 2704)]));
    queue.submit(&Request::read(64, &[large]));
    queue.submit(&Request::answered(request_type::GET_ID, id.0 + 17, 20));
    queue.submit(&Request::read(1 << 40, &[failing]));
    queue.submit(&Request::write(20000, &[written]));
    queue.submit(&Request::flush());
    let pieces = pages(pieces.0 + 100, 3952).chain(pages(pieces.0 + 8000, 2704));
    pages(page.0, PAGE_SIZE).chain(pieces).chain(pages(large.0, 3 * MIB)).chain([id.0]).collect()
}

/// Waits for those requests. Only the device writes meanwhile.
fn wait(queue: &mut Queue) {
    let mut statuses: Vec<_> = (0..7).map(|_| queue.poll().status).collect();
    statuses.sort_unstable();
    assert_eq!(statuses, [OK, OK, OK, OK, OK, OK, IOERR]);
}

fn image(args: &[&str]) -> (Image, Backend) {
    let plain = args.contains(&"none");
    let image = if plain { Image::without_sidecar(16 * MIB) } else { Image::create(16 * MIB) };
    let mut vm = Setup::of(image).options(args).start();
    for at in 0..4 {
        vm.queue.write(at * 2048, &pattern(at, usize::try_from(MIB).unwrap()));
    }
    (vm.image, vm.backend)
}

fn every_write_is_marked(args: &[&str]) {
    let (image, backend) = image(args);
    let mut frontend = backend.connect();
    let (mut queue, log) = (frontend.new_queue(3), DirtyLog::new());
    frontend.log_to(&log);
    frontend.log_writes(true);
    let data = submit_all_kinds(&mut queue, &frontend.memory);
    let before = frontend.memory.snapshot();
    // only now: a worker that comes late finds what is available without a kick
    frontend.start(&queue, 0);
    wait(&mut queue);
    // a page is marked after it is written: what was served may be seen before the log has it
    frontend.stop(&queue);
    let changed = before.changed_pages(&frontend.memory);
    let marked = log.pages();
    let missing: Vec<_> = changed.difference(&marked).collect();
    assert!(missing.is_empty(), "changed and not marked: {missing:x?}");
    // every page of the data has changed
    assert!(data.is_subset(&changed));
    let allowed: BTreeSet<_> = data.into_iter().chain(pages_of(&queue)).collect();
    let needless: Vec<_> = marked.difference(&allowed).collect();
    assert!(needless.is_empty(), "marked, and nothing to write there: {needless:x?}");
    drop(frontend);
    backend.stop();
    if args.is_empty() {
        image.assert_clean();
    }
}

#[test]
fn every_write_is_marked_when_bouncing() {
    every_write_is_marked(&[]);
}

#[test]
fn every_write_is_marked_without_a_copy() {
    every_write_is_marked(&["--integrity", "none", "--bounce", "never"]);
}

#[test]
fn nothing_is_marked_while_the_log_is_off() {
    let (_image, backend) = image(&[]);
    let mut frontend = backend.connect();
    let (mut queue, log) = (frontend.queue(0), DirtyLog::new());
    let mut base = frontend.stop(&queue);
    frontend.log_to(&log);
    for on in [false, true, false, true] {
        frontend.log_writes(on);
        frontend.start(&queue, base);
        queue.read(0, 4096);
        base = frontend.stop(&queue);
        assert_eq!(log.pages().is_empty(), !on);
        log.clear();
    }
}

#[test]
fn memory_that_is_added_later_is_logged() {
    let (_image, backend) = image(&[]);
    let mut frontend = backend.connect();
    let regions = frontend.memory.regions();
    let (mut queue, log) = (frontend.queue(0), DirtyLog::new());
    let buffer = frontend.memory.allocate(4096);
    let read = Request::read(0, &[(buffer, 4096)]);
    frontend.protocol.set_mem_table(&regions[..1]).unwrap();
    frontend.log_to(&log);
    frontend.log_writes(true);
    frontend.protocol.add_mem_region(&regions[1]).unwrap();
    assert_eq!(queue.execute(&read).status, OK);
    let base = frontend.stop(&queue);
    assert!(log.pages().contains(&buffer));
    frontend.protocol.set_mem_table(&regions).unwrap();
    // and a log in the place of the other
    let next = DirtyLog::new();
    frontend.log_to(&next);
    log.clear();
    frontend.start(&queue, base);
    assert_eq!(queue.execute(&read).status, OK);
    frontend.stop(&queue);
    assert!(next.pages().contains(&buffer));
    assert_eq!(log.pages(), BTreeSet::new());
}

#[test]
fn a_used_ring_is_logged_where_the_front_end_says() {
    let (_image, backend) = image(&[]);
    let mut frontend = backend.connect();
    let (mut queue, log) = (frontend.queue(0), DirtyLog::new());
    let used_ring = queue.addresses().used_ring.0;
    let mut base = frontend.stop(&queue);
    frontend.log_to(&log);
    frontend.log_writes(true);
    for (at, marked) in [(Some(GuestMemory::HOLE), true), (Some(used_ring), false), (None, false)] {
        frontend.start(&queue, base);
        frontend.log_used_ring(&queue, at);
        log.clear();
        queue.flush();
        base = frontend.stop(&queue);
        assert_eq!(log.pages().contains(&GuestMemory::HOLE), marked, "{at:?}");
        assert!(pages(used_ring, 6).all(|page| log.pages().contains(&page)));
    }
}

/// A migration begins and ends under load: all the guest notices is nothing.
#[test]
fn no_queue_stops_for_the_log() {
    let (_image, backend) = image(&["--log", "debug"]);
    let mut frontend = backend.connect();
    let (mut queue, log) = (frontend.queue(0), DirtyLog::new());
    let buffer = frontend.memory.allocate(4096);
    let mut in_flight = 0;
    for round in 0..50 {
        while queue.free_descriptors() >= 3 {
            queue.submit(&Request::read(8, &[(buffer, 4096)]));
            in_flight += 1;
        }
        queue.kick();
        if round % 2 == 0 {
            frontend.log_to(&log);
        }
        frontend.log_writes(round % 2 == 0);
        frontend.log_used_ring(&queue, (round % 2 == 0).then_some(queue.addresses().used_ring.0));
        for _ in 0..in_flight / 2 {
            assert_eq!(queue.wait().status, OK);
        }
        in_flight -= in_flight / 2;
    }
    queue.wait_all();
    drop(frontend);
    // at the end of this session, and of the one that filled the image
    assert_eq!(backend.stop().matches("queue stopped").count(), 2);
}

#[test]
fn a_log_that_does_not_fit_ends_the_session() {
    let (_image, backend) = image(&[]);
    let sizes = [1, GuestMemory::END / PAGE_SIZE / 8 - 1, u64::MAX, 1 << 62];
    for size in sizes {
        let frontend = backend.connect();
        let log = DirtyLog::new();
        let region = VhostUserDirtyLogRegion { mmap_size: size, ..log.region() };
        frontend.protocol.set_log_base(0, Some(region)).unwrap_err();
        drop(frontend);
    }
    let mut frontend = backend.connect();
    frontend.log_to(&DirtyLog::new());
    frontend.log_writes(true);
    // guest memory that the log would have no bits for
    let small = DirtyLog::of_size(1 << 30 >> 15);
    frontend.protocol.set_mem_table(&frontend.memory.regions()[..1]).unwrap();
    frontend.log_to(&small);
    frontend.protocol.add_mem_region(&frontend.memory.regions()[1]).unwrap_err();
    drop(frontend);
    let said = backend.stop();
    assert_eq!(said.matches("SET_LOG_BASE refused: a dirty log").count(), sizes.len(), "{said}");
    assert_eq!(said.matches("ADD_MEM_REG refused: a dirty log of").count(), 1, "{said}");
}
