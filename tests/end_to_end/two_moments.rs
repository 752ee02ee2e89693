//! An image of which more has changed than a crash can leave, or that was written after a clean
//! stop: it is said at the start.

use std::fs::{File, FileTimes, OpenOptions};
use std::os::unix::fs::FileExt;
use std::time::{Duration, SystemTime};

use crate::harness::{Backend, Image, Queue, Setup, crash, finish, pattern, serve_command};

const BLOCK: usize = 4096;
const MIB: u64 = 1 << 20;
/// An image of this size may have 1024 blocks in doubt that the log does not name.
const SIZE: u64 = 16 * MIB;
const DOUBT_MAX: usize = 1024;
const REGIONS: u64 = 8;

/// A block of each of some regions, flushed; twice, for the log says of the first ones that they
/// were durable.
fn work(queue: &mut Queue, attempt: u64) {
    for round in 0..2 {
        for region in 0..REGIONS {
            queue.write(region * MIB / 512, &pattern(attempt + round, BLOCK));
        }
        queue.flush();
    }
}

/// Writes to the image behind the first block, as another program does.
fn overwrite(image: &Image, blocks: usize) {
    let file = OpenOptions::new().write(true).open(image.path()).unwrap();
    file.write_all_at(&pattern(77, blocks * BLOCK), BLOCK as u64).unwrap();
}

#[test]
fn more_than_a_crash_can_leave_is_refused_and_can_be_accepted() {
    let image = Image::create(SIZE);
    crash(&image, &[], 2, work);
    overwrite(&image, DOUBT_MAX + 200);
    let before = std::fs::read(image.sidecar_path()).unwrap();
    let reason = "match none of the tuples that they may have, and a crash leaves no more than 1024";
    let check = finish(&mut image.command("check"));
    assert_eq!(check.code, Some(4), "{}", check.stdout);
    assert!(check.stdout.contains(reason), "{}", check.stdout);
    let directory = tempfile::tempdir().unwrap();
    for args in [&[][..], &["--read-only"]] {
        let served = finish(&mut serve_command(&directory.path().join("socket"), &image, args));
        assert_eq!(served.code, Some(4), "{}", served.stderr);
        assert!(served.stderr.contains(reason), "{}", served.stderr);
        assert!(served.stderr.trim_end().ends_with("`stableblk accept --force`"), "{}", served.stderr);
    }
    assert!(std::fs::read(image.sidecar_path()).unwrap() == before, "a refused sidecar was written");

    let accepted = finish(image.command("accept").args(["--force", "--adopted"]));
    assert_eq!(accepted.code, Some(0), "{}", accepted.stderr);
    assert!(accepted.stdout.contains(reason) && accepted.stdout.contains("LBA 1-"), "{}", accepted.stdout);
    assert_eq!(finish(&mut image.command("check")).code, Some(0));
    Backend::serve(&image, &[]).stop();
}

#[test]
fn what_a_crash_can_leave_is_adopted_and_can_be_accepted() {
    let image = Image::create(SIZE);
    crash(&image, &[], 2, work);
    overwrite(&image, DOUBT_MAX / 4);
    let check = finish(&mut image.command("check"));
    assert_eq!(check.code, Some(3), "{}", check.stdout);
    let log = Backend::serve(&image, &[]).stop();
    assert!(log.contains("accept them with `stableblk accept --adopted`"), "{log}");
    assert_eq!(image.json("info")["adopted_blocks"], 256);

    let accepted = finish(image.command("accept").arg("--adopted"));
    assert_eq!(accepted.code, Some(0), "{}", accepted.stderr);
    assert!(
        accepted.stdout.starts_with("LBA 1-255\nLBA 256\n") || accepted.stdout.starts_with("LBA 1-256\n"),
        "{}",
        accepted.stdout
    );
    assert_eq!(image.json("info")["adopted_blocks"], 0);
    assert_eq!(finish(&mut image.command("check")).code, Some(0));
    let again = finish(image.command("accept").arg("--adopted"));
    assert!(again.stdout.contains(": 0 blocks were adopted"), "{}", again.stdout);
}

#[test]
fn an_image_that_was_written_after_a_clean_stop_is_reported_at_the_start() {
    let mut vm = Setup::disk(SIZE).start();
    vm.queue.write(0, &pattern(1, 1 << 20));
    drop(vm.frontend);
    vm.backend.stop();
    let log = Backend::serve(&vm.image, &[]).stop();
    assert!(!log.contains("after its sidecar was closed"), "{log}");

    let touched = FileTimes::new().set_modified(SystemTime::UNIX_EPOCH + Duration::from_secs(1));
    File::open(vm.image.path()).unwrap().set_times(touched).unwrap();
    let log = Backend::serve(&vm.image, &["--read-only"]).stop();
    assert!(log.contains("sampled blocks all match"), "{log}");

    overwrite(&vm.image, 200);
    let log = Backend::serve(&vm.image, &[]).stop();
    assert!(log.contains("WARN") && log.contains("sampled blocks do not match"), "{log}");
}
