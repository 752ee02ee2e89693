//! Descriptors that a front-end shares stay its own: whatever it does to them, the back-end serves
//! others and ends when asked.

use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::chown;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::process::Command;

use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use rustix::process::{PidfdFlags, PidfdGetfdFlags, Signal, geteuid, getpid, pidfd_getfd, pidfd_open};
use vhost::VhostBackend;
use vhost::vhost_user::VhostUserFrontend;
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use crate::harness::{
    Backend, FileSystem, Frontend, Image, Process, Request, Setup, copy_program, pattern, serve_command,
    wait_until,
};
use crate::memory_changes::Dimm;
use crate::skip::skip;

const SIZE: u64 = 16 << 20;

/// Another descriptor of the same description.
fn descriptor_of(event: &EventFd) -> OwnedFd {
    let own = pidfd_open(getpid(), PidfdFlags::empty()).unwrap();
    pidfd_getfd(own, event.as_raw_fd(), PidfdGetfdFlags::empty()).unwrap()
}

/// Makes the next write of `event`, which does not block yet, block.
fn make_blocking(event: &EventFd) {
    let _ = event.read();
    event.write(u64::MAX - 1).unwrap();
    let descriptor = descriptor_of(event);
    fcntl_setfl(&descriptor, fcntl_getfl(&descriptor).unwrap() - OFlags::NONBLOCK).unwrap();
}

/// `O_NONBLOCK` is a flag of the open file description, which both processes have.
#[test]
fn a_call_that_would_block_blocks_nothing() {
    let mut vm = Setup::disk(SIZE).start();
    vm.queue.write(0, &pattern(1, 4096));
    make_blocking(vm.queue.call_fd());
    // the driver polls, and so has its answers; later requests are not delayed either
    for _ in 0..3 {
        vm.queue.submit(&Request::flush());
        vm.queue.kick();
        vm.queue.poll();
    }
    vm.frontend.stop(&vm.queue);
    drop((vm.frontend, vm.queue));
    let mut frontend = vm.backend.connect();
    assert!(frontend.queue(0).read(0, 4096) == pattern(1, 4096));
    drop(frontend);
    vm.backend.stop();
    vm.image.assert_clean();
}

/// Signalled when the queue is given up.
#[test]
fn an_error_descriptor_that_would_block_blocks_nothing() {
    let mut vm = Setup::disk(SIZE).start();
    let error = EventFd::new(EFD_NONBLOCK).unwrap();
    vm.frontend.protocol.set_vring_err(0, &error).unwrap();
    make_blocking(&error);
    // a head that is no descriptor
    let beyond = vm.queue.size();
    vm.queue.driver().make_available(beyond);
    vm.queue.kick();
    vm.backend.log().wait_for("queue retired");
    vm.frontend.stop(&vm.queue);
    drop((vm.frontend, vm.queue));
    vm.backend.stop();
}

/// Each memory region and each queue takes descriptors, and the usual soft limit is 1024.
#[test]
fn all_regions_and_queues_offered_fit_the_hard_limit_of_files() {
    const QUEUES: usize = 64;
    let image = Image::create(SIZE);
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("socket");
    let served = serve_command(&socket, &image, &["--num-queues", &QUEUES.to_string()]);
    let mut command = Command::new("prlimit");
    command.arg("--nofile=256:1024").arg(served.get_program()).args(served.get_args());
    let mut process = Process::start(&mut command);
    process.stderr().wait_for("serving");
    let stream = UnixStream::connect(&socket).unwrap();
    let mut frontend = Frontend::over(stream, process.stderr());
    let slots = frontend.protocol.get_max_mem_slots().unwrap();
    assert!((32..509).contains(&slots), "{slots} memory regions are offered");
    let dimms: Vec<_> = (0..slots - frontend.memory.regions().len() as u64).map(Dimm::new).collect();
    for dimm in &dimms {
        frontend.protocol.add_mem_region(&dimm.region()).unwrap();
    }
    assert!(frontend.protocol.add_mem_region(&Dimm::new(slots).region()).is_err());
    let mut queues: Vec<_> = (0..QUEUES).map(|index| frontend.queue_of_size(index, 16)).collect();
    for (index, queue) in queues.iter_mut().enumerate() {
        let error = EventFd::new(0).unwrap();
        frontend.protocol.set_vring_err(index, &error).unwrap();
        queue.flush();
    }
    dimms.last().unwrap().write_and_read(&mut queues[QUEUES - 1], 8, &pattern(3, 4096));
    drop((queues, frontend));
    process.signal(Signal::TERM);
    assert!(process.wait().success());
    image.assert_clean();
}

/// Sets the soft limit `option` of a running process, as the user that it runs as.
fn limit(pid: u32, user: u32, option: &str, soft: u64) {
    let mut command = Command::new("prlimit");
    command.args([format!("--pid={pid}"), format!("--{option}={soft}:")]);
    if geteuid().is_root() {
        command.uid(user).gid(user);
    }
    assert!(command.status().unwrap().success());
}

/// As when the file table of the whole system is full for a while.
#[test]
fn without_descriptors_front_ends_and_clients_wait_and_are_served_afterwards() {
    let image = Image::create(SIZE);
    let backend = Backend::serve(&image, &[]);
    // it has all that it needs by then
    backend.ask(&["status"]);
    let own = geteuid().as_raw();
    limit(backend.pid(), own, "nofile", 3);
    let client = UnixStream::connect(backend.control()).unwrap();
    backend.log().wait_for("cannot accept on the control socket");
    let waiting = UnixStream::connect(backend.socket()).unwrap();
    backend.log().wait_for("cannot accept a front-end");
    limit(backend.pid(), own, "nofile", 1024);
    drop(client);
    assert_eq!(backend.ask(&["status"])["num_queues"], 64);
    let mut frontend = Frontend::over(waiting, backend.log());
    frontend.queue(0).flush();
    drop(frontend);
    let log = backend.stop();
    // once a second at most, and then the 1st, 2nd, 4th and so on
    let said = log.matches("cannot accept").count();
    assert!(said < 20, "{said} times:\n{log}");
}

#[test]
fn a_thread_that_cannot_be_started_costs_one_front_end() {
    const USER: u32 = 64_999;
    if !geteuid().is_root() {
        return skip("this needs a user of its own for the limit of threads");
    }
    let image = Image::create(SIZE);
    let directory = tempfile::tempdir().unwrap();
    let program = directory.path().join("stableblk");
    copy_program(&program);
    for path in [directory.path(), image.directory(), image.path(), &image.sidecar_path()] {
        chown(path, Some(USER), Some(USER)).unwrap();
    }
    let socket = directory.path().join("socket");
    let mut command = Command::new(&program);
    command.arg("--socket-path").arg(&socket).arg("--blk-file").arg(image.path());
    let mut process = Process::start(command.uid(USER).gid(USER).current_dir("/"));
    process.stderr().wait_for("serving");
    limit(process.pid(), USER, "nproc", 1);
    drop(UnixStream::connect(&socket).unwrap());
    process.stderr().wait_for("cannot serve a front-end");
    limit(process.pid(), USER, "nproc", 1000);
    let stream = UnixStream::connect(&socket).unwrap();
    let mut frontend = Frontend::over(stream, process.stderr());
    frontend.queue(0).flush();
    drop(frontend);
    process.signal(Signal::TERM);
    assert!(process.wait().success());
}

/// A guest would hang at its boot without any message.
#[test]
fn a_ring_in_no_shared_memory_is_reported_with_the_cause() {
    let mut vm = Setup::disk(SIZE).start();
    vm.queue.flush();
    vm.frontend.protocol.set_mem_table(&[Dimm::new(0).region()]).unwrap();
    vm.backend.log().wait_for("the ring is in no memory that the front-end shares");
    let trouble = vm.backend.ask(&["status"])["queues"][0]["ring_trouble"].clone();
    assert!(trouble.as_str().unwrap().contains("share=on"), "{trouble}");
    assert!(vm.backend.ctl(&["status"]).stdout.contains("share=on"));
    // memory that comes later cures it
    vm.frontend.protocol.set_mem_table(&vm.memory.regions()).unwrap();
    assert!(vm.backend.ask(&["status"])["queues"][0]["ring_trouble"].is_null());
    vm.queue.flush();
    drop((vm.frontend, vm.queue));
    let log = vm.backend.stop();
    assert_eq!(log.matches("the ring is in no memory").count(), 1, "{log}");
}

/// As with `share=off`: the front-end shares a file, and its guest writes to a copy of it.
#[test]
fn a_ring_that_is_kicked_and_always_empty_is_reported_with_the_cause() {
    let mut vm = Setup::disk(SIZE).connect();
    let (mut queue, mut other) = (vm.frontend.queue(0), vm.frontend.queue(1));
    other.flush();
    let is_reported = || {
        queue.kick();
        vm.backend.log().so_far().contains("the ring is empty as seen from here")
    };
    wait_until(is_reported, || format!("no report:\n{}", vm.backend.log().so_far()));
    let trouble = |queue: usize| vm.backend.ask(&["status"])["queues"][queue]["ring_trouble"].clone();
    assert!(trouble(0).as_str().unwrap().contains("share=on"), "{}", trouble(0));
    assert!(trouble(1).is_null());
    queue.flush();
    assert!(trouble(0).is_null());
    drop((vm.frontend, queue, other));
    let log = vm.backend.stop();
    assert_eq!(log.matches("as seen from here").count(), 1, "{log}");
}

/// The requests are in the kernel, which waits for a device that does not answer.
#[test]
fn a_stop_that_hangs_ends_with_a_message() {
    let Some(file_system) = FileSystem::mount() else { return };
    let image = Image::create_apart(&file_system.root(), 8 << 20);
    std::fs::write(image.path(), vec![0; 8 << 20]).unwrap();
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("socket");
    let mut process = Process::start(&mut serve_command(&socket, &image, &[]));
    process.stderr().wait_for("serving");
    let stream = UnixStream::connect(&socket).unwrap();
    let mut frontend = Frontend::over(stream, process.stderr());
    let mut queue = frontend.queue(0);
    let frozen = file_system.freeze();
    let buffer = frontend.memory.allocate(4096);
    queue.submit(&Request::write(8, &[(buffer, 4096)]));
    queue.kick();
    // the request is in the device when the worker was asked for it
    process.stderr().wait_for("oldest request");
    process.signal(Signal::TERM);
    process.stderr().wait_for("queue 0 with 1 requests in flight has not stopped after 30 s");
    frozen.thaw();
    assert_eq!(process.wait().code(), Some(1));
    // a write that was not flushed may be there or not; no block is bad
    assert!(image.check(&["--recover"]).bad_blocks().is_empty());
}

/// Nothing is in flight, but the last sync waits for the file system.
#[test]
fn a_last_sync_that_hangs_ends_with_a_message() {
    let Some(file_system) = FileSystem::mount() else { return };
    let image = Image::create_apart(&file_system.root(), 8 << 20);
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("socket");
    let mut process = Process::start(&mut serve_command(&socket, &image, &[]));
    process.stderr().wait_for("serving");
    let stream = UnixStream::connect(&socket).unwrap();
    let mut frontend = Frontend::over(stream, process.stderr());
    frontend.queue(0).write(8, &pattern(1, 1 << 20));
    drop(frontend);
    process.stderr().wait_for("front-end left");
    let frozen = file_system.freeze();
    process.signal(Signal::TERM);
    process.stderr().wait_for("the last sync has not ended after 30 s");
    frozen.thaw();
    assert_eq!(process.wait().code(), Some(1));
    assert!(image.check(&["--recover"]).bad_blocks().is_empty());
}
