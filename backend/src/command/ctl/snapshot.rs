//! `ctl SOCKET copy`: a copy of a disk that is being served. Both files are cloned while the disk
//! is frozen, and the clones are copied like any image afterwards.

use std::fs::{File, FileTimes};
use std::io;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{XattrFlags, fgetxattr, flistxattr, fsetxattr, ioctl_ficlone};
use thiserror::Error;

use super::super::copy::{CopyReport, copy};
use super::super::unfinished::UnfinishedFile;
use crate::control::client::{ClientError, ask};
use crate::control::protocol::{ControlRequest, DiskStatus, FREEZE_SECONDS_DEFAULT};
use crate::storage::error::ImageError;

/// The prefix of the attributes by which an image knows its sidecar.
const ATTRIBUTES: &str = "user.stableblk.";
/// The longest list of attributes, and the longest value, in bytes.
const ATTRIBUTES_LEN_MAX: usize = 64 << 10;

/// Why a disk that is served was not copied.
#[derive(Debug, Error)]
pub enum SnapshotError {
    /// The disk is not frozen, or was thawed too early.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// There is no sidecar to copy.
    #[error("the disk has no sidecar: freeze it and use the snapshots of its storage")]
    NoSidecar,
    /// The file system does not share blocks.
    #[error("the file system of {} cannot clone files: `freeze` the disk, copy both files, and `thaw` it; or use the snapshots of its storage", path.display())]
    NoClones {
        /// The file that is not cloned.
        path: PathBuf,
    },
    /// A file could not be cloned.
    #[error("cannot clone {}", path.display())]
    Clone {
        /// The file.
        path: PathBuf,
        /// The system's error.
        #[source]
        source: io::Error,
    },
    /// The clones cannot be copied.
    #[error(transparent)]
    Copy(#[from] ImageError),
}

/// Copies the disk that the control socket `socket` is of, to the new file `to`. Each request may
/// take `limit`.
pub(super) fn copy_served(socket: &Path, to: &Path, limit: Duration) -> Result<CopyReport, SnapshotError> {
    let status = ask(socket, &ControlRequest::Status, limit)?;
    let status: DiskStatus = serde_json::from_value(status)
        .map_err(|error| ClientError::NoAnswer { path: socket.to_owned(), source: error.into() })?;
    let sidecar = status.properties.sidecar.as_deref().ok_or(SnapshotError::NoSidecar)?;
    let directory = PathBuf::from(format!("/proc/{}/cwd", status.program.pid));
    // a path that is absolute replaces the directory
    let [image, sidecar] = [&status.properties.image, sidecar].map(|path| directory.join(path));
    let snapshots = [unnamed(to)?, unnamed(to)?];
    ask(socket, &ControlRequest::Freeze { seconds: FREEZE_SECONDS_DEFAULT }, limit)?;
    let cloned = clone(&image, snapshots[0].file()).and_then(|()| clone(&sidecar, snapshots[1].file()));
    // whether they are cloned or not; it fails if the disk did not stay frozen
    let thawed = ask(socket, &ControlRequest::Thaw, limit);
    cloned?;
    thawed?;
    let [image, sidecar] = snapshots.each_ref().map(|snapshot| path_of(snapshot.file()));
    Ok(copy(&image, &sidecar, to)?)
}

/// A file without a name, on the file system of `to`.
fn unnamed(to: &Path) -> Result<UnfinishedFile, ImageError> {
    UnfinishedFile::new(to).map_err(ImageError::io("create", to))
}

/// A path that opens the file.
fn path_of(file: &File) -> PathBuf {
    format!("/proc/self/fd/{}", file.as_raw_fd()).into()
}

/// Makes `clone` the same as the file at `path`, with its time and the attributes of an image.
fn clone(path: &Path, clone: &File) -> Result<(), SnapshotError> {
    let failed = |source| SnapshotError::Clone { path: path.to_owned(), source };
    let file = File::open(path).map_err(failed)?;
    if ioctl_ficlone(clone, &file).is_err() {
        return Err(SnapshotError::NoClones { path: path.to_owned() });
    }
    copy_attributes(&file, clone).map_err(failed)
}

fn copy_attributes(from: &File, to: &File) -> io::Result<()> {
    let mut names = vec![0; ATTRIBUTES_LEN_MAX];
    let len = flistxattr(from, &mut names).unwrap_or(0);
    for name in names[..len].split(|byte| *byte == 0).filter(|it| it.starts_with(ATTRIBUTES.as_bytes())) {
        let mut value = vec![0; ATTRIBUTES_LEN_MAX];
        let len = fgetxattr(from, name, &mut value)?;
        fsetxattr(to, name, &value[..len], XattrFlags::empty())?;
    }
    // the sidecar knows when its image was written last
    to.set_times(FileTimes::new().set_modified(from.metadata()?.modified()?))
}
