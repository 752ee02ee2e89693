//! A guest that rewrites its buffers while they are being written: the case that stableblk is for.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;

use crate::harness::{Backend, GuestMemory, Image, OK, Queue, Request, pattern};

const LEN: u32 = 64 << 10;
const DEPTH: u64 = 16;
const IMAGE_SIZE: u64 = 64 << 20;

/// Writes `rounds` times `DEPTH` requests on each of two queues, from buffers that another thread
/// rewrites all the time.
fn write_from_unstable_buffers(backend: &Backend, rounds: u64) {
    let mut frontend = backend.connect();
    let queues = [frontend.queue(0), frontend.queue(1)];
    let buffers: Vec<_> = (0..DEPTH).map(|_| frontend.memory.allocate(LEN as usize)).collect();
    for (seed, &buffer) in (0..).zip(&buffers) {
        frontend.memory.write(buffer, &pattern(seed, LEN as usize));
    }
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| rewrite(&frontend.memory, &buffers, &done));
        let writers = queues.map(|mut queue| {
            let buffers = &buffers;
            scope.spawn(move || {
                (0..rounds).for_each(|round| write_round(&mut queue, buffers, round));
            })
        });
        let outcomes = writers.map(thread::ScopedJoinHandle::join);
        done.store(true, Relaxed);
        for outcome in outcomes {
            outcome.unwrap();
        }
    });
}

fn write_round(queue: &mut Queue, buffers: &[u64], round: u64) {
    // each queue has its half of the disk
    let half = IMAGE_SIZE / 512 / 2;
    for (slot, &buffer) in (0..).zip(buffers) {
        let place = (round * DEPTH + slot) * u64::from(LEN / 512) % half;
        queue.submit(&Request::write(queue.index() as u64 * half + place, &[(buffer, LEN)]));
    }
    queue.kick();
    assert!(queue.wait_all().iter().all(|completion| completion.status == OK));
}

fn rewrite(memory: &GuestMemory, buffers: &[u64], done: &AtomicBool) {
    let mut value = 0_u64;
    while !done.load(Relaxed) {
        for &buffer in buffers {
            for page in (0..u64::from(LEN)).step_by(4096) {
                value += 1;
                memory.write(buffer + page + value % 512 * 8, &value.to_le_bytes());
            }
        }
    }
}

#[test]
fn bounced_writes_match_their_guard() {
    let image = Image::create(IMAGE_SIZE);
    let backend = Backend::serve(&image, &[]);
    write_from_unstable_buffers(&backend, 60);
    let mut frontend = backend.connect();
    let mut queue = frontend.queue(0);
    for mebibyte in 0..IMAGE_SIZE >> 20 {
        queue.read(mebibyte * 2048, 1 << 20);
    }
    drop(frontend);
    backend.stop();
    image.assert_clean();
}

/// The control: without the bounce the same guest breaks the guard, so the test above shows
/// something.
#[test]
fn unbounced_writes_do_not_match_their_guard() {
    const ATTEMPTS: u64 = 50;
    let image = Image::create(IMAGE_SIZE);
    for _ in 0..ATTEMPTS {
        let backend = Backend::serve(&image, &["--bounce", "never"]);
        write_from_unstable_buffers(&backend, 20);
        let log = backend.stop();
        assert!(log.contains("--bounce never with protection information"), "{log}");
        let bad = image.bad_blocks();
        if !bad.is_empty() {
            assert!(bad.iter().all(|(_, check)| check == "guard_tag"), "{bad:?}");
            return;
        }
    }
    panic!("{ATTEMPTS} times 640 writes without a bounce, and no mismatch");
}

/// Writes of each queue that were looked at, and those that were found to be rewritten.
fn rewrites(backend: &Backend) -> (u64, u64) {
    let status = backend.ask(&["status"]);
    let queues = status["queues"].as_array().unwrap();
    let sum = |name: &str| queues.iter().map(|queue| queue["rewrites"][name].as_u64().unwrap()).sum();
    (sum("checked"), sum("found"))
}

#[test]
fn a_guest_that_rewrites_is_found_and_named_once() {
    for options in [
        &["--rewrite-check", "1"][..],
        &["--rewrite-check", "1", "--integrity", "none", "--bounce", "always"],
    ] {
        let protected = options.len() == 2;
        let image = if protected { Image::create(IMAGE_SIZE) } else { Image::without_sidecar(IMAGE_SIZE) };
        let backend = Backend::serve(&image, options);
        let rounds = 20;
        // rewriting has to meet a write, which it does soon
        while rewrites(&backend).1 < 2 {
            write_from_unstable_buffers(&backend, rounds);
        }
        let (checked, found) = rewrites(&backend);
        assert!(checked >= 2 * rounds * DEPTH && found <= checked, "{found} of {checked}");
        let status = backend.ask(&["status"]);
        let ranges = status["rewrites"]["ranges"].as_array().unwrap();
        let blocks = IMAGE_SIZE / if protected { 4096 } else { 512 };
        assert!((1..=64).contains(&ranges.len()), "{status}");
        assert!(ranges.iter().all(|it| it["first_lba"].as_u64() <= it["last_lba"].as_u64()));
        assert!(ranges.iter().all(|it| it["last_lba"].as_u64().unwrap() < blocks), "{status}");
        let shown = backend.ctl(&["status"]).stdout;
        assert!(shown.contains("changes data while it is being written, at LBA"), "{shown}");
        assert!(backend.ctl(&["metrics"]).stdout.contains("stableblk_rewritten_writes_total"));
        let log = backend.stop();
        assert_eq!(log.matches("the guest changes data while").count(), 1, "{log}");
    }
}

#[test]
fn a_guest_that_keeps_its_buffers_is_not_accused() {
    let image = Image::create(IMAGE_SIZE);
    for (one_in, checked) in [("1", 100), ("7", 14), ("0", 0)] {
        let backend = Backend::serve(&image, &["--rewrite-check", one_in]);
        let mut frontend = backend.connect();
        let mut queue = frontend.queue(0);
        for index in 0..100 {
            // whole blocks, and a part of one
            let (sector, len) = if index % 2 == 0 { (index * 8, 8192) } else { (index * 8 + 1, 512) };
            queue.write(sector, &pattern(index, len));
        }
        assert_eq!(rewrites(&backend), (checked, 0), "one in {one_in}");
        drop(frontend);
        let log = backend.stop();
        assert!(!log.contains("the guest changes data"), "{log}");
    }
    image.assert_clean();
}
