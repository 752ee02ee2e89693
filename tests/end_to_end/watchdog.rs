//! A queue that makes no progress: the log and the control socket report it, and report when it
//! continues.

use std::fs;

use serde_json::Value;

use crate::harness::{Backend, FileSystem, Image, OK, Request, Setup, pattern};

const SIZE: u64 = 8 << 20;

fn stuck_seconds(backend: &Backend) -> Vec<u64> {
    let status = backend.ask(&["status"]);
    let stuck = |queue: &Value| queue["stuck_s"].as_u64().unwrap();
    status["queues"].as_array().unwrap().iter().map(stuck).collect()
}

/// A frozen file system holds a write up for as long as it likes.
#[test]
fn a_queue_that_hangs_is_reported_and_so_is_its_progress() {
    let Some(file_system) = FileSystem::mount() else { return };
    let image = Image::create_apart(&file_system.root(), SIZE);
    // allocated, so that nothing but the write itself waits
    fs::write(image.path(), vec![0; usize::try_from(SIZE).unwrap()]).unwrap();
    let mut vm = Setup::of(&image).options(&["--watchdog-seconds", "1"]).connect();
    let (mut queue, _idle) = (vm.frontend.queue(0), vm.frontend.queue(1));
    assert_eq!(stuck_seconds(&vm.backend), [0, 0]);

    // nothing else is asked for: on a slow disk it would be reported too
    let frozen = file_system.freeze();
    let buffer = vm.memory.allocate(4096);
    vm.memory.write(buffer, &pattern(1, 4096));
    queue.submit(&Request::write(8, &[(buffer, 4096)]));
    queue.kick();
    // said by the worker when the control thread has asked it
    vm.backend.log().wait_for("oldest request");
    let stuck = stuck_seconds(&vm.backend);
    assert!(stuck[0] > 0 && stuck[1] == 0, "{stuck:?}");
    let shown = vm.backend.ctl(&["status"]).stdout;
    assert_eq!(shown.matches("no progress for").count(), 1, "{shown}");

    frozen.thaw();
    assert_eq!(queue.wait().status, OK);
    vm.backend.log().wait_for("the queue makes progress again");
    assert_eq!(stuck_seconds(&vm.backend), [0, 0]);
    drop(vm.frontend);
    let log = vm.backend.stop();
    // once, though it was looked at more often
    assert_eq!(log.matches("the queue makes no progress").count(), 1, "{log}");
    let line = log.lines().find(|line| line.contains("oldest request")).unwrap();
    for part in ["queue=0", "work=Write", "start=4096", "len=4096"] {
        assert!(line.contains(part), "{part:?} is not in: {line}");
    }
    assert!(image.read(4096, 4096) == pattern(1, 4096));
    image.assert_clean();
}
