//! A file system in memory that is soon full.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

/// A tmpfs, mounted for one test.
pub(crate) struct SmallFileSystem {
    path: PathBuf,
    _directory: TempDir,
}

impl SmallFileSystem {
    /// One of `mib` MiB; `None` where mounting is not allowed.
    pub(crate) fn mount(mib: u32) -> Option<Self> {
        let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let path = directory.path().join("small");
        fs::create_dir(&path).unwrap();
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", &format!("size={mib}m"), "tmpfs"]).arg(&path);
        mount.status().is_ok_and(|status| status.success()).then_some(Self { path, _directory: directory })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Fills it to its last page. Returns the file that does it.
    pub(crate) fn fill(&self) -> PathBuf {
        let path = self.path.join("filler");
        let mut filler = File::create(&path).unwrap();
        while filler.write_all(&[b'x'; 4096]).is_ok() {}
        path
    }
}

impl Drop for SmallFileSystem {
    fn drop(&mut self) {
        // lazily: the kernel lets go of an io_uring's files some time after its process has ended
        let _ = Command::new("umount").arg("--lazy").arg(&self.path).status();
    }
}
