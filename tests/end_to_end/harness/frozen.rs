//! A file system that can be frozen: a write to it lasts as long as a test wants.

use std::fs::{self, File};
use std::path::PathBuf;

use tempfile::TempDir;

use super::system::{output_of, run};
use crate::skip::skip;

/// A file system on a loop device. Unmounted when dropped.
#[derive(Debug)]
pub(crate) struct FileSystem(TempDir);

impl FileSystem {
    /// `None` where nothing may be mounted.
    pub(crate) fn mount() -> Option<Self> {
        let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let (device, root) = (directory.path().join("device"), directory.path().join("root"));
        File::create_new(&device).unwrap().set_len(64 << 20).unwrap();
        fs::create_dir(&root).unwrap();
        let mounted = output_of("mkfs.ext4", &["-q".as_ref(), "-F".as_ref(), &device])
            .and_then(|_| output_of("mount", &["-o".as_ref(), "loop".as_ref(), &device, &root]));
        match mounted {
            Ok(_) => Some(Self(directory)),
            Err(reason) => {
                skip(&reason);
                None
            }
        }
    }

    pub(crate) fn root(&self) -> PathBuf {
        self.0.path().join("root")
    }

    pub(crate) fn freeze(&self) -> Frozen<'_> {
        assert!(run("fsfreeze", &["-f".as_ref(), &self.root()]));
        Frozen(self)
    }
}

/// Thawed when dropped: before the back-end that a test which fails here waits for, and which could
/// not end.
#[derive(Debug)]
#[must_use]
pub(crate) struct Frozen<'f>(&'f FileSystem);

impl Frozen<'_> {
    fn end(&self) -> bool {
        run("fsfreeze", &["-u".as_ref(), &self.0.root()])
    }

    pub(crate) fn thaw(self) {
        assert!(self.end());
    }
}

impl Drop for Frozen<'_> {
    fn drop(&mut self) {
        // fails when it was thawed
        let _ = self.end();
    }
}

impl Drop for FileSystem {
    fn drop(&mut self) {
        // lazily: a killed process may still be exiting
        let _ = run("umount", &["-l".as_ref(), &self.root()]);
    }
}
