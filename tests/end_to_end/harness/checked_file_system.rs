//! A file system that checks what it reads: a page that was changed behind its back cannot be read.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use super::system::{output_of, run};
use super::wait_until;
use crate::skip::skip;

const PAGE: usize = 4096;
/// The smallest btrfs has about 110 MiB.
const SIZE: u64 = 192 << 20;

/// A btrfs on a loop device. Unmounted when dropped.
#[derive(Debug)]
pub(crate) struct CheckedFileSystem(TempDir);

impl CheckedFileSystem {
    /// `None` where it cannot be made or mounted.
    pub(crate) fn mount() -> Option<Self> {
        let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let file_system = Self(directory);
        let device = file_system.device();
        File::create_new(&device).unwrap().set_len(SIZE).unwrap();
        fs::create_dir(file_system.root()).unwrap();
        let options = ["-q", "--data", "single", "--metadata", "single"].map(Path::new);
        let made = output_of("mkfs.btrfs", &[&options[..], &[&device]].concat());
        match made.and_then(|_| file_system.try_mount()) {
            Ok(_) => Some(file_system),
            Err(reason) => {
                skip(&reason);
                None
            }
        }
    }

    pub(crate) fn root(&self) -> PathBuf {
        self.0.path().join("root")
    }

    /// Makes the page at `offset` of `file` one that cannot be read. No process may have a file of
    /// it open.
    pub(crate) fn damage(&self, file: &Path, offset: u64) {
        let mut page = [0; PAGE];
        File::open(file).unwrap().read_exact_at(&mut page, offset).unwrap();
        assert_ne!(page, [0; PAGE], "there is a hole");
        // a killed process may still be exiting
        wait_until(|| run("umount", &[&self.root()]), || "it cannot be unmounted".to_owned());
        let device = File::options().read(true).write(true).open(self.device()).unwrap();
        let (mut block, mut damaged) = ([0; PAGE], 0);
        for at in (0..SIZE).step_by(PAGE) {
            device.read_exact_at(&mut block, at).unwrap();
            // also where it lay before: it is copied on write
            if block == page {
                device.write_all_at(&[!page[0]], at).unwrap();
                damaged += 1;
            }
        }
        assert!(damaged > 0, "the page is not on the device");
        device.sync_all().unwrap();
        self.try_mount().unwrap();
        File::open(file).unwrap().read_exact_at(&mut page, offset).expect_err("a page that cannot be read");
    }

    fn device(&self) -> PathBuf {
        self.0.path().join("device")
    }

    fn try_mount(&self) -> Result<String, String> {
        output_of("mount", &["-o".as_ref(), "loop".as_ref(), &self.device(), &self.root()])
    }
}

impl Drop for CheckedFileSystem {
    fn drop(&mut self) {
        // lazily: a killed process may still be exiting
        let _ = run("umount", &["-l".as_ref(), &self.root()]);
    }
}
