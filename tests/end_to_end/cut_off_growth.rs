//! An image that has grown, and a sidecar that has not: a back-end that was killed while it made a
//! disk larger leaves them so.

use std::fs::{self, OpenOptions};
use std::process::Command;

use rustix::fs::removexattr;

use crate::harness::{
    Backend, Image, LoopDevice, PROGRAM, Setup, finish, pattern, serve_command, wait_until,
};

const MIB: u64 = 1 << 20;
/// Its last tuples lie in the middle of a page of the array.
const OLD: u64 = 4 * MIB;
const NEW: u64 = 9 * MIB;
const SECTOR: u64 = 512;

/// As a killed growth leaves it: the image and the file of the sidecar have their new sizes.
fn cut_off() -> Image {
    let mut vm = Setup::disk(OLD).start();
    vm.queue.write(0, &pattern(1, 1 << 20));
    vm.queue.flush();
    vm.backend.kill();
    let extend = |path, size| OpenOptions::new().write(true).open(path).unwrap().set_len(size).unwrap();
    extend(vm.image.path().to_owned(), NEW);
    let sidecar = vm.image.sidecar_path();
    extend(sidecar.clone(), fs::metadata(sidecar).unwrap().len() + (64 << 10));
    vm.image
}

#[test]
fn the_disk_is_served_and_its_growth_is_finished() {
    let image = cut_off();
    let found = "9437184 bytes, of which its sidecar covers 4194304";
    for command in ["check", "info"] {
        let done = finish(&mut image.command(command));
        assert_eq!(done.code, Some(0), "{}{}", done.stdout, done.stderr);
        assert!(done.stderr.contains(found), "{}", done.stderr);
    }

    let backend = Backend::serve(&image, &[]);
    let has_grown = || backend.ask(&["status"])["bytes"] == NEW;
    wait_until(has_grown, || format!("the disk has {} bytes", backend.ask(&["status"])["bytes"]));
    let mut frontend = backend.connect();
    let mut queue = frontend.queue(0);
    assert!(queue.read(0, 1 << 20) == pattern(1, 1 << 20));
    queue.write((NEW - MIB) / SECTOR, &pattern(2, 1 << 20));
    drop(frontend);
    let log = backend.stop();
    assert!(log.contains(found) && log.contains("the disk has grown"), "{log}");
    image.assert_clean();
    assert_eq!(image.json("info")["blocks"], NEW / 4096);
}

#[test]
fn a_reader_gets_what_the_sidecar_covers() {
    let image = cut_off();
    let backend = Backend::serve(&image, &["--read-only"]);
    assert_eq!(backend.ask(&["status"])["bytes"], OLD);
    let mut frontend = backend.connect();
    assert!(frontend.queue(0).read(0, 1 << 20) == pattern(1, 1 << 20));
    drop(frontend);
    backend.stop();
    assert_eq!(image.json("info")["blocks"], OLD / 4096);
}

#[test]
fn an_image_without_its_uuid_is_not_followed() {
    let image = cut_off();
    removexattr(image.path(), "user.stableblk.uuid").unwrap();
    let directory = tempfile::tempdir().unwrap();
    let served = finish(&mut serve_command(&directory.path().join("socket"), &image, &[]));
    assert_eq!(served.code, Some(78), "{}", served.stderr);
    assert!(served.stderr.contains("follow a grown image with `stableblk resize`"), "{}", served.stderr);
}

/// A block device carries no UUID: its data shows whose sidecar it is.
#[test]
fn a_larger_device_that_holds_another_disk_is_refused() {
    let (Some(device), Some(other)) = (LoopDevice::new(OLD), LoopDevice::new(NEW)) else { return };
    let image = Image::of(device.path());
    fs::write(device.path(), pattern(1, usize::try_from(OLD).unwrap())).unwrap();
    fs::write(other.path(), pattern(2, usize::try_from(NEW).unwrap())).unwrap();
    let protected = finish(&mut image.command("protect"));
    assert_eq!(protected.code, Some(0), "{}", protected.stderr);
    let directory = tempfile::tempdir().unwrap();
    let mut serve = Command::new(PROGRAM);
    serve.arg("--socket-path").arg(directory.path().join("socket")).arg("--blk-file").arg(other.path());
    let refused = finish(serve.arg("--integrity").arg(image.sidecar_path()));
    assert_eq!(refused.code, Some(78), "{}", refused.stderr);
    assert!(refused.stderr.contains("is the sidecar of an image of 4194304 bytes"), "{}", refused.stderr);
    image.assert_clean();
}
