//! Front-ends come, go, break the rules and are killed; the disk is served on.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::thread;

use vhost::vhost_user::VhostUserFrontend;
use vhost::vhost_user::message::VhostUserConfigFlags;
use vhost::{VhostBackend, VringConfigData};
use virtio::Features;

use crate::harness::{Backend, Frontend, GuestMemory, IOERR, Image, OK, Queue, Request, Setup, pattern};

/// Fills the ring with writes of `len` bytes, one after the other on the disk.
fn submit_writes(queue: &mut Queue, memory: &GuestMemory, len: u32) -> usize {
    let buffer = memory.allocate(len as usize);
    memory.write(buffer, &pattern(1, len as usize));
    let count = queue.free_descriptors() / 3;
    for request in 0..count as u64 {
        queue.submit(&Request::write(request * u64::from(len / 512), &[(buffer, len)]));
    }
    queue.kick();
    count
}

#[test]
fn a_front_end_may_leave_with_requests_in_flight() {
    let image = Image::create(64 << 20);
    let backend = Backend::serve(&image, &[]);
    for _ in 0..5 {
        let mut frontend = backend.connect();
        let (mut first, mut second) = (frontend.queue(0), frontend.queue(1));
        submit_writes(&mut first, &frontend.memory, 256 << 10);
        submit_writes(&mut second, &frontend.memory, 64 << 10);
        drop(frontend);
    }
    let mut frontend = backend.connect();
    let mut queue = frontend.queue(0);
    let data = pattern(2, 65536);
    queue.write(4, &data);
    assert!(queue.read(4, 65536) == data);
    drop(frontend);
    let log = backend.stop();
    assert_eq!(log.matches("front-end left").count(), 6, "{log}");
    image.assert_clean();
}

#[test]
fn sessions_leave_nothing_behind() {
    let image = Image::create(16 << 20);
    let backend = Backend::serve(&image, &[]);
    let mut before = None;
    for session in 1..=30 {
        let mut frontend = backend.connect();
        let mut queue = frontend.queue(session % 64);
        submit_writes(&mut queue, &frontend.memory, 4096);
        drop(frontend);
        // logged when all of the session is gone
        let ends = |log: &str| log.matches("front-end left").count() == session;
        backend.log().wait_until(ends);
        // the first sessions fill caches of the allocator and the like
        if session == 10 {
            before = Some(backend.holdings());
        }
    }
    backend.wait_until_it_holds(before.unwrap());
}

/// A front-end that takes its memory away under a request would raise SIGBUS in the process.
#[test]
fn truncated_memory_ends_that_session_alone() {
    let image = Image::create(16 << 20);
    let backend = Backend::serve(&image, &[]);
    for _ in 0..3 {
        let mut frontend = backend.connect();
        let mut queue = frontend.queue(0);
        submit_writes(&mut queue, &frontend.memory, 64 << 10);
        frontend.memory.truncate();
        queue.kick();
    }
    let mut frontend = backend.connect();
    let mut queue = frontend.queue(0);
    let data = pattern(2, 65536);
    queue.write(0, &data);
    assert!(queue.read(0, 65536) == data);
    drop(frontend);
    backend.stop();
    image.assert_clean();
}

#[test]
fn a_second_front_end_is_served_when_the_first_has_left() {
    let mut vm = Setup::disk(16 << 20).start();
    let other = UnixStream::connect(vm.backend.socket()).unwrap();
    // The control thread takes its events in turn: once it has answered two clients it has passed a
    // connection that waits.
    for _ in 0..2 {
        assert_eq!(vm.backend.ctl(&["log-level", "info"]).code, Some(0));
    }
    vm.backend.log().wait_until(|log| log.matches("logging info").count() == 2);
    let log = vm.backend.log().so_far();
    assert_eq!(log.matches("front-end connected").count(), 1, "two front-ends are served:\n{log}");
    let data = pattern(1, 4096);
    vm.queue.write(0, &data);
    drop(vm.frontend);
    let mut second = Frontend::over(other, vm.backend.log());
    assert!(second.queue(0).read(0, 4096) == data);
}

/// Longer than it may keep the others out, and no message is complete meanwhile.
#[test]
fn a_front_end_that_negotiates_nothing_keeps_no_other_out() {
    let backend = Backend::serve(&Image::create(1 << 20), &[]);
    let mut idle = UnixStream::connect(backend.socket()).unwrap();
    idle.write_all(&[1, 0, 0]).unwrap();
    let mut second = Frontend::connect(&backend, &GuestMemory::new());
    backend.log().wait_for("session ended: the front-end has negotiated nothing within 10 s");
    // the connection has been closed
    assert_eq!(idle.read(&mut [0; 16]).unwrap_or(0), 0);
    second.queue(0).write(0, &pattern(1, 4096));
    drop(second);
    backend.stop();
}

#[test]
fn get_vring_base_drains_and_the_ring_restarts_there() {
    let mut vm = Setup::disk(64 << 20).start();
    let mut submitted = 0;
    for round in 0..20 {
        let count = submit_writes(&mut vm.queue, &vm.memory, 64 << 10);
        submitted += u16::try_from(count).unwrap();
        let base = vm.frontend.stop(&vm.queue);
        // popped chains have been returned; the rest is still available
        let done = vm.queue.driver().used_index();
        assert_eq!(base, done, "round {round}: {submitted} were made available");
        assert!(base <= submitted);
        // it is not served now
        vm.queue.kick();
        thread::yield_now();
        assert_eq!(vm.queue.driver().used_index(), done);
        vm.frontend.start(&vm.queue, base);
        vm.queue.kick();
        let completions = vm.queue.wait_all();
        assert_eq!(completions.len(), count);
        assert!(completions.iter().all(|completion| completion.status == OK));
    }
    assert_eq!(vm.frontend.stop(&vm.queue), submitted);
}

#[test]
fn a_ring_starts_at_any_index_and_wraps() {
    let mut vm = Setup::disk(16 << 20).ring_size(8).start();
    vm.frontend.stop(&vm.queue);
    vm.queue.restart_at(u16::MAX - 3);
    vm.frontend.start(&vm.queue, u16::MAX - 3);
    for seed in 0..20 {
        let data = pattern(seed, 4096);
        vm.queue.write(8 * seed, &data);
        assert!(vm.queue.read(8 * seed, 4096) == data);
    }
    assert_eq!(vm.frontend.stop(&vm.queue), 36);
}

#[test]
fn configuration_space_can_be_read_at_any_offset() {
    let mut vm = Setup::disk(16 << 20).options(&["--num-queues", "7"]).start();
    let whole = vm.frontend.config(0, 60).unwrap();
    assert_eq!(whole[..8], (16u64 << 20 >> 9).to_le_bytes(), "capacity");
    assert_eq!(whole[8..12], [0; 4], "size_max");
    assert_eq!(whole[20..24], 512u32.to_le_bytes(), "blk_size");
    assert_eq!(whole[24], 3, "physical_block_exp");
    assert_eq!(whole[32], 1, "writeback");
    assert_eq!(whole[34..36], 7u16.to_le_bytes(), "num_queues");
    for offset in 0..60u32 {
        for size in 1..=60 - offset {
            assert_eq!(vm.frontend.config(offset, size).unwrap(), whole[offset as usize..][..size as usize]);
        }
    }
    // an end past the space is refused, not cut short, and costs the front-end nothing
    for (offset, size) in [(0, 61), (60, 1), (59, 2), (100, 4), (0, 256)] {
        assert_eq!(vm.frontend.config(offset, size), None);
        assert_eq!(vm.frontend.config(0, 60).unwrap(), whole);
    }
    vm.queue.write(0, &pattern(1, 4096));
}

#[test]
fn a_wrong_write_to_configuration_space_is_refused() {
    let mut vm = Setup::disk(16 << 20).start();
    let whole = vm.frontend.config(0, 60);
    for (offset, bytes) in
        [(0, &[0xff; 8][..]), (20, &[0; 4]), (32, &[2]), (32, &[0, 0]), (59, &[1]), (60, &[1])]
    {
        let flags = VhostUserConfigFlags::WRITABLE;
        assert!(vm.frontend.protocol.set_config(offset, flags, bytes).is_err(), "offset {offset}");
        assert_eq!(vm.frontend.config(0, 60), whole);
    }
    vm.queue.write(0, &pattern(1, 4096));
}

#[test]
fn the_drivers_choice_of_writethrough_ends_with_its_session() {
    const WRITEBACK: u32 = 32;
    let image = Image::create(16 << 20);
    let backend = Backend::serve(&image, &[]);
    for _ in 0..2 {
        let mut frontend = backend.connect();
        let mut queue = frontend.queue(0);
        assert_eq!(frontend.config(WRITEBACK, 1), Some(vec![1]));
        for value in [0, 1, 0] {
            frontend.protocol.set_config(WRITEBACK, VhostUserConfigFlags::WRITABLE, &[value]).unwrap();
            assert_eq!(frontend.config(WRITEBACK, 1), Some(vec![value]));
            // the ring is live, and is served on
            for seed in 0..10 {
                queue.write(seed * 8, &pattern(seed, 4096));
                assert!(queue.read(seed * 8, 4096) == pattern(seed, 4096));
            }
        }
    }
}

/// QEMU's qtest `idx` waits for exactly this interrupt.
#[test]
fn a_new_call_on_a_live_ring_is_signalled() {
    let mut vm = Setup::disk(16 << 20).start();
    vm.queue.write(0, &pattern(1, 4096));
    let old = vm.queue.replace_call();
    vm.frontend.protocol.set_vring_call(0, vm.queue.call_fd()).unwrap();
    vm.queue.wait_for_interrupt();
    // and is the one that counts from then on
    old.read().unwrap_or(0);
    vm.queue.write(8, &pattern(2, 4096));
    assert!(old.read().is_err(), "the old call was signalled");
}

#[test]
fn a_new_kick_on_a_live_ring_takes_over() {
    let mut vm = Setup::disk(16 << 20).start();
    for seed in 0..5 {
        vm.queue.write(0, &pattern(seed, 4096));
        let old = vm.queue.replace_kick();
        vm.frontend.protocol.set_vring_kick(0, vm.queue.kick_fd()).unwrap();
        old.write(1).unwrap();
    }
    assert!(vm.queue.read(0, 4096) == pattern(4, 4096));
}

#[test]
fn a_ring_larger_than_allowed_is_refused() {
    let image = Image::create(16 << 20);
    let backend = Backend::serve(&image, &["--queue-size", "128"]);
    for size in [256, 1024, 32768, 100, 0] {
        let frontend = backend.connect();
        assert!(frontend.protocol.set_vring_num(0, size).is_err(), "{size} entries");
    }
    let mut frontend = backend.connect();
    frontend.queue_of_size(0, 128).write(0, &pattern(1, 4096));
    drop(frontend);
    let log = backend.stop();
    assert!(log.contains("a ring of 256 entries") && log.contains("--queue-size 128"), "{log}");
}

#[test]
fn rings_of_the_default_size_and_of_smaller_ones_are_served() {
    let image = Image::create(16 << 20);
    let backend = Backend::serve(&image, &[]);
    for size in [4, 8, 64, 512, 1024] {
        let mut frontend = backend.connect();
        let mut queue = frontend.queue_of_size(0, size);
        for seed in 0..10 {
            let data = pattern(seed, 4096);
            queue.write(8 * seed, &data);
            assert!(queue.read(8 * seed, 4096) == data);
        }
    }
}

#[test]
fn all_64_queues_are_served() {
    let mut vm = Setup::disk(16 << 20).connect();
    assert_eq!(vm.frontend.protocol.get_queue_num().unwrap(), 64);
    let mut queues: Vec<_> = (0..64).map(|index| vm.frontend.queue_of_size(index, 8)).collect();
    for (seed, queue) in (0..).zip(&mut queues) {
        queue.write(seed * 8, &pattern(seed, 4096));
    }
    let expected: Vec<u8> = (0..64).flat_map(|seed| pattern(seed, 4096)).collect();
    for queue in &mut queues {
        assert!(queue.read(0, 64 * 4096) == expected);
    }
}

#[test]
fn regions_can_be_removed_and_added_again() {
    let mut vm = Setup::disk(16 << 20).connect();
    assert!(vm.frontend.protocol.get_max_mem_slots().unwrap() >= 8);
    let mut queue = vm.frontend.queue(0);
    let data = pattern(1, 4096);
    queue.write(0, &data);
    let data_region = vm.memory.regions()[1];
    for _ in 0..3 {
        vm.frontend.protocol.remove_mem_region(&data_region).unwrap();
        // the ring is still there, the buffers are not
        assert_eq!(queue.try_read(0, 4096).0.status, IOERR);
        vm.frontend.protocol.add_mem_region(&data_region).unwrap();
        assert!(queue.read(0, 4096) == data);
    }
}

#[test]
fn broken_messages_end_that_session_alone() {
    let image = Image::create(16 << 20);
    let backend = Backend::serve(&image, &[]);
    let bad_address = VringConfigData { queue_max_size: 256, queue_size: 256, ..VringConfigData::default() };
    let breakages: [&dyn Fn(&mut Frontend); 4] = [
        &|frontend| drop(frontend.protocol.set_features(u64::MAX)),
        &|frontend| drop(frontend.protocol.set_owner()),
        &|frontend| drop(frontend.protocol.set_vring_addr(0, &bad_address)),
        &|frontend| drop(frontend.protocol.reset_device()),
    ];
    for breakage in breakages {
        let mut frontend = backend.connect();
        let mut queue = frontend.queue(0);
        queue.write(0, &pattern(1, 4096));
        breakage(&mut frontend);
    }
    // no message at all, and half a message
    drop(UnixStream::connect(backend.socket()).unwrap());
    std::io::Write::write_all(&mut UnixStream::connect(backend.socket()).unwrap(), &[1; 7]).unwrap();
    std::io::Write::write_all(&mut UnixStream::connect(backend.socket()).unwrap(), &[0xff; 4096]).unwrap();
    let mut frontend = backend.connect();
    assert!(frontend.queue(0).read(0, 4096) == pattern(1, 4096));
}

#[test]
fn a_disabled_queue_is_not_served() {
    let mut vm = Setup::disk(16 << 20).connect();
    let (mut queue, mut other) = (vm.frontend.queue(0), vm.frontend.queue(1));
    for seed in 0..5 {
        vm.frontend.protocol.set_vring_enable(0, false).unwrap();
        let buffer = vm.memory.allocate(4096);
        vm.memory.write(buffer, &pattern(seed, 4096));
        queue.submit(&Request::write(0, &[(buffer, 4096)]));
        queue.kick();
        other.write(8, &pattern(seed, 4096));
        assert_eq!(queue.take_completion(), None);
        vm.frontend.protocol.set_vring_enable(0, true).unwrap();
        assert_eq!(queue.wait().status, OK);
        assert!(queue.read(0, 4096) == pattern(seed, 4096));
    }
}

/// A driver that knows no flush: what was completed is there.
#[test]
fn without_flush_completed_writes_survive_sigkill() {
    let mut vm = Setup::disk(16 << 20).refusing(Features::FLUSH).start();
    for seed in 0..10 {
        vm.queue.write(8 * seed, &pattern(seed, 4096));
    }
    vm.backend.kill();
    vm.image.assert_clean();
    for seed in 0..10 {
        assert!(vm.image.read(4096 * seed, 4096) == pattern(seed, 4096));
    }
}

#[test]
fn sigterm_under_load_ends_in_order() {
    let image = Image::create(64 << 20);
    for len in [4096, 512 << 10] {
        let mut vm = Setup::of(&image).connect();
        let (mut first, mut second) = (vm.frontend.queue(0), vm.frontend.queue(1));
        submit_writes(&mut first, &vm.memory, len);
        submit_writes(&mut second, &vm.memory, len);
        vm.backend.stop();
        image.assert_clean();
    }
}

/// A front-end that sees the end of the connection takes the used ring for final, and hands what is
/// missing there to the next back-end: a completion after that would be the request's second one.
#[test]
fn sigterm_ends_the_connection_behind_the_last_completion() {
    let image = Image::create(64 << 20);
    for _ in 0..5 {
        let mut vm = Setup::of(&image).start();
        let count = submit_writes(&mut vm.queue, &vm.memory, 512 << 10);
        vm.queue.wait();
        thread::scope(|scope| {
            let backend = scope.spawn(|| vm.backend.stop());
            assert_eq!(vm.frontend.reply(), None);
            let used = vm.queue.driver().used_index();
            backend.join().unwrap();
            assert_eq!(vm.queue.driver().used_index(), used, "of {count} requests");
        });
    }
}

#[test]
fn sigterm_without_a_front_end_ends_the_process() {
    let image = Image::create(16 << 20);
    let log = Backend::serve(&image, &[]).stop();
    assert!(log.contains("stopping"), "{log}");
}
