//! An XFS on a loop device, where the machine has no directory on one.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use tempfile::TempDir;

use crate::error::BenchError;
use crate::process::output_of;

/// The smallest that mkfs.xfs makes.
const SMALLEST: u64 = 300 << 20;
/// Room for the file system's own log, and for files beside an image.
const OVERHEAD: u64 = 256 << 20;
const LIMIT: Duration = Duration::from_secs(60);

/// A mounted file system, with the file that it is in. Both go when it is dropped.
#[derive(Debug)]
pub(crate) struct Xfs {
    /// Removed last, when nothing is mounted in it.
    directory: TempDir,
}

impl Xfs {
    /// Bytes of the file for images of `size` bytes and their sidecars.
    pub(crate) fn file_size(size: u64) -> u64 {
        (size + size / 16 + OVERHEAD).max(SMALLEST)
    }

    /// One with room for `size` bytes, in a file in `directory`.
    pub(crate) fn mount(directory: &Path, size: u64) -> Result<Self, BenchError> {
        let in_directory = tempfile::Builder::new().prefix("stableblk-bench-xfs.").tempdir_in(directory);
        let xfs =
            Self { directory: in_directory.map_err(BenchError::file("make a directory in", directory))? };
        let (file, root) = (xfs.file(), xfs.root());
        File::create_new(&file)
            .and_then(|made| made.set_len(Self::file_size(size)))
            .map_err(BenchError::file("create", &file))?;
        fs::create_dir(&root).map_err(BenchError::file("create", &root))?;
        xfs.run("mkfs.xfs", &["-q".as_ref(), &file])?;
        // without a second page cache below
        let options = ["--find", "--show", "--direct-io=on"].map(Path::new);
        let device = xfs.run("losetup", &[&options[..], &[&file]].concat())?;
        let device = Path::new(device.trim());
        let mounted = xfs.run("mount", &[device, &root]);
        // a device that is still in use is detached when it is unmounted
        let detached = xfs.run("losetup", &["--detach".as_ref(), device]);
        mounted.and(detached).map(|_| xfs)
    }

    pub(crate) fn root(&self) -> PathBuf {
        self.directory.path().join("root")
    }

    fn file(&self) -> PathBuf {
        self.directory.path().join("file")
    }

    fn run(&self, program: &str, args: &[&Path]) -> Result<String, BenchError> {
        let mut command = Command::new(program);
        command.args(args);
        output_of(command, self.directory.path(), LIMIT)
    }
}

impl Drop for Xfs {
    fn drop(&mut self) {
        // fails where nothing is mounted; lazily, since a killed back-end may still be exiting
        let _ = self.run("umount", &["-l".as_ref(), &self.root()]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::{Disk, Storage};

    #[test]
    fn images_fit_into_the_file() {
        assert_eq!(Xfs::file_size(1 << 20), SMALLEST);
        assert!(Xfs::file_size(16 << 30) > (17 << 30));
    }

    #[test]
    fn it_is_an_xfs_and_goes_when_it_is_dropped() {
        let directory = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap();
        let xfs = match Xfs::mount(directory.path(), 1 << 20) {
            Ok(xfs) => xfs,
            Err(reason) => {
                println!("SKIPPED: {reason}");
                return;
            }
        };
        assert_eq!(Disk::refusal(Storage::Xfs, &xfs.root(), 1 << 20), None);
        drop(xfs);
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0);
        let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
        assert!(!mounts.contains(&*directory.path().to_string_lossy()));
    }
}
