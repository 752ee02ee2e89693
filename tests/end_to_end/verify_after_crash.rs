//! A disk of which a crash has left much in doubt: it is served at once, and verified meanwhile.

use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;

use crate::harness::{Backend, Image, Setup, pattern, wait_until};

const MIB: u64 = 1 << 20;
const SIZE: u64 = 2 << 30;
/// A block is written in each of these regions, more than are verified before a disk is served.
const REGIONS: u64 = 400;

/// The first sector of the block that is written in region `number`.
fn sector(number: u64) -> u64 {
    number * 4 * MIB / 512
}

/// A disk that was written to all over, and whose back-end was killed.
fn crashed() -> Image {
    let mut vm = Setup::disk(SIZE).start();
    for number in 0..REGIONS {
        vm.queue.write(sector(number), &pattern(number, 4096));
    }
    vm.queue.flush();
    vm.backend.kill();
    vm.image
}

/// Changes the third block of a region as a write that was cut off does.
fn tear(image: &Image, number: u64) {
    let file = OpenOptions::new().write(true).open(image.path()).unwrap();
    file.write_all_at(&pattern(99, 4096), sector(number) * 512 + 8192).unwrap();
}

fn unverified(backend: &Backend) -> u64 {
    backend.ask(&["status"])["crash_doubt"]["unverified_bytes"].as_u64().unwrap()
}

fn wait_until_verified(backend: &Backend) {
    wait_until(|| unverified(backend) == 0, || format!("still in doubt: {}", backend.ask(&["status"])));
}

#[test]
fn a_crashed_disk_is_served_while_it_is_verified() {
    let image = crashed();
    let mut vm = Setup::of(image).start();
    // the last region is verified first, since the guest asks for it
    assert!(vm.queue.read(sector(REGIONS - 1), 4096) == pattern(REGIONS - 1, 4096));
    vm.queue.write(sector(REGIONS - 2), &pattern(7, 4096));
    for number in 0..REGIONS - 2 {
        assert!(vm.queue.read(sector(number), 4096) == pattern(number, 4096), "region {number}");
    }
    vm.backend.log().wait_for("MiB of the image may have been written last; they are verified from now on");
    wait_until_verified(&vm.backend);
    let status = vm.backend.ask(&["status"]);
    let doubt = &status["crash_doubt"];
    assert!(doubt["left_by_crash_bytes"].as_u64().unwrap() >= REGIONS * MIB, "{status}");
    assert_eq!(doubt["limit_bytes"], 16u64 << 30, "the default");
    drop(vm.frontend);
    let log = vm.backend.stop();
    assert!(log.contains("MiB that may have been written last before the crash are verified"), "{log}");
    assert_eq!(vm.image.json("info")["state"], "clean");
    vm.image.assert_clean();
}

#[test]
fn a_write_that_was_cut_off_is_adopted_when_it_is_read() {
    let image = crashed();
    tear(&image, 300);
    let mut vm = Setup::of(image).start();
    assert!(vm.queue.read(sector(300) + 16, 4096) == pattern(99, 4096));
    wait_until_verified(&vm.backend);
    drop(vm.frontend);
    let log = vm.backend.stop();
    assert!(log.contains("1 blocks hold no write that was flushed"), "{log}");
    assert_eq!(vm.image.json("info")["adopted_blocks"], 1);
}

#[test]
fn what_a_short_session_does_not_verify_the_next_does() {
    let image = crashed();
    tear(&image, 390);
    // it may or may not come to the end
    Backend::serve(&image, &[]).stop();
    Backend::serve(&image, &[]).kill();
    let vm = Setup::of(image).start();
    wait_until_verified(&vm.backend);
    drop(vm.frontend);
    vm.backend.stop();
    let info = vm.image.json("info");
    assert_eq!((&info["state"], &info["adopted_blocks"]), (&"clean".into(), &1.into()));
}

#[test]
fn the_limit_of_what_a_crash_leaves_can_be_chosen() {
    let mut vm = Setup::disk(SIZE).options(&["--doubt-limit", "64M", "--tuple-cache", "1M"]).start();
    for number in 0..REGIONS {
        vm.queue.write(sector(number), &pattern(number, 4096));
    }
    let marked = || vm.backend.ask(&["status"])["crash_doubt"]["marked_bytes"].as_u64().unwrap();
    wait_until(|| marked() <= 64 * MIB, || format!("{} MiB are marked", marked() / MIB));
    vm.backend.stop();
}
