//! A disk that is frozen for a snapshot: its files then, the requests that wait, and how it
//! continues.

use std::path::Path;
use std::process::Command;

use load::{History, Load, Plan};
use serde_json::Value;

use crate::harness::{Backend, DirtyLog, Image, Queue, Request, finish, pattern, wait_until};

const SIZE: u64 = 16 << 20;

/// Copies image and sidecar, with the image's attributes, as a snapshot of the file system does.
fn snapshot(image: &Image, to: &Path) -> Image {
    let copy = Image::of(&to.join("copy.img"));
    let (from, to) = (image.sidecar_path(), copy.sidecar_path());
    for [from, to] in [[image.path(), copy.path()], [&from, &to]] {
        assert!(Command::new("cp").arg("-a").args([from, to]).status().unwrap().success());
    }
    copy
}

/// A read of the block at `sector` that has not been served yet.
fn begin_read(queue: &mut Queue, memory: &crate::harness::GuestMemory, sector: u64) -> (u16, u64) {
    let buffer = memory.allocate(4096);
    let head = queue.submit(&Request::read(sector, &[(buffer, 4096)]));
    queue.kick();
    (head, buffer)
}

fn refusal(backend: &Backend, args: &[&str]) -> String {
    let refused = backend.ctl(args);
    assert_eq!(refused.code, Some(1), "{args:?}: {}", refused.stdout);
    refused.stderr
}

#[test]
fn what_is_copied_of_a_frozen_disk_is_clean_and_has_all_that_was_acknowledged() {
    let directory = tempfile::tempdir().unwrap();
    let image = Image::create(SIZE);
    let backend = Backend::serve(&image, &["--num-queues", "2"]);
    let mut frontend = backend.connect();
    let (mut first, mut second) = (frontend.queue(0), frontend.queue(1));
    // not flushed
    first.write(0, &pattern(1, 1 << 20));
    second.write(4096, &pattern(2, 1 << 20));
    let frozen = backend.ask(&["freeze"]);
    assert_eq!(frozen["seconds"], 30);
    assert!(backend.ask(&["status"])["frozen_s"].is_u64());
    let (head, buffer) = begin_read(&mut first, &frontend.memory, 0);
    let copy = snapshot(&image, directory.path());
    copy.assert_clean();
    assert_eq!(copy.json("info")["state"], "clean");
    assert!(copy.read(0, 1 << 20) == pattern(1, 1 << 20));
    assert!(copy.read(4096 * 512, 1 << 20) == pattern(2, 1 << 20));

    assert!(first.take_completion().is_none(), "a request was served while the disk was frozen");
    let thawed = backend.ask(&["thaw"]);
    assert!(thawed["stalled_ms"].as_u64() >= frozen["took_ms"].as_u64(), "{thawed}");
    assert_eq!(first.complete(head).status, 0);
    assert!(frontend.memory.read(buffer, 4096) == pattern(1, 4096));
    second.write(0, &pattern(3, 4096));
    assert_eq!(backend.ask(&["status"])["frozen_s"], Value::Null);
    drop(frontend);
    backend.stop();
    image.assert_clean();
    assert!(image.read(0, 4096) == pattern(3, 4096));
}

#[test]
fn a_freeze_that_no_one_ends_is_over_in_time_and_the_thaw_fails() {
    let image = Image::create(SIZE);
    let backend = Backend::serve(&image, &[]);
    let mut frontend = backend.connect();
    let mut queue = frontend.queue(0);
    queue.write(0, &pattern(1, 4096));
    assert_eq!(backend.ask(&["freeze", "--seconds", "1"])["seconds"], 1);
    assert!(queue.read(0, 4096) == pattern(1, 4096));
    let late = refusal(&backend, &["thaw"]);
    assert!(late.contains("may be of no one moment"), "{late}");
    drop(frontend);
    let log = backend.stop();
    assert!(log.contains("no client has thawed the disk in time"), "{log}");
    image.assert_clean();
}

#[test]
fn a_front_end_that_comes_to_a_frozen_disk_waits() {
    let image = Image::create(SIZE);
    let backend = Backend::serve(&image, &[]);
    backend.ask(&["freeze"]);
    let mut frontend = backend.connect();
    let mut queue = frontend.queue(0);
    let (head, _) = begin_read(&mut queue, &frontend.memory, 0);
    // the queue was set up, stopped and started, all while the disk was frozen
    let base = frontend.stop(&queue);
    assert_eq!(base, 0, "the frozen disk has taken a request");
    frontend.start(&queue, base);
    assert_eq!(backend.ask(&["status"])["queues"], serde_json::json!([]));
    backend.ask(&["thaw"]);
    assert_eq!(queue.complete(head).status, 0);
    drop(frontend);
    backend.stop();
}

#[test]
fn requests_that_do_not_go_with_a_freeze_are_refused() {
    let image = Image::create(SIZE);
    let backend = Backend::serve(&image, &[]);
    let not_frozen = refusal(&backend, &["thaw"]);
    assert!(not_frozen.contains("the disk is not frozen"), "{not_frozen}");
    for seconds in ["0", "601", "-1", "for ever"] {
        assert_eq!(backend.ctl(&["freeze", "--seconds", seconds]).code, Some(2));
    }
    backend.ask(&["freeze"]);
    assert!(refusal(&backend, &["freeze"]).contains("frozen already"));
    assert!(refusal(&backend, &["resize", "--size", "32M"]).contains("thaw it first"));
    // everything that was completed is durable
    assert_eq!(backend.ctl(&["flush"]).code, Some(0));
    assert_eq!(backend.ctl(&["drain"]).code, Some(0));
    // no other process gets the image
    let other = finish(image.command("check").arg("--recover"));
    assert!(other.stderr.contains("in use"), "{}", other.stderr);
    backend.ask(&["thaw"]);
    assert_eq!(backend.ask(&["resize", "--size", "32M"])["bytes"], 32 << 20);
    backend.stop();
}

#[test]
fn an_image_that_grew_while_the_disk_was_frozen_makes_it_grow_afterwards() {
    let image = Image::create(SIZE);
    let backend = Backend::serve(&image, &[]);
    backend.ask(&["freeze"]);
    std::fs::File::options().write(true).open(image.path()).unwrap().set_len(2 * SIZE).unwrap();
    backend.ask(&["thaw"]);
    let bytes = || backend.ask(&["status"])["bytes"].as_u64().unwrap();
    wait_until(|| bytes() == 2 * SIZE, || format!("the disk has {} bytes", bytes()));
    backend.stop();
    image.assert_clean();
}

#[test]
fn a_frozen_disk_is_left_clean_by_a_signal_and_by_a_kill() {
    for is_killed in [false, true] {
        let image = Image::create(SIZE);
        let backend = Backend::serve(&image, &[]);
        let mut frontend = backend.connect();
        frontend.queue(0).write(0, &pattern(1, 4096));
        backend.ask(&["freeze"]);
        if is_killed {
            backend.kill();
        } else {
            drop(frontend);
            backend.stop();
        }
        image.wait_until_closed();
        assert_eq!(image.json("info")["state"], "clean");
        image.assert_clean();
        assert!(image.read(0, 4096) == pattern(1, 4096));
    }
}

#[test]
fn a_frozen_disk_can_be_handed_over() {
    let image = Image::create(SIZE);
    let source = Backend::serve(&image, &[]);
    let destination = Backend::serve(&image, &["--incoming"]);
    let mut frontend = source.connect();
    let mut queue = frontend.queue(0);
    queue.write(0, &pattern(1, 4096));
    source.ask(&["freeze"]);
    frontend.log_to(&DirtyLog::new());
    frontend.log_writes(true);
    frontend.stop(&queue);
    assert!(destination.connect().queue(0).read(0, 4096) == pattern(1, 4096));
    source.ask(&["thaw"]);
    drop(frontend);
    source.stop();
    destination.stop();
    image.assert_clean();
}

/// Each copy has the blocks of all requests that were complete, and nothing of those that were not
/// taken; it is clean, so nothing of it is adopted.
#[test]
fn copies_made_under_load_are_of_one_moment_each() {
    const SECTORS: u64 = SIZE / 512;
    let image = Image::create(SIZE);
    let backend = Backend::serve(&image, &[]);
    let mut load = Load::start(backend.socket(), History::new(SECTORS)).unwrap();
    let mut taken = 0;
    for round in 0..8 {
        Plan::new(round, SECTORS).take(200).for_each(|step| load.submit(step));
        taken += u64::from(load.in_flight() > 0);
        backend.ask(&["freeze"]);
        load.collect();
        let directory = tempfile::tempdir().unwrap();
        let copy = snapshot(&image, directory.path());
        copy.assert_clean();
        load.history().compare(0, &copy.read(0, SIZE.try_into().unwrap())).unwrap();
        backend.ask(&["thaw"]);
    }
    assert!(taken > 4, "hardly anything was in flight when the disk was frozen");
    load.drain();
    load.read_all();
    drop(load);
    backend.stop();
    image.assert_clean();
}
