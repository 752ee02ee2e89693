//! The locks of a file, `flock` and QEMU's, and the process that holds them when they are refused.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::thread;
use std::time::{Duration, Instant};

use procfs::process::Process;
use procfs::{Lock, LockType};
use rustix::fs::{FlockOperation, Stat};
use rustix::io::Errno;

use super::access::Access;
use super::holder::Holder;
use super::qemu_lock;

/// How long to wait for the lock of a process that is gone. Its I/O ends within that time, unless
/// the device hangs.
const EXIT_WAIT_MAX: Duration = Duration::from_secs(5);
pub(super) const EXIT_POLL_INTERVAL: Duration = Duration::from_millis(20);

/// Why a file was not locked.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LockError {
    /// Another process, or the kernel, has a lock that conflicts.
    #[error("the file is in use by {0}")]
    InUse(Holder),
    /// The system call failed.
    #[error("cannot lock the file")]
    Io(#[from] io::Error),
}

/// Locks the open file description of `file` as `access` asks.
///
/// A holder that is alive is reported at once; one that is exiting is waited for.
pub(crate) fn lock(file: &File, access: Access) -> Result<(), LockError> {
    let operation = match access {
        Access::Inspect | Access::Preview => return Ok(()),
        Access::Read => FlockOperation::NonBlockingLockShared,
        Access::ReadWrite => FlockOperation::NonBlockingLockExclusive,
    };
    let deadline = Instant::now() + EXIT_WAIT_MAX;
    loop {
        let holder = match rustix::fs::flock(file, operation) {
            Err(Errno::WOULDBLOCK) => flock_holder(file),
            Err(error) => return Err(io::Error::from(error).into()),
            Ok(()) if qemu_lock::take(file, access)? => return Ok(()),
            Ok(()) => {
                // not both could be taken, so none is held
                rustix::fs::flock(file, FlockOperation::Unlock).map_err(io::Error::from)?;
                qemu_lock::holder(file, access)
            }
        };
        match holder {
            // it was released between the two calls, or is about to be
            None | Some(Holder::Exiting { .. }) if Instant::now() < deadline => {
                thread::sleep(EXIT_POLL_INTERVAL);
            }
            holder => return Err(LockError::InUse(holder.unwrap_or(Holder::Unknown))),
        }
    }
}

/// The holder of the lock on the file that is open as `file`, as far as can be found out.
pub(crate) fn holder(file: &File) -> Option<Holder> {
    flock_holder(file).or_else(|| qemu_lock::holder(file, Access::ReadWrite))
}

/// The holder of the `flock` on the file that is open as `file`, as far as `/proc/locks` shows it.
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

/// Whether process `pid` has the file open, for btrfs and overlayfs, where `stat` shows another
/// device than `/proc/locks`.
fn has_open(pid: i32, stat: &Stat) -> bool {
    let Ok(descriptors) = Process::new(pid).and_then(|process| process.fd()) else {
        return false;
    };
    descriptors
        .flatten()
        .filter_map(|descriptor| fs::metadata(format!("/proc/{pid}/fd/{}", descriptor.fd)).ok())
        .any(|open| (open.dev(), open.ino()) == (stat.st_dev, stat.st_ino))
}
