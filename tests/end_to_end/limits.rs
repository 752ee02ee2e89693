//! Limits of requests and bytes: kept, changed at once, shared, and no reason for anything to wait
//! that must not.

use std::fs::File;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::harness::{
    Backend, Completion, GuestMemory, Image, OK, Queue, Request, Setup, finish, pattern, serve_command,
    wait_until,
};

/// A limit under which nothing gets done within a test: a request costs a minute.
const HARDLY_ANY: &str = "bps=1";

fn throttle(backend: &Backend, queue: usize) -> Value {
    let status = backend.ask(&["status"]);
    let queues = status["queues"].as_array().unwrap();
    queues.iter().find(|it| it["queue"] == queue).unwrap()["throttle"].clone()
}

/// Submits `count` reads of 4 KiB and kicks.
fn submit_reads(queue: &mut Queue, memory: &GuestMemory, count: u64) {
    for index in 0..count {
        let buffer = memory.allocate(4096);
        queue.submit(&Request::read(index * 8, &[(buffer, 4096)]));
    }
    queue.kick();
}

fn wait_until_throttled(backend: &Backend) {
    wait_until(
        || throttle(backend, 0)["waits"].as_u64().unwrap() > 0,
        || format!("{}", backend.ask(&["status"])),
    );
}

#[test]
fn a_rate_is_kept_and_its_waits_are_counted() {
    let mut vm = Setup::disk(16 << 20).options(&["--limit", "iops=20,burst=1ms"]).start();
    let start = Instant::now();
    submit_reads(&mut vm.queue, &vm.memory, 30);
    assert!(vm.queue.wait_all().iter().all(|it| it.status == OK));
    // the first is free, and so is the last one's time
    assert!(start.elapsed() > Duration::from_millis(28 * 50), "{:?}", start.elapsed());
    let throttle = throttle(&vm.backend, 0);
    assert!(throttle["waits"].as_u64().unwrap() >= 28, "{throttle}");
    assert!(throttle["waited_us"].as_u64().unwrap() >= 1_300_000, "{throttle}");
    assert_eq!(throttle["held_back"], 0);
    let metrics = vm.backend.ctl(&["metrics"]).stdout;
    assert!(metrics.contains("limit=\"iops\"} 20\n"), "{metrics}");
    assert!(vm.backend.ctl(&["status"]).stdout.contains("limits: iops=20 burst=1ms\n"));
    vm.stop_clean();
}

#[test]
fn bytes_are_limited_by_direction() {
    let options = ["--limit", "write-bps=200K,burst=1ms"];
    let mut vm = Setup::disk(16 << 20).options(&options).start();
    // reads pass, also beside writes that wait
    let data = vm.memory.allocate(64 << 10);
    let heads: Vec<_> =
        (0..5).map(|index| vm.queue.submit(&Request::write(index * 128, &[(data, 64 << 10)]))).collect();
    let read = vm.queue.submit(&Request::read(1 << 14, &[(vm.memory.allocate(4096), 4096)]));
    let start = Instant::now();
    vm.queue.kick();
    let done: Vec<_> = (0..6).map(|_| vm.queue.wait()).collect();
    assert!(done.iter().all(|it| it.status == OK));
    let place = |head: u16| done.iter().position(|it| it.head == head).unwrap();
    assert!(place(read) <= 1 && place(heads[4]) == 5, "{done:?}");
    assert!(start.elapsed() > Duration::from_millis(4 * 320 - 50), "{:?}", start.elapsed());
    assert_eq!(throttle(&vm.backend, 0)["held_back"], 4);
    assert_eq!(throttle(&vm.backend, 0)["held"], 0);
    vm.stop_clean();
}

#[test]
fn other_limits_count_at_once() {
    let mut vm = Setup::disk(16 << 20).start();
    vm.queue.write(0, &pattern(1, 4096));
    assert_eq!(vm.backend.ask(&["status"])["limits"], Value::Null);
    for limit in [HARDLY_ANY, "read-bps=1"] {
        let set = vm.backend.ctl(&["limit", limit]);
        assert_eq!(set.stdout, format!("{limit} burst=100ms\n"), "{}", set.stderr);
        let done = throttle(&vm.backend, 0);
        submit_reads(&mut vm.queue, &vm.memory, 20);
        let counted = |name: &str| throttle(&vm.backend, 0)[name].as_u64().unwrap();
        let before = |name: &str| done[name].as_u64().unwrap();
        wait_until(
            || counted("waits") > before("waits") || counted("held_back") > before("held_back"),
            || format!("{}", throttle(&vm.backend, 0)),
        );
        let set = vm.backend.ctl(&["limit", "none"]);
        assert_eq!((set.code, set.stdout.as_str()), (Some(0), "no limits\n"));
        assert!(vm.queue.wait_all().iter().all(|it| it.status == OK));
    }
    let both = vm.backend.ask(&["limit", "iops=20k", "burst=2s"]);
    assert_eq!((&both["iops"], &both["burst_ms"], &both["bps"]), (&json!(20_000), &json!(2000), &json!(0)));
    vm.stop_clean();
}

#[test]
fn a_wrong_limit_is_refused() {
    let image = Image::create(1 << 20);
    let backend = Backend::serve(&image, &[]);
    for (limit, code) in [("iops=0", 2), ("many", 2), ("jops=1", 2), ("iops=1x", 2), ("burst=1s", 1)] {
        let refused = backend.ctl(&["limit", limit]);
        assert_eq!(refused.code, Some(code), "{limit}: {}", refused.stderr);
    }
    assert_eq!(backend.ask(&["status"])["limits"], Value::Null);
    backend.stop();
    let refused = finish(&mut serve_command("/nonexistent".as_ref(), &image, &["--limit", "iops=0"]));
    assert_eq!(refused.code, Some(78));
    assert!(refused.stderr.contains("leave it out"), "{}", refused.stderr);
}

/// Stopping a queue, a drain, SIGTERM: none of them waits for a limit, and no request is lost.
#[test]
fn a_queue_that_waits_for_a_limit_stops_at_once() {
    for (limit, held) in [(HARDLY_ANY, false), ("read-bps=1", true)] {
        let mut vm = Setup::disk(16 << 20).options(&["--limit", limit]).start();
        let start = Instant::now();
        submit_reads(&mut vm.queue, &vm.memory, 20);
        if held {
            wait_until(|| throttle(&vm.backend, 0)["held"] == 19, || throttle(&vm.backend, 0).to_string());
        } else {
            wait_until_throttled(&vm.backend);
        }
        assert_eq!(vm.backend.ctl(&["drain"]).code, Some(0));
        // the front-end takes the ring back, with all that was popped answered
        vm.frontend.stop(&vm.queue);
        let answered = std::iter::from_fn(|| vm.queue.take_completion()).count();
        assert_eq!(answered == 20, held, "{answered} answered");
        assert_eq!(throttle(&vm.backend, 0)["held"], 0);
        assert!(start.elapsed() < Duration::from_secs(50), "it has waited for a limit");
        vm.stop_clean();
    }
}

#[test]
fn a_limit_that_is_reached_is_no_trouble_for_the_watchdog() {
    let options = ["--limit", HARDLY_ANY, "--watchdog-seconds", "1"];
    let mut vm = Setup::disk(16 << 20).options(&options).start();
    submit_reads(&mut vm.queue, &vm.memory, 20);
    wait_until_throttled(&vm.backend);
    let start = Instant::now();
    wait_until(|| start.elapsed() > Duration::from_secs(3), String::new);
    let queue = vm.backend.ask(&["status"])["queues"][0].clone();
    assert_eq!((&queue["stuck_s"], &queue["ring_trouble"]), (&json!(0), &Value::Null), "{queue}");
    assert_eq!(vm.backend.ctl(&["limit", "none"]).code, Some(0));
    assert!(vm.queue.wait_all().iter().all(|it| it.status == OK));
    let log = vm.stop_clean();
    assert!(!log.contains("no progress"), "{log}");
}

#[test]
fn a_queue_with_one_request_gets_its_share_beside_one_with_many() {
    let image = Image::create(16 << 20);
    let backend = Backend::serve(&image, &["--limit", "iops=200,burst=1ms"]);
    let mut frontend = backend.connect();
    let (mut many, mut one) = (frontend.queue(0), frontend.queue(1));
    submit_reads(&mut many, &frontend.memory, 64);
    let mut served = [0; 2];
    submit_reads(&mut one, &frontend.memory, 1);
    while served.iter().sum::<u64>() < 300 {
        if let Some(Completion { status, .. }) = many.take_completion() {
            assert_eq!(status, OK);
            served[0] += 1;
            submit_reads(&mut many, &frontend.memory, 1);
        }
        if let Some(Completion { status, .. }) = one.take_completion() {
            assert_eq!(status, OK);
            served[1] += 1;
            submit_reads(&mut one, &frontend.memory, 1);
        }
        std::thread::yield_now();
    }
    assert!(served[1] >= 75, "{served:?}");
    assert_eq!(backend.ctl(&["limit", "none"]).code, Some(0));
    many.wait_all();
    one.wait_all();
    drop(frontend);
    backend.stop();
}

#[test]
fn disks_that_name_the_same_file_share_their_limits() {
    let directory = tempfile::tempdir().unwrap();
    let group = directory.path().join("tenant.limits");
    let name = group.to_str().unwrap();
    let first =
        Setup::disk(16 << 20).options(&["--limit-group", name, "--limit", "iops=20,burst=1ms"]).start();
    let second = Setup::disk(16 << 20).options(&["--limit-group", name]).start();
    assert_eq!(second.backend.ask(&["status"])["limits"]["iops"], 20);
    let mut vms = [first, second];
    let start = Instant::now();
    for vm in &mut vms {
        submit_reads(&mut vm.queue, &vm.memory, 15);
    }
    for vm in &mut vms {
        assert!(vm.queue.wait_all().iter().all(|it| it.status == OK));
    }
    assert!(start.elapsed() > Duration::from_millis(27 * 50), "{:?}", start.elapsed());
    // one disk changes them for both, also for requests that wait
    assert_eq!(vms[1].backend.ctl(&["limit", HARDLY_ANY]).code, Some(0));
    submit_reads(&mut vms[0].queue, &vms[0].memory, 20);
    wait_until_throttled(&vms[0].backend);
    assert_eq!(vms[1].backend.ctl(&["limit", "none"]).code, Some(0));
    assert!(vms[0].queue.wait_all().iter().all(|it| it.status == OK));
    // a file that is cut off stops no disk
    assert_eq!(vms[0].backend.ctl(&["limit", "iops=5000"]).code, Some(0));
    File::create(&group).unwrap();
    for vm in &mut vms {
        vm.queue.write(0, &pattern(1, 4096));
        let limits = vm.backend.ask(&["status"])["limits"].clone();
        assert!(limits["group_lost"].as_str().unwrap().contains("truncated"), "{limits}");
    }
    assert_eq!(vms[0].backend.ask(&["status"])["limits"]["iops"], 5000);
    for vm in vms {
        vm.stop_clean();
    }
    // another file is left as it is
    let notes = directory.path().join("notes");
    std::fs::write(&notes, "my notes").unwrap();
    let image = Image::create(1 << 20);
    let socket = directory.path().join("socket");
    let refused = finish(&mut serve_command(&socket, &image, &["--limit-group", notes.to_str().unwrap()]));
    assert_eq!(refused.code, Some(78));
    assert!(refused.stderr.contains("is not the file of a limit group"), "{}", refused.stderr);
    assert_eq!(std::fs::read(&notes).unwrap(), b"my notes");
    image.assert_clean();
}

#[test]
fn a_front_end_that_leaves_loses_no_request_that_was_held_back() {
    let image = Image::create(16 << 20);
    let mut vm = Setup::of(&image).options(&["--limit", "write-bps=1"]).start();
    vm.queue.write(0, &pattern(1, 4096));
    assert_eq!(vm.backend.ask(&["status"])["limits"]["write_bps"], 1);
    let data = vm.memory.allocate(4096);
    vm.queue.submit(&Request::write(8, &[(data, 4096)]));
    vm.queue.kick();
    wait_until(|| throttle(&vm.backend, 0)["held"] == 1, || throttle(&vm.backend, 0).to_string());
    drop(vm.frontend);
    // the session ends, and does what was held back first
    assert_eq!(vm.queue.wait().status, OK);
    vm.backend.stop();
    image.assert_clean();
}
