//! An image that somebody has locked.

use std::fs;
use std::path::Path;
use std::process::{ChildStdin, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use guest::limited;
use rustix::fs::{FlockOperation, flock};

use crate::directory::{Directory, open};

/// How long a holder that is on its way out is waited for.
const EXIT_WAIT: Duration = Duration::from_secs(5);

#[test]
fn image_in_use_is_refused_by_its_holder() {
    let directory = Directory::protected("");
    let image = open(&directory.path("disk"));
    flock(&image, FlockOperation::NonBlockingLockExclusive).unwrap();
    let me = format!("(pid {})", std::process::id());
    let is_not_waited_for = |arguments, code| {
        let start = Instant::now();
        directory.stableblk(arguments).fails(code, &["disk is in use by", &me]);
        start.elapsed() < EXIT_WAIT
    };
    // a command that waits takes that time in each run; one that does not wait may on a busy
    // machine
    for (arguments, code) in [("check disk", 2), ("protect disk --force", 1)] {
        assert!((0..10).any(|_| is_not_waited_for(arguments, code)), "a living holder is waited for");
    }
    let info = directory.stableblk("info disk --json").succeeds().json();
    assert!(info["in_use_by"].as_str().unwrap().contains(&me));
}

#[test]
fn readers_do_not_exclude_each_other() {
    let directory = Directory::protected("");
    let image = open(&directory.path("disk"));
    flock(&image, FlockOperation::NonBlockingLockShared).unwrap();
    directory.stableblk("check disk").succeeds();
    directory.stableblk("protect disk --force").fails(1, &["disk is in use by"]);
}

/// Locks `disk` and is killed, while the open file description lives on, as requests of `io_uring`
/// keep it, until what is returned is dropped.
fn lock_and_die(directory: &Directory) -> ChildStdin {
    let mut holder = Command::new("flock");
    let mut holder =
        holder.current_dir(directory.0.path()).args(["disk", "cat"]).stdin(Stdio::piped()).spawn().unwrap();
    let image = open(&directory.path("disk"));
    let is_locked = || {
        let refused = flock(&image, FlockOperation::NonBlockingLockShared).is_err();
        refused || flock(&image, FlockOperation::Unlock).is_err()
    };
    until(is_locked, "the lock of another process");
    // it has the lock, but may not have started `cat`
    until(|| !children(holder.id()).is_empty(), "the program that flock starts");
    // waiting for it would close it
    let lock = holder.stdin.take().unwrap();
    limited::end(&mut holder);
    lock
}

fn until(condition: impl Fn() -> bool, what: &str) {
    let deadline = Instant::now() + limited::TIME_LIMIT;
    while !condition() {
        assert!(Instant::now() < deadline, "this does not come: {what}");
        thread::sleep(Duration::from_millis(5));
    }
}

fn children(pid: u32) -> String {
    fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap()
}

fn has_open(pid: u32, path: &Path) -> bool {
    let files = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
    let path = path.canonicalize().unwrap();
    files.filter_map(|file| fs::read_link(file.path()).ok()).any(|open| open == path)
}

#[test]
fn lock_of_a_process_that_was_killed_is_waited_for() {
    let directory = Directory::protected("");
    let lock = lock_and_die(&directory);
    let mut check = directory.command("check disk");
    let mut check = check.stdout(Stdio::null()).spawn().unwrap();
    until(|| has_open(check.id(), &directory.path("disk")), "an open image");
    assert_eq!(check.try_wait().unwrap(), None, "it did not wait");
    drop(lock);
    assert!(limited::wait(&mut check).unwrap().success());
}

#[test]
fn lock_that_outlives_its_process_for_long_is_reported() {
    let directory = Directory::protected("");
    let _lock = lock_and_die(&directory);
    directory.stableblk("check disk").fails(2, &["disk is in use by a process that is exiting"]);
}
