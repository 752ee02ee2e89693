//! A block device that needs no hardware.

use std::fs::{File, OpenOptions};
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use super::system::{output_of, run};
use super::{Image, finish};
use crate::skip::skip;

/// A loop device, detached when dropped.
#[derive(Debug)]
pub(crate) struct LoopDevice {
    path: PathBuf,
    file: PathBuf,
    _directory: Option<TempDir>,
}

impl LoopDevice {
    /// One of `size` bytes on a disk. `None` where there is none to be had.
    pub(crate) fn new(size: u64) -> Option<Self> {
        let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let file = directory.path().join("backing");
        File::create_new(&file).unwrap().set_len(size).unwrap();
        match attach(&file) {
            Ok(path) => Some(Self { path, file, _directory: Some(directory) }),
            Err(reason) => {
                skip(&reason);
                None
            }
        }
    }

    /// One over `file`, where there are some.
    pub(crate) fn over(file: PathBuf) -> Self {
        Self { path: attach(&file).unwrap(), file, _directory: None }
    }

    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The file that it is made of.
    pub(crate) fn backing(&self) -> File {
        OpenOptions::new().read(true).write(true).open(&self.file).unwrap()
    }

    /// Gives the device the size that its backing file now has.
    pub(crate) fn measure(&self) {
        assert!(run("losetup", &["--set-capacity".as_ref(), &self.path]));
    }

    /// Makes it an image with a sidecar elsewhere.
    pub(crate) fn protect(&self) -> Image {
        let image = Image::of(&self.path);
        let protected = finish(&mut image.command("protect"));
        assert_eq!(protected.code, Some(0), "{}", protected.stderr);
        image
    }
}

/// The device that `file` has become, or why it has not.
fn attach(file: &Path) -> Result<PathBuf, String> {
    output_of("losetup", &["--find".as_ref(), "--show".as_ref(), file]).map(PathBuf::from)
}

impl Drop for LoopDevice {
    fn drop(&mut self) {
        // a device that is still open is detached at its last close
        let _ = run("losetup", &["--detach".as_ref(), &self.path]);
    }
}
