//! Guest memory that is lost while the disk is served: its file is truncated, or its file system is
//! full.
//!
//! The request that used it fails, the session ends and the log says why. Nothing of the memory
//! that the back-end has in its place reaches the disk.

use std::fs::{self, File};
use std::os::unix::process::ExitStatusExt;

use rustix::fs::{MemfdFlags, memfd_create};
use rustix::process::Signal;
use vhost::vhost_user::VhostUserFrontend;

use crate::harness::inflight::InflightRegion;
use crate::harness::{
    Backend, DirtyLog, IOERR, Image, OK, Process, Request, Setup, SmallFileSystem, pattern, serve_command,
};
use crate::memory_changes::{DIMMS, Dimm};
use crate::skip::skip;

const SIZE: u64 = 16 << 20;

/// Reads at `sector` by a front-end that comes afterwards.
fn read_in_another_session(backend: &Backend, sector: u64) -> Vec<u8> {
    backend.connect().queue(0).read(sector, 4096)
}

#[test]
fn nothing_of_a_truncated_region_reaches_the_disk() {
    let mut vm = Setup::disk(SIZE).start();
    let dimm = Dimm::of(memfd_create("dimm", MemfdFlags::CLOEXEC).unwrap().into(), DIMMS, 1 << 20);
    vm.frontend.protocol.add_mem_region(&dimm.region()).unwrap();
    vm.queue.write(8, &pattern(1, 4096));
    vm.queue.flush();
    dimm.file.set_len(8192).unwrap();
    // one request of memory that is there, and then one out of the memory that is gone
    let scratch = vm.memory.allocate(4096);
    vm.memory.write(scratch, &pattern(2, 4096));
    let good = vm.queue.submit(&Request::write(16, &[(scratch, 4096)]));
    let bad = vm.queue.submit(&Request::write(8, &[(dimm.start + 65536, 4096)]));
    vm.queue.kick();
    let mut completions = vm.queue.wait_all();
    completions.sort_by_key(|completion| completion.head != good);
    let outcomes: Vec<_> =
        completions.iter().map(|completion| (completion.head, completion.status)).collect();
    assert_eq!(outcomes, [(good, OK), (bad, IOERR)]);
    assert!(vm.frontend.reply().is_none(), "the session does not end");
    drop(vm.frontend);
    assert!(read_in_another_session(&vm.backend, 8) == pattern(1, 4096), "the disk holds private memory");
    assert!(read_in_another_session(&vm.backend, 16) == pattern(2, 4096));
    let log = vm.backend.stop();
    let cause = format!(
        "session ended: the memory region at guest address {DIMMS:#x} is lost: the front-end truncated the file to 8192 bytes"
    );
    assert!(log.contains(&cause), "{log}");
    vm.image.assert_clean();
}

/// It needs no hostile front-end: pages of a sparse file are taken at their first use.
#[test]
fn a_read_into_memory_without_room_fails_and_is_not_written_back() {
    let Some(file_system) = SmallFileSystem::mount(4) else {
        return skip("mounting is not allowed");
    };
    let mut vm = Setup::disk(SIZE).start();
    let ram = file_system.path().join("ram");
    let file = File::options().read(true).write(true).create_new(true).open(ram).unwrap();
    let dimm = Dimm::of(file, DIMMS, 64 << 20);
    vm.frontend.protocol.add_mem_region(&dimm.region()).unwrap();
    vm.queue.write(0, &pattern(1, 4096));
    let filler = file_system.fill();
    let head = vm.queue.submit(&Request::read(0, &[(dimm.start + (1 << 20), 4096)]));
    let completion = vm.queue.complete(head);
    assert_eq!(completion.status, IOERR, "the guest has nothing of it");
    fs::remove_file(filler).unwrap();
    assert!(vm.frontend.reply().is_none(), "the session does not end");
    let log = vm.stop_clean();
    assert!(log.contains("is lost: its file system has no space left: make room"), "{log}");
}

/// `--bounce never` without PI: the kernel writes to guest memory itself, and fails there.
#[test]
fn without_a_bounce_a_truncated_region_fails_its_requests_too() {
    let mut vm = Setup::plain_disk(SIZE).options(&["--integrity", "none", "--bounce", "never"]).start();
    let dimm = Dimm::of(memfd_create("dimm", MemfdFlags::CLOEXEC).unwrap().into(), DIMMS, 1 << 20);
    vm.frontend.protocol.add_mem_region(&dimm.region()).unwrap();
    vm.queue.write(8, &pattern(1, 4096));
    dimm.file.set_len(0).unwrap();
    let request = Request::write(8, &[(dimm.start + 65536, 4096)]);
    assert_eq!(vm.queue.execute(&request).status, IOERR);
    drop(vm.frontend);
    assert!(read_in_another_session(&vm.backend, 8) == pattern(1, 4096));
    vm.backend.stop();
}

#[test]
fn rings_in_lost_memory_end_the_session() {
    let mut vm = Setup::disk(SIZE).start();
    vm.queue.write(0, &pattern(1, 4096));
    vm.memory.truncate();
    vm.queue.kick();
    assert!(vm.frontend.reply().is_none(), "the session does not end");
    assert!(read_in_another_session(&vm.backend, 0) == pattern(1, 4096));
    let log = vm.backend.stop();
    assert!(log.contains("queue retired: memory that the front-end shares is lost"), "{log}");
    assert!(log.contains("is lost: the front-end truncated the file to 0 bytes"), "{log}");
    vm.image.assert_clean();
}

#[test]
fn a_lost_in_flight_region_ends_the_session() {
    let mut vm = Setup::disk(SIZE).connect();
    let region = InflightRegion::make(1, 256);
    region.give_to(&mut vm.frontend);
    let mut queue = vm.frontend.queue(0);
    queue.write(0, &pattern(1, 4096));
    region.file.set_len(0).unwrap();
    queue.submit(&Request::flush());
    queue.kick();
    assert!(vm.frontend.reply().is_none(), "the session does not end");
    let log = vm.stop_clean();
    assert!(
        log.contains("the in-flight region is lost: the front-end truncated the file to 0 bytes"),
        "{log}"
    );
}

/// A migration would miss what is written afterwards.
#[test]
fn a_lost_dirty_log_ends_the_session() {
    let mut vm = Setup::disk(SIZE).start();
    let log = DirtyLog::new();
    vm.frontend.log_to(&log);
    vm.frontend.log_writes(true);
    log.truncate();
    vm.queue.submit(&Request::flush());
    vm.queue.kick();
    assert!(vm.frontend.reply().is_none(), "the session does not end");
    let log = vm.stop_clean();
    assert!(log.contains("the dirty log is lost: the front-end truncated the file to 0 bytes"), "{log}");
}

/// As the default action would: a back-end that lived on would have no handler any more.
#[test]
fn a_bus_error_that_is_sent_ends_the_process() {
    let image = Image::create(SIZE);
    let directory = tempfile::tempdir().unwrap();
    let mut process = Process::start(&mut serve_command(&directory.path().join("socket"), &image, &[]));
    process.stderr().wait_for("serving");
    process.signal(Signal::BUS);
    assert_eq!(process.wait().signal(), Some(Signal::BUS.as_raw()));
}
