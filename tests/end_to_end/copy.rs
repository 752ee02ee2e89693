//! Copies of a disk that was killed, and of one that is served.

use std::path::Path;
use std::process::Command;

use crate::harness::{Backend, CheckedFileSystem, Finished, Image, PROGRAM, finish, pattern};

const SIZE: u64 = 16 << 20;

/// Checks the image at `path`, which has its sidecar beside it.
fn check(path: &Path) -> Finished {
    finish(Command::new(PROGRAM).arg("check").arg(path))
}

#[test]
fn an_image_whose_writer_was_killed_is_copied_as_recovery_would_leave_it() {
    let directory = tempfile::tempdir().unwrap();
    let image = Image::create(SIZE);
    let backend = Backend::serve(&image, &[]);
    backend.connect().queue(0).write(8, &pattern(1, 1 << 20));
    backend.kill();
    image.wait_until_closed();
    assert_eq!(image.json("info")["state"], "dirty");
    let copy = directory.path().join("copy");
    let copied = finish(image.command("copy").arg(&copy));
    assert_eq!(copied.code, Some(0), "{}{}", copied.stdout, copied.stderr);
    // nothing was changed
    assert_eq!(image.json("info")["state"], "dirty");
    // data that was not flushed is adopted, as recovery of the image does
    let checked = check(&copy);
    assert_eq!(checked.code, Some(3), "{}{}", checked.stdout, checked.stderr);
    assert!(checked.stdout.contains("LBA 1-256: adopted"), "{}", checked.stdout);
    assert!(std::fs::read(&copy).unwrap()[4096..][..1 << 20] == pattern(1, 1 << 20));
}

#[test]
fn an_image_that_is_served_is_not_copied_behind_the_back_of_its_server() {
    let image = Image::create(SIZE);
    let backend = Backend::serve(&image, &[]);
    let copied = finish(image.command("copy").arg(image.directory().join("copy")));
    assert_eq!(copied.code, Some(2));
    assert!(copied.stderr.contains("in use by stableblk"), "{}", copied.stderr);
    backend.stop();
}

#[test]
fn a_served_disk_is_copied_by_clones_of_one_moment() {
    let Some(btrfs) = CheckedFileSystem::mount() else { return };
    let image = Image::create_in(&btrfs.root(), SIZE, &[]);
    let backend = Backend::serve(&image, &[]);
    let mut frontend = backend.connect();
    let mut queue = frontend.queue(0);
    queue.write(0, &pattern(1, 1 << 20));
    let copy = btrfs.root().join("copy");
    let report = backend.ask(&["copy", copy.to_str().unwrap()]);
    assert_eq!((&report["reflink"], &report["mismatched_blocks"]), (&true.into(), &0.into()));
    assert_eq!(backend.ask(&["status"])["frozen_s"], serde_json::Value::Null);
    // the disk continues, and the copy stays
    queue.write(0, &pattern(2, 1 << 20));
    assert_eq!(check(&copy).code, Some(0));
    assert!(std::fs::read(&copy).unwrap()[..1 << 20] == pattern(1, 1 << 20));
    assert!(queue.read(0, 1 << 20) == pattern(2, 1 << 20));
    // it is another disk
    let uuid = image.json("info")["uuid"].as_str().unwrap().to_owned();
    let info = finish(Command::new(PROGRAM).args(["info", "--json"]).arg(&copy));
    assert!(!info.stdout.contains(&uuid), "{}", info.stdout);
    drop(frontend);
    backend.stop();
}

#[test]
fn a_file_system_without_clones_is_named_and_the_disk_goes_on() {
    let directory = tempfile::tempdir_in("/dev/shm").unwrap();
    let image = Image::create(SIZE);
    let backend = Backend::serve(&image, &[]);
    let mut frontend = backend.connect();
    let mut queue = frontend.queue(0);
    let copied = backend.ctl(&["copy", directory.path().join("copy").to_str().unwrap()]);
    assert_eq!(copied.code, Some(1));
    assert!(copied.stderr.contains("cannot clone files"), "{}", copied.stderr);
    assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0);
    queue.write(0, &pattern(2, 4096));
    drop(frontend);
    backend.stop();
}
