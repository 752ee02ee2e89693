//! The I/O of a killed back-end is over before a successor serves: else an old write could land
//! on a newer one, or an old read in memory that the guest uses for something else by now.
//!
//! A frozen file system makes a write last as long as the test wants.

use std::fs;

use rustix::process::{Pid, Signal, kill_process};

use crate::harness::inflight::InflightRegion;
use crate::harness::{
    Backend, FileSystem, Frontend, Image, LoopDevice, OK, Request, Setup, finish, pattern, serve_command,
    wait_until,
};

const SIZE: u64 = 8 << 20;

/// A worker of `io_uring` waits for the frozen file system. Others may wait for the disk of the
/// sidecar.
fn is_stuck(pid: u32) -> bool {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let stats = tasks.filter_map(|task| fs::read_to_string(task.path().join("stat")).ok());
    stats.into_iter().any(|stat| stat.contains("(iou-wrk-") && stat.contains(") D "))
}

/// Kills the back-end of `image` with a write in flight, which `is_in_flight` sees by the process's
/// id.
fn fences(file_system: &FileSystem, image: &Image, is_in_flight: impl Fn(u32) -> bool) {
    let mut vm = Setup::of(image).connect();
    let region = InflightRegion::ask(&mut vm.frontend, 1, 64);
    region.give_to(&mut vm.frontend);
    let mut queue = vm.frontend.queue_of_size(0, 64);
    queue.write(8, &pattern(1, 4096));
    let frozen = file_system.freeze();
    let buffer = vm.memory.allocate(4096);
    vm.memory.write(buffer, &pattern(2, 4096));
    let head = queue.submit(&Request::write(8, &[(buffer, 4096)]));
    queue.kick();
    wait_until(|| is_in_flight(vm.backend.pid()), || "the write does not begin".to_owned());
    kill_process(Pid::from_raw(vm.backend.pid().try_into().unwrap()).unwrap(), Signal::KILL).unwrap();
    drop(vm.frontend);
    assert_eq!(region.in_flight(0), [head]);

    let directory = tempfile::tempdir().unwrap();
    let refused = finish(&mut serve_command(&directory.path().join("socket"), image, &[]));
    assert_eq!(refused.code, Some(1), "it serves while the old write is in flight: {}", refused.stderr);
    assert!(refused.stderr.contains("a process that is exiting"), "{}", refused.stderr);

    frozen.thaw();
    vm.backend.kill();
    let backend = Backend::serve(image, &[]);
    let mut frontend = Frontend::connect(&backend, &vm.memory);
    region.give_to(&mut frontend);
    let base = queue.driver().used_index();
    frontend.start(&queue, base);
    let completion = queue.wait();
    assert_eq!((completion.head, completion.status), (head, OK));
    queue.write(8, &pattern(3, 4096));
    assert!(queue.read(8, 4096) == pattern(3, 4096));
    drop(frontend);
    backend.stop();
    image.assert_clean();
}

#[test]
fn a_file_is_not_served_while_an_old_write_is_in_flight() {
    let Some(file_system) = FileSystem::mount() else { return };
    let image = Image::create_apart(&file_system.root(), SIZE);
    // allocated, so that nothing but the write itself waits
    fs::write(image.path(), vec![0; usize::try_from(SIZE).unwrap()]).unwrap();
    fences(&file_system, &image, is_stuck);
}

#[test]
fn a_block_device_is_not_served_while_an_old_write_is_in_flight() {
    let Some(file_system) = FileSystem::mount() else { return };
    let backing = file_system.root().join("backing");
    fs::write(&backing, vec![0; usize::try_from(SIZE).unwrap()]).unwrap();
    let device = LoopDevice::over(backing);
    let image = device.protect();
    let name = device.path().file_name().unwrap().to_str().unwrap();
    let in_flight = format!("/sys/block/{name}/inflight");
    let is_in_flight = |_| {
        let counts = fs::read_to_string(&in_flight).unwrap();
        counts.split_whitespace().any(|count| count != "0")
    };
    fences(&file_system, &image, is_in_flight);
}
