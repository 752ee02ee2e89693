//! Storage that accepts data into the page cache and then cannot store it, for tests.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

/// A loop device that has 8 MiB, but room for one.
pub(crate) struct ThinDevice {
    path: PathBuf,
    directory: TempDir,
}

impl ThinDevice {
    /// Attaches one. `None`, with a note that the test is skipped, where mounts or loop devices are
    /// not allowed.
    pub(crate) fn attach() -> Option<Self> {
        Self::attach_with(8 << 20)
    }

    /// As [`Self::attach`], for a device of `size` bytes.
    pub(crate) fn attach_with(size: u64) -> Option<Self> {
        let device = Self::try_attach(size);
        if device.is_none() {
            crate::skip::skip("mounts and loop devices are not allowed");
        }
        device
    }

    /// The path of the device.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Cuts its backing file off at `len` bytes: blocks behind that cannot be read until they are
    /// written.
    pub(crate) fn cut_off(&self, len: u64) {
        let backing = File::options().write(true).open(self.directory.path().join("backing")).unwrap();
        backing.set_len(len).unwrap();
    }

    fn try_attach(size: u64) -> Option<Self> {
        let directory = tempfile::tempdir().unwrap();
        let mount = ["-t", "tmpfs", "-o", "size=1m", "tmpfs"];
        let mounted = Command::new("mount").args(mount).arg(directory.path()).status();
        if !mounted.is_ok_and(|status| status.success()) {
            return None;
        }
        let mut device = Self { path: PathBuf::new(), directory };
        let backing = device.directory.path().join("backing");
        File::create(&backing).unwrap().set_len(size).unwrap();
        let attached = Command::new("losetup").args(["--find", "--show"]).arg(backing).output().ok()?;
        let path = String::from_utf8(attached.stdout).unwrap();
        device.path = PathBuf::from(path.trim_end());
        attached.status.success().then_some(device)
    }
}

impl Drop for ThinDevice {
    fn drop(&mut self) {
        let _ = Command::new("losetup").arg("--detach").arg(&self.path).status();
        let _ = Command::new("umount").arg("--lazy").arg(self.directory.path()).status();
    }
}
