//! Files that get their name when they are complete, so that a command that fails, or is killed,
//! leaves nothing behind.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, Gid, Mode, OFlags, Uid};
use rustix::io::Errno;

use crate::storage::reopen::without_proc;

/// The mode of a new file: a guest's data is for its owner alone.
const MODE: u32 = 0o600;
/// The mode of a new file that a group may read.
const GROUP_MODE: u32 = 0o640;

/// A file under construction, on the file system of its future path.
#[derive(Debug)]
pub(super) struct UnfinishedFile {
    file: File,
    path: PathBuf,
    /// The temporary name, on file systems without nameless files.
    temporary: Option<TemporaryName>,
}

/// The treatment of a file that already has the name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Existing {
    /// Leaves it, and fails with [`io::ErrorKind::AlreadyExists`].
    Keep,
    /// Replaces it by the new file, atomically.
    Replace,
}

/// A name that is removed on drop. After a rename there is nothing to remove.
#[derive(Debug)]
struct TemporaryName(PathBuf);

impl Drop for TemporaryName {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

impl UnfinishedFile {
    /// Makes an empty file, readable and writable for its owner alone, that is to become `path`.
    pub(super) fn new(path: &Path) -> io::Result<Self> {
        let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
        let (file, temporary) = match rustix::fs::open(directory(path), flags, Mode::from_raw_mode(MODE)) {
            Ok(file) => (file.into(), None),
            Err(Errno::NOTSUP | Errno::ISDIR) => {
                let name = temporary_name(path);
                let mut options = OpenOptions::new();
                let file = options.read(true).write(true).create_new(true).mode(MODE).open(&name)?;
                (file, Some(TemporaryName(name)))
            }
            Err(error) => return Err(error.into()),
        };
        Ok(Self { file, path: path.to_owned(), temporary })
    }

    /// The file itself.
    pub(super) fn file(&self) -> &File {
        &self.file
    }

    /// Lets `group` read the file.
    pub(super) fn share_with(&self, group: u32) -> io::Result<()> {
        rustix::fs::fchown(&self.file, None, Some(Gid::from_raw(group)))?;
        Ok(rustix::fs::fchmod(&self.file, Mode::from_raw_mode(GROUP_MODE))?)
    }

    /// Gives the file its name; both are durable when it returns.
    pub(super) fn publish(self, existing: Existing) -> io::Result<()> {
        self.file.sync_all()?;
        match (self.temporary, existing) {
            (None, Existing::Keep) => link(&self.file, &self.path)?,
            (None, Existing::Replace) => {
                let name = TemporaryName(temporary_name(&self.path));
                link(&self.file, &name.0)?;
                fs::rename(&name.0, &self.path)?;
            }
            (Some(_), Existing::Keep) if self.path.symlink_metadata().is_ok() => {
                return Err(io::ErrorKind::AlreadyExists.into());
            }
            (Some(name), _) => fs::rename(&name.0, &self.path)?,
        }
        File::open(directory(&self.path))?.sync_all()
    }
}

/// Gives a new file the owner, the group and their permissions of `image`, so that the users of the
/// image can use it also when root has made it. Others get none.
pub(super) fn give_to_owner_of(image: &File, new: &File) -> io::Result<()> {
    let metadata = image.metadata()?;
    rustix::fs::fchmod(new, Mode::from_raw_mode(metadata.mode() & 0o660))?;
    // only root may give files away; the files of others keep their owner
    let _ = rustix::fs::fchown(new, Some(Uid::from_raw(metadata.uid())), Some(Gid::from_raw(metadata.gid())));
    Ok(())
}

fn link(file: &File, path: &Path) -> io::Result<()> {
    let source = format!("/proc/self/fd/{}", file.as_raw_fd());
    let linked = rustix::fs::linkat(CWD, source, CWD, path, AtFlags::SYMLINK_FOLLOW);
    linked.map_err(|error| without_proc(error.into()))
}

fn directory(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if parent != Path::new("") => parent,
        _ => Path::new("."),
    }
}

/// A hidden name in the same directory, different for each process.
fn temporary_name(path: &Path) -> PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    directory(path).join(format!(".{name}.{}.tmp", std::process::id()))
}
