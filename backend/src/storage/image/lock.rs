//! The locks of a file, `flock` and QEMU's, and the process that holds them when they are refused.

use std::fmt;
use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use procfs::process::{ProcState, Process, StatFlags};
use procfs::{Lock, LockType};
use rustix::fs::{FlockOperation, Stat};
use rustix::io::Errno;

use super::{Access, qemu_lock};
use crate::storage::error::Error;

/// How long a process that is gone may keep its lock. Its I/O ends within that, unless the device hangs.
const EXIT_WAIT_MAX: Duration = Duration::from_secs(5);
pub(super) const EXIT_POLL_INTERVAL: Duration = Duration::from_millis(20);

/// Who has a file locked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Holder {
    /// A process.
    Process {
        /// Its id.
        pid: i32,
        /// The name of its program.
        name: String,
    },
    /// A process that was ended while it had I/O under way, which is not finished.
    Exiting {
        /// The id that it has, or had.
        pid: i32,
    },
    /// The kernel itself, for a mount or the like.
    Kernel,
    /// Someone whom `/proc/locks` does not tell: another host, or a process outside this PID namespace.
    Unknown,
}

impl Holder {
    /// What to do about it.
    #[must_use]
    pub fn cure(&self) -> &'static str {
        match self {
            Self::Process { .. } | Self::Unknown => "stop that first",
            Self::Exiting { .. } => "try again when its I/O has ended",
            Self::Kernel => "unmount or release it first",
        }
    }

    pub(super) fn of_process(pid: i32) -> Self {
        let stat = Process::new(pid).and_then(|process| process.stat());
        let Ok(stat) = stat else {
            return Self::Exiting { pid };
        };
        let dead = matches!(stat.state(), Ok(ProcState::Zombie | ProcState::Dead));
        let exiting = StatFlags::from_bits_truncate(stat.flags).contains(StatFlags::PF_EXITING);
        if dead || exiting { Self::Exiting { pid } } else { Self::Process { pid, name: stat.comm } }
    }
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Process { pid, name } => write!(f, "{name} (pid {pid})"),
            Self::Exiting { pid } => write!(f, "a process that is exiting (pid {pid})"),
            Self::Kernel => f.write_str("the kernel, as by a mount"),
            Self::Unknown => f.write_str("another process"),
        }
    }
}

/// Locks the open file description of `file`, which is open at `path`, as `access` asks.
///
/// A holder that is alive is reported at once; one that is exiting is waited for.
pub(crate) fn lock(file: &File, path: &Path, access: Access) -> Result<(), Error> {
    let operation = match access {
        Access::Inspect | Access::Preview => return Ok(()),
        Access::Read => FlockOperation::NonBlockingLockShared,
        Access::ReadWrite => FlockOperation::NonBlockingLockExclusive,
    };
    let deadline = Instant::now() + EXIT_WAIT_MAX;
    loop {
        let holder = match rustix::fs::flock(file, operation) {
            Err(Errno::WOULDBLOCK) => flock_holder(file),
            Err(error) => return Err(Error::io("lock", path)(error)),
            Ok(()) if qemu_lock::take(file, access).map_err(Error::io("lock", path))? => return Ok(()),
            Ok(()) => {
                // what cannot be had whole is not held
                rustix::fs::flock(file, FlockOperation::Unlock).map_err(Error::io("lock", path))?;
                qemu_lock::holder(file, access)
            }
        };
        match holder {
            // it let go between the two calls, or is about to
            None | Some(Holder::Exiting { .. }) if Instant::now() < deadline => {
                thread::sleep(EXIT_POLL_INTERVAL);
            }
            holder => {
                let holder = holder.unwrap_or(Holder::Unknown);
                return Err(Error::InUse { path: path.to_owned(), holder });
            }
        }
    }
}

/// Who has the file that is open as `file` locked, as far as can be found out.
pub(crate) fn holder(file: &File) -> Option<Holder> {
    flock_holder(file).or_else(|| qemu_lock::holder(file, Access::ReadWrite))
}

/// Who has locked the file that is open as `file` by `flock`, as far as `/proc/locks` tells.
fn flock_holder(file: &File) -> Option<Holder> {
    let stat = rustix::fs::fstat(file).ok()?;
    let pid = procfs::locks()
        .ok()?
        .into_iter()
        .filter(|lock| lock.lock_type == LockType::FLock && lock.inode == stat.st_ino)
        .find(|lock| is_on_device(lock, &stat) || lock.pid.is_some_and(|pid| has_open(pid, &stat)))?
        .pid?;
    Some(Holder::of_process(pid))
}

fn is_on_device(lock: &Lock, stat: &Stat) -> bool {
    (lock.devmaj, lock.devmin) == (rustix::fs::major(stat.st_dev), rustix::fs::minor(stat.st_dev))
}

/// For btrfs and overlayfs, where `stat` tells of another device than `/proc/locks`.
fn has_open(pid: i32, stat: &Stat) -> bool {
    let Ok(descriptors) = Process::new(pid).and_then(|process| process.fd()) else {
        return false;
    };
    descriptors
        .flatten()
        .filter_map(|descriptor| fs::metadata(format!("/proc/{pid}/fd/{}", descriptor.fd)).ok())
        .any(|open| (open.dev(), open.ino()) == (stat.st_dev, stat.st_ino))
}
