//! A block device as the image, its sidecar in a file.

use std::os::unix::fs::FileExt;

use crate::harness::{Backend, Frontend, GuestMemory, IOERR, LoopDevice, OK, finish, pattern};

const MIB: usize = 1 << 20;

#[test]
fn is_served_crashes_and_is_recovered() {
    let Some(device) = LoopDevice::new(16 << 20) else { return };
    device.backing().write_all_at(&pattern(1, MIB), 0).unwrap();
    let image = device.protect();
    let memory = GuestMemory::new();
    let backend = Backend::serve(&image, &[]);
    let mut frontend = Frontend::connect(&backend, &memory);
    let mut queue = frontend.queue(0);
    assert!(queue.read(0, MIB) == pattern(1, MIB), "what it held before");
    queue.write(8192, &pattern(2, MIB));
    queue.flush();
    backend.kill();

    let backend = Backend::serve(&image, &[]);
    let mut frontend = Frontend::connect(&backend, &memory);
    let mut queue = frontend.queue(0);
    assert!(queue.read(0, MIB) == pattern(1, MIB));
    assert!(queue.read(8192, MIB) == pattern(2, MIB));
    drop(frontend);
    let log = backend.stop();
    assert!(log.contains("was not closed cleanly"), "{log}");
    image.assert_clean();
}

#[test]
fn a_device_that_has_grown_is_followed() {
    let Some(device) = LoopDevice::new(4 << 20) else { return };
    device.backing().write_all_at(&pattern(1, MIB), 3 << 20).unwrap();
    let image = device.protect();
    let too_large = finish(image.command("resize").args(["--size", "8M"]));
    assert_eq!(too_large.code, Some(1));
    assert!(too_large.stderr.contains("grow the device first"), "{}", too_large.stderr);

    device.backing().set_len(8 << 20).unwrap();
    // as a volume that was somebody else's before
    device.backing().write_all_at(&pattern(2, MIB), 5 << 20).unwrap();
    device.measure();
    let resized = finish(&mut image.command("resize"));
    assert_eq!(resized.code, Some(0), "{}", resized.stderr);
    image.assert_clean();
    let backend = Backend::serve(&image, &[]);
    let memory = GuestMemory::new();
    let mut frontend = Frontend::connect(&backend, &memory);
    let mut queue = frontend.queue(0);
    let found: Vec<_> = (3..8).map(|mebibyte| queue.read(mebibyte * 2048, MIB)).collect();
    assert!(found == [pattern(1, MIB), vec![0; MIB], pattern(2, MIB), vec![0; MIB], vec![0; MIB]]);
    drop(frontend);
    backend.stop();
}

/// The end of a loop device whose file was cut off gives EIO.
#[test]
fn blocks_that_cannot_be_read_are_named_and_the_others_served() {
    let Some(device) = LoopDevice::new(4 << 20) else { return };
    device.backing().write_all_at(&pattern(1, 4 * MIB), 0).unwrap();
    let image = device.protect();
    device.backing().set_len((2 << 20) + 8192).unwrap();

    let bad: Vec<_> = (514..1024).map(|lba| (lba, "unreadable".to_owned())).collect();
    assert_eq!(image.bad_blocks(), bad);
    let check = finish(&mut image.command("check"));
    assert!(check.stdout.contains("LBA 514-1023 (510 blocks from byte 2105344): cannot be read"));
    assert!(check.stdout.ends_with("510 cannot be read, all others match\n"), "{}", check.stdout);

    let backend = Backend::serve(&image, &[]);
    let memory = GuestMemory::new();
    let mut frontend = Frontend::connect(&backend, &memory);
    let mut queue = frontend.queue(0);
    assert!(queue.read(513 * 8, 4096) == pattern(1, 4 * MIB)[513 * 4096..514 * 4096]);
    assert_eq!(queue.try_read(514 * 8, 4096).0.status, IOERR);
    assert_eq!(queue.try_read(0, MIB).0.status, OK);
    drop(frontend);
    backend.stop();
}
