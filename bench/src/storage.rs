//! The disks that are measured: a raw image with two sidecars, on the file system that a figure is
//! to be of.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use clap::ValueEnum;
use rustix::fs::{Advice, FsWord, fadvise, removexattr, statfs, statvfs};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};
use tempfile::TempDir;

use crate::content;
use crate::error::BenchError;
use crate::process::output_of;

/// Reading and checksumming the whole image.
const PROTECT_TIME: Duration = Duration::from_secs(600);
/// `f_type` of statfs(2).
const TMPFS_MAGIC: FsWord = 0x0102_1994;
const EXT4_MAGIC: FsWord = 0xEF53;
const XFS_MAGIC: FsWord = 0x5846_5342;

/// The storage behind a disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Storage {
    /// Nothing
    Null,
    /// A file in memory
    Tmpfs,
    /// A file on a disk
    Ext4,
    /// A file on another file system
    Xfs,
    /// A large file on a disk, as large as disks are
    Large,
}

impl Storage {
    pub(crate) const ALL: [Self; 5] = [Self::Null, Self::Tmpfs, Self::Ext4, Self::Xfs, Self::Large];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Null => "null",
            Self::Tmpfs => "tmpfs",
            Self::Ext4 => "ext4",
            Self::Xfs => "xfs",
            Self::Large => "large",
        }
    }

    fn magic(self) -> Option<FsWord> {
        match self {
            Self::Null => None,
            Self::Tmpfs => Some(TMPFS_MAGIC),
            Self::Ext4 | Self::Large => Some(EXT4_MAGIC),
            Self::Xfs => Some(XFS_MAGIC),
        }
    }
}

/// A disk's files, which go with it.
#[derive(Debug)]
pub(crate) struct Disk {
    pub(crate) storage: Storage,
    pub(crate) size: u64,
    directory: TempDir,
}

impl Disk {
    /// Makes an image of `size` bytes in `directory`, written whole, and its sidecars; for
    /// [`Storage::Null`] an empty one.
    pub(crate) fn new(
        storage: Storage,
        directory: &Path,
        size: u64,
        stableblk: &Path,
    ) -> Result<Self, BenchError> {
        fs::create_dir_all(directory).map_err(BenchError::file("create", directory))?;
        let directory = tempfile::Builder::new().prefix("stableblk-bench.").tempdir_in(directory);
        let directory = directory.map_err(BenchError::file("make a directory in", Path::new(".")))?;
        let disk = Self { storage, size, directory };
        disk.write_image()?;
        for (guard, sidecar) in disk.sidecars() {
            let mut protect = Command::new(stableblk);
            protect.arg("protect").arg(disk.image()).arg("--integrity").arg(sidecar).args(["--guard", guard]);
            output_of(protect, disk.directory.path(), PROTECT_TIME)?;
            disk.forget_uuid()?;
        }
        Ok(disk)
    }

    /// A sparse image of `size` bytes in `directory`, with one sidecar.
    pub(crate) fn sparse(directory: &Path, size: u64, stableblk: &Path) -> Result<Self, BenchError> {
        let made = tempfile::Builder::new().prefix("stableblk-bench.").tempdir_in(directory);
        let made = made.map_err(BenchError::file("make a directory in", directory))?;
        let disk = Self { storage: Storage::Tmpfs, size, directory: made };
        let image = disk.image();
        File::create(&image)
            .and_then(|file| file.set_len(size))
            .map_err(BenchError::file("create", &image))?;
        let mut protect = Command::new(stableblk);
        protect.arg("protect").arg(&image).arg("--integrity").arg(disk.crc64_sidecar());
        output_of(protect, disk.directory.path(), PROTECT_TIME)?;
        disk.forget_uuid()?;
        Ok(disk)
    }

    /// Why disks of `storage` cannot be in `directory`, if they cannot.
    pub(crate) fn refusal(storage: Storage, directory: &Path, size: u64) -> Option<String> {
        let there = directory.ancestors().find(|path| path.exists()).unwrap_or(Path::new("/"));
        let shown = directory.display();
        let found = match statfs(there) {
            Ok(found) => found,
            Err(error) => return Some(format!("{shown}: {error}")),
        };
        if storage.magic().is_some_and(|magic| magic != found.f_type) {
            return Some(format!("{shown} is not on {}: name another directory", storage.name()));
        }
        let stores = storage != Storage::Null;
        let free = statvfs(there);
        let free = free.map_or(0, |free| free.f_bavail * free.f_frsize);
        (stores && free < size + size / 16).then(|| format!("{shown} has only {} MiB left", free >> 20))
    }

    pub(crate) fn image(&self) -> PathBuf {
        self.directory.path().join("disk.raw")
    }

    pub(crate) fn crc64_sidecar(&self) -> PathBuf {
        self.directory.path().join("crc64.pi")
    }

    /// The sidecars, each with its guard. A large disk has one: reading it whole takes long.
    fn sidecars(&self) -> Vec<(&'static str, PathBuf)> {
        let crc64 = ("crc64", self.crc64_sidecar());
        match self.storage {
            Storage::Large => vec![crc64],
            _ => vec![crc64, ("t10", self.t10_sidecar())],
        }
    }

    /// Drops the sidecar from the page cache, as after a start of the machine.
    pub(crate) fn cool(&self) -> Result<(), BenchError> {
        let path = self.crc64_sidecar();
        let dropped = File::open(&path).and_then(|file| {
            file.sync_all()?;
            fadvise(&file, 0, None, Advice::DontNeed)?;
            Ok(())
        });
        dropped.map_err(BenchError::file("drop from the page cache", &path))
    }

    pub(crate) fn t10_sidecar(&self) -> PathBuf {
        self.directory.path().join("t10.pi")
    }

    /// Verifies that the image still is what both sidecars say, after all that was written to it.
    pub(crate) fn check(&self, stableblk: &Path) -> Result<(), BenchError> {
        for (_, sidecar) in self.sidecars() {
            let mut check = Command::new(stableblk);
            check.arg("check").arg(self.image()).arg("--integrity").arg(sidecar);
            output_of(check, self.directory.path(), PROTECT_TIME)?;
        }
        Ok(())
    }

    fn write_image(&self) -> Result<(), BenchError> {
        let path = self.image();
        match self.storage {
            Storage::Tmpfs | Storage::Ext4 | Storage::Xfs | Storage::Large => {
                content::create(&path, self.size)
            }
            Storage::Null => File::create(&path)
                .and_then(|file| file.set_len(self.size))
                .map_err(BenchError::file("create", &path)),
        }
    }

    /// The image carries the UUID of its sidecar, by which another one would be refused, and
    /// `protect` too.
    fn forget_uuid(&self) -> Result<(), BenchError> {
        match removexattr(self.image(), "user.stableblk.uuid") {
            // a file system without such attributes
            Ok(()) | Err(Errno::NODATA | Errno::NOTSUP) => Ok(()),
            Err(error) => Err(BenchError::file("change the attributes of", &self.image())(error.into())),
        }
    }
}
