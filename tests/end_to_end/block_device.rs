//! A block device as the image, its sidecar in a file.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

use crate::harness::{Backend, Frontend, GuestMemory, IOERR, Image, OK, finish, pattern};

const MIB: usize = 1 << 20;

/// A loop device, detached when dropped.
struct LoopDevice {
    path: PathBuf,
    file: PathBuf,
    _directory: TempDir,
}

impl LoopDevice {
    /// `None` where there is none to be had.
    fn new(size: u64) -> Option<Self> {
        let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let file = directory.path().join("backing");
        File::create_new(&file).unwrap().set_len(size).unwrap();
        let attached = Command::new("losetup").args(["--find", "--show"]).arg(&file).output().ok()?;
        if !attached.status.success() {
            eprintln!("skipped: {}", String::from_utf8_lossy(&attached.stderr).trim());
            return None;
        }
        let path = PathBuf::from(String::from_utf8(attached.stdout).unwrap().trim());
        Some(Self { path, file, _directory: directory })
    }

    fn backing(&self) -> File {
        OpenOptions::new().read(true).write(true).open(&self.file).unwrap()
    }

    /// Gives the device the size that its backing file now has.
    fn measure(&self) {
        assert!(Command::new("losetup").arg("--set-capacity").arg(&self.path).status().unwrap().success());
    }
}

impl Drop for LoopDevice {
    fn drop(&mut self) {
        let _ = Command::new("losetup").arg("--detach").arg(&self.path).status();
    }
}

fn protect(device: &Path) -> Image {
    let image = Image::of(device);
    let protected = finish(&mut image.command("protect"));
    assert_eq!(protected.code, Some(0), "{}", protected.stderr);
    image
}

#[test]
fn is_served_crashes_and_is_recovered() {
    let Some(device) = LoopDevice::new(16 << 20) else { return };
    device.backing().write_all_at(&pattern(1, MIB), 0).unwrap();
    let image = protect(&device.path);
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
    let image = protect(&device.path);
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
    let image = protect(&device.path);
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
