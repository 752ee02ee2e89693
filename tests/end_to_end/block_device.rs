//! A block device as the image, its sidecar in a file.

use std::os::unix::fs::FileExt;

use crate::harness::{IOERR, LoopDevice, OK, Setup, finish, pattern};

const MIB: usize = 1 << 20;

#[test]
fn a_device_is_recovered_after_a_crash() {
    let Some(device) = LoopDevice::new(16 << 20) else { return };
    device.backing().write_all_at(&pattern(1, MIB), 0).unwrap();
    let image = device.protect();
    let mut vm = Setup::of(&image).start();
    assert!(vm.queue.read(0, MIB) == pattern(1, MIB), "what it held before");
    vm.queue.write(8192, &pattern(2, MIB));
    vm.queue.flush();
    vm.backend.kill();

    let mut vm = Setup::of(&image).start();
    assert!(vm.queue.read(0, MIB) == pattern(1, MIB));
    assert!(vm.queue.read(8192, MIB) == pattern(2, MIB));
    drop(vm.frontend);
    let log = vm.backend.stop();
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
    // as a volume that was used before
    device.backing().write_all_at(&pattern(2, MIB), 5 << 20).unwrap();
    device.measure();
    let resized = finish(&mut image.command("resize"));
    assert_eq!(resized.code, Some(0), "{}", resized.stderr);
    image.assert_clean();
    let mut vm = Setup::of(&image).start();
    let found: Vec<_> = (3..8).map(|mebibyte| vm.queue.read(mebibyte * 2048, MIB)).collect();
    assert!(found == [pattern(1, MIB), vec![0; MIB], pattern(2, MIB), vec![0; MIB], vec![0; MIB]]);
    drop(vm.frontend);
    vm.backend.stop();
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

    let mut vm = Setup::of(&image).start();
    assert!(vm.queue.read(513 * 8, 4096) == pattern(1, 4 * MIB)[513 * 4096..514 * 4096]);
    assert_eq!(vm.queue.try_read(514 * 8, 4096).0.status, IOERR);
    assert_eq!(vm.queue.try_read(0, MIB).0.status, OK);
    drop(vm.frontend);
    vm.backend.stop();
}
