//! Watch for files that are deleted, replaced or cut off while they are served. The kernel reports
//! these events, and the log has the cure. Serving continues: the guest does not depend on the
//! name of a file.

use std::fmt;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::inotify::{WatchFlags, add_watch};

/// Events after which a name or a length may have changed. Our own writes cause none of them.
const EVENTS: WatchFlags = WatchFlags::CLOSE_WRITE
    .union(WatchFlags::ATTRIB)
    .union(WatchFlags::MOVE_SELF)
    .union(WatchFlags::DELETE_SELF);

/// The role of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// It has the data.
    Image,
    /// It has the tuples.
    Sidecar,
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Image => "image",
            Self::Sidecar => "sidecar",
        })
    }
}

/// A file that is served.
#[derive(Debug)]
pub(super) struct WatchedFile {
    role: Role,
    path: PathBuf,
    /// The file, opened without access to its content.
    file: File,
    len: u64,
    reported: Option<Trouble>,
}

/// The trouble with a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Trouble {
    /// The file has no name any more.
    Deleted,
    /// The file has another name.
    Renamed,
    /// Another file has the name.
    Replaced,
    /// The file is shorter than before.
    CutOff { len: u64 },
}

impl WatchedFile {
    /// Watches the regular file at `path` by `watch`.
    pub(super) fn new(watch: impl AsFd, role: Role, path: &Path) -> io::Result<Self> {
        let file = OpenOptions::new().read(true).custom_flags(libc::O_PATH).open(path)?;
        // the same file, also if another has the name by now
        add_watch(watch, format!("/proc/self/fd/{}", file.as_raw_fd()), EVENTS)?;
        let len = file.metadata()?.len();
        let mut watched = Self { role, path: path.to_owned(), file, len, reported: None };
        watched.look();
        Ok(watched)
    }

    /// Looks for trouble, and logs each kind of it once.
    pub(super) fn look(&mut self) {
        let trouble = match self.trouble() {
            Ok(trouble) => trouble,
            Err(error) => return tracing::warn!("cannot look at {}: {error}", self.path.display()),
        };
        if let Some(trouble) = trouble.filter(|trouble| self.reported != Some(*trouble)) {
            self.report(trouble);
        }
        self.reported = trouble;
    }

    fn trouble(&mut self) -> io::Result<Option<Trouble>> {
        let file = self.file.metadata()?;
        let named = match self.path.metadata() {
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            named => Some(named?),
        };
        let is_same = |named: &std::fs::Metadata| (named.dev(), named.ino()) == (file.dev(), file.ino());
        Ok(match named {
            Some(named) if !is_same(&named) => Some(Trouble::Replaced),
            None if file.nlink() == 0 => Some(Trouble::Deleted),
            None => Some(Trouble::Renamed),
            // the length of the image is measured elsewhere
            Some(_) if self.role == Role::Sidecar && file.len() < self.len => {
                Some(Trouble::CutOff { len: file.len() })
            }
            Some(_) => {
                self.len = file.len();
                None
            }
        })
    }

    fn report(&self, trouble: Trouble) {
        let Self { role, path, len: before, .. } = self;
        let path = path.display();
        match trouble {
            Trouble::Deleted => tracing::error!(
                "{path}, the {role} that is served, was deleted: its content is lost when this process ends; \
                 shut the guest down, and before this process ends {}",
                self.cure()
            ),
            Trouble::Replaced => tracing::error!(
                "another file has taken the place of {path}, the {role} that is served: the guest still uses the \
                 old one, whose content is lost when this process ends; shut the guest down, and before this \
                 process ends {}",
                self.cure()
            ),
            Trouble::Renamed => tracing::warn!(
                "{path}, the {role} that is served, was moved away: the guest still uses it; move it back, or name \
                 it by its new path when it is served again"
            ),
            Trouble::CutOff { len } => tracing::error!(
                "{path}, the {role} that is served, was cut off, from {before} to {len} bytes: reads of the blocks \
                 whose tuples are gone fail; stop the guest and this process, and make another with \
                 `stableblk protect --force`, or restore image and sidecar together"
            ),
        }
    }

    fn cure(&self) -> String {
        let (pid, fd) = (std::process::id(), self.file.as_raw_fd());
        format!("copy it with `cp --sparse=always /proc/{pid}/fd/{fd} NEW`")
    }
}

#[cfg(test)]
mod tests {
    use rustix::fs::inotify::{CreateFlags, init};

    use super::*;

    fn watched(path: &Path) -> WatchedFile {
        WatchedFile::new(init(CreateFlags::CLOEXEC).unwrap(), Role::Sidecar, path).unwrap()
    }

    #[test]
    fn a_file_that_is_cut_off_moved_replaced_or_deleted_is_reported() {
        let directory = tempfile::tempdir().unwrap();
        let [path, other] = ["file", "other"].map(|name| directory.path().join(name));
        std::fs::write(&path, [1; 100]).unwrap();
        let mut file = watched(&path);
        assert_eq!(file.trouble().unwrap(), None);
        let resize = |len| File::options().write(true).open(&path).unwrap().set_len(len).unwrap();
        resize(50);
        assert_eq!(file.trouble().unwrap(), Some(Trouble::CutOff { len: 50 }));
        resize(200);
        assert_eq!(file.trouble().unwrap(), None);
        resize(100);
        assert_eq!(file.trouble().unwrap(), Some(Trouble::CutOff { len: 100 }));
        std::fs::rename(&path, &other).unwrap();
        assert_eq!(file.trouble().unwrap(), Some(Trouble::Renamed));
        std::fs::write(&path, "new").unwrap();
        assert_eq!(file.trouble().unwrap(), Some(Trouble::Replaced));
        std::fs::remove_file(&path).unwrap();
        std::fs::remove_file(&other).unwrap();
        assert_eq!(file.trouble().unwrap(), Some(Trouble::Deleted));
    }
}
