//! Slow requests: logged with their stages, counted, and the slowest kept.

use serde_json::Value;

use crate::harness::{Backend, OK, Request, Setup, Vm};

const LEN: u32 = 64 << 10;

/// Writes twice at the same time, of which the limit holds the second back for 0.3 s.
fn write_slowly(vm: &mut Vm) {
    let data = vm.memory.allocate(LEN as usize);
    for index in 0..2 {
        vm.queue.submit(&Request::write(index * 128, &[(data, LEN)]));
    }
    vm.queue.kick();
    assert!(vm.queue.wait_all().iter().all(|it| it.status == OK));
}

fn slowest(backend: &Backend) -> Vec<Value> {
    backend.ask(&["status"])["slow"]["slowest"].as_array().unwrap().clone()
}

#[test]
fn a_slow_request_is_logged_with_its_stages() {
    let options = ["--limit", "write-bps=200K,burst=1ms", "--slow-ms", "200"];
    let mut vm = Setup::disk(16 << 20).options(&options).start();
    vm.queue.read(0, 4096);
    write_slowly(&mut vm);
    let slow = slowest(&vm.backend);
    let [request] = &slow[..] else { panic!("{slow:?}") };
    assert_eq!(
        (&request["kind"], &request["len"], &request["succeeded"]),
        (&"write".into(), &LEN.into(), &true.into())
    );
    let stage = |name: &str| request["stages"][name].as_u64().unwrap_or_else(|| panic!("{name}: {request}"));
    let stages = ["range_us", "folio_us", "log_us", "submitted_us", "completed_us"].map(stage);
    assert!(stages[0] >= 200_000 && stages.is_sorted(), "{request}");
    assert!(stages[4] <= request["total_us"].as_u64().unwrap());
    assert_eq!(vm.backend.ask(&["status"])["queues"][0]["slow"], 1);
    let shown = vm.backend.ctl(&["status"]).stdout;
    assert!(shown.contains("  queue 0: write of 65536 at "), "{shown}");
    let log = vm.stop_clean();
    let line = log.lines().find(|line| line.contains("slow request")).unwrap();
    for part in ["kind=\"write\"", "range_us=", "log_us=", "completed_us=", "total_us="] {
        assert!(line.contains(part), "{part}: {line}");
    }
    assert_eq!(log.matches("slow request").count(), 1, "{log}");
}

#[test]
fn nothing_is_slow_until_that_is_asked_for() {
    let mut vm = Setup::disk(16 << 20).options(&["--limit", "write-bps=200K,burst=1ms"]).start();
    write_slowly(&mut vm);
    assert_eq!(slowest(&vm.backend), [] as [Value; 0]);
    assert_eq!(vm.backend.ctl(&["slow-ms", "200"]).stdout, "requests of more than 200 ms are slow\n");
    // a request that the limit of the ones before holds back
    write_slowly(&mut vm);
    assert!(!slowest(&vm.backend).is_empty());
    assert_eq!(vm.backend.ctl(&["slow-ms", "0"]).stdout, "requests are not timed\n");
    assert_eq!(slowest(&vm.backend), [] as [Value; 0]);
    let counted = vm.backend.ask(&["status"])["queues"][0]["slow"].clone();
    write_slowly(&mut vm);
    assert_eq!(vm.backend.ask(&["status"])["queues"][0]["slow"], counted);
    for wrong in ["-1", "86400001", "soon"] {
        assert_eq!(vm.backend.ctl(&["slow-ms", wrong]).code, Some(2), "{wrong}");
    }
    vm.stop_clean();
}

#[test]
fn a_storm_of_slow_requests_fills_neither_log_nor_status() {
    let mut vm =
        Setup::disk(16 << 20).options(&["--slow-ms", "1", "--limit", "read-iops=400,burst=1ms"]).start();
    let data = vm.memory.allocate(4096);
    for round in 0..4 {
        for index in 0..60 {
            vm.queue.submit(&Request::read((round * 60 + index) * 8, &[(data, 4096)]));
        }
        vm.queue.kick();
        vm.queue.wait_all();
    }
    let slow = slowest(&vm.backend);
    assert_eq!(slow.len(), 10);
    assert!(slow.is_sorted_by_key(|it| std::cmp::Reverse(it["total_us"].as_u64())), "{slow:?}");
    let counted = vm.backend.ask(&["status"])["queues"][0]["slow"].as_u64().unwrap();
    assert!(counted > 100, "{counted}");
    let log = vm.stop_clean();
    assert!(log.matches("slow request").count() <= 60, "{log}");
}
