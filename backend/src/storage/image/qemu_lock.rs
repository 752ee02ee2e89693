//! QEMU's locks on image files, so that neither opens what the other writes.
//!
//! QEMU has two bytes of the file for each permission (`block/file-posix.c`). A process that uses a
//! permission holds a shared lock on its byte from [`HELD_FROM`] on; a process that does not allow
//! others to use it holds a shared lock on its byte from [`UNSHARED_FROM`] on. A test for an
//! exclusive lock finds the locks of others. The locks belong to the open file description, as
//! those of `flock` do, and live as long. Between two processes of ours, `flock` decides: where it
//! does not refuse, these locks do not conflict.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt;

use bitflags::bitflags;
use nix::fcntl::{FcntlArg, fcntl};
use procfs::process::all_processes;
use rustix::io::Errno;

use super::access::Access;
use super::holder::Holder;

/// `RAW_LOCK_PERM_BASE`
const HELD_FROM: i64 = 100;
/// `RAW_LOCK_SHARED_BASE`
const UNSHARED_FROM: i64 = 200;
/// Beyond the last permission that QEMU has ever had.
const BYTES: i64 = 8;

bitflags! {
    /// `BLK_PERM_*`
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    struct Permissions: u8 {
        const CONSISTENT_READ = 1;
        const WRITE = 2;
        const WRITE_UNCHANGED = 4;
        const RESIZE = 8;
    }
}

impl Permissions {
    fn bytes(self, from: i64) -> impl Iterator<Item = i64> {
        (0..BYTES).filter(move |bit| self.bits() >> bit & 1 != 0).map(move |bit| from + bit)
    }
}

/// The permissions that an open file uses, and those that others may not use meanwhile.
#[derive(Debug, Clone, Copy)]
struct LockClaim {
    held: Permissions,
    unshared: Permissions,
}

impl LockClaim {
    /// Others may always read: `qemu-img info -U` asks for nothing else.
    fn of(access: Access) -> Option<Self> {
        match access {
            Access::Inspect | Access::Preview => None,
            Access::Read => Some(Self {
                held: Permissions::CONSISTENT_READ,
                unshared: Permissions::WRITE | Permissions::RESIZE,
            }),
            Access::ReadWrite => Some(Self {
                held: Permissions::CONSISTENT_READ | Permissions::WRITE | Permissions::RESIZE,
                unshared: Permissions::WRITE | Permissions::WRITE_UNCHANGED | Permissions::RESIZE,
            }),
        }
    }

    /// The bytes to lock for these permissions.
    fn bytes(self) -> impl Iterator<Item = i64> {
        self.held.bytes(HELD_FROM).chain(self.unshared.bytes(UNSHARED_FROM))
    }

    /// The bytes that no other description may have locked.
    fn conflicting_bytes(self) -> impl Iterator<Item = i64> {
        self.unshared.bytes(HELD_FROM).chain(self.held.bytes(UNSHARED_FROM))
    }
}

/// Takes the locks of `access` for the open file description of `file`. Returns false, and takes
/// none, when another description has one that conflicts. On a file system without such locks it
/// succeeds without any, as QEMU does.
pub(super) fn take(file: &File, access: Access) -> io::Result<bool> {
    let Some(claim) = LockClaim::of(access) else { return Ok(true) };
    for byte in claim.bytes() {
        match set(file, byte, 1, libc::F_RDLCK) {
            Ok(()) => {}
            Err(Errno::AGAIN | Errno::ACCESS) => {
                release(file);
                return Ok(false);
            }
            Err(Errno::NOLCK | Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => return Ok(true),
            Err(error) => return Err(error.into()),
        }
    }
    // in this order, so that of two processes that do so at the same time at least one sees the
    // other
    let free = conflict(file, claim).is_none();
    if !free {
        release(file);
    }
    Ok(free)
}

fn release(file: &File) {
    // fails only for a file without locks
    let _ = set(file, HELD_FROM, BYTES, libc::F_UNLCK);
    let _ = set(file, UNSHARED_FROM, BYTES, libc::F_UNLCK);
}

/// The process that has a lock which conflicts with `access`.
pub(super) fn holder(file: &File, access: Access) -> Option<Holder> {
    let byte = conflict(file, LockClaim::of(access)?)?;
    Some(process_with_lock(file, byte).map_or(Holder::Unknown, Holder::of_process))
}

/// The first byte that another description has locked and that conflicts with `claim`.
fn conflict(file: &File, claim: LockClaim) -> Option<i64> {
    claim.conflicting_bytes().find(|&byte| {
        let mut lock = lock(byte, 1, libc::F_WRLCK);
        let asked = fcntl(file, FcntlArg::F_OFD_GETLK(&mut lock));
        asked.is_ok() && i32::from(lock.l_type) != libc::F_UNLCK
    })
}

fn set(file: &File, start: i64, len: i64, kind: libc::c_int) -> Result<(), Errno> {
    let set = fcntl(file, FcntlArg::F_OFD_SETLK(&lock(start, len, kind)));
    set.map(drop).map_err(|error| Errno::from_raw_os_error(error as i32))
}

fn lock(start: i64, len: i64, kind: libc::c_int) -> libc::flock {
    libc::flock {
        l_type: i16::try_from(kind).expect("a lock's type is small"),
        l_whence: i16::try_from(libc::SEEK_SET).expect("it is zero"),
        l_start: start,
        l_len: len,
        // it must be zero for these locks
        l_pid: 0,
    }
}

/// The kernel does not name the owner of such a lock, but lists the locks of each descriptor in its
/// fdinfo.
fn process_with_lock(file: &File, byte: i64) -> Option<i32> {
    let metadata = file.metadata().ok()?;
    all_processes().ok()?.flatten().find_map(|process| {
        let has_lock = process.fd().ok()?.flatten().any(|descriptor| {
            let directory = format!("/proc/{}", process.pid);
            let is_same = fs::metadata(format!("{directory}/fd/{}", descriptor.fd))
                .is_ok_and(|open| (open.dev(), open.ino()) == (metadata.dev(), metadata.ino()));
            is_same
                && fs::read_to_string(format!("{directory}/fdinfo/{}", descriptor.fd))
                    .is_ok_and(|info| info.lines().any(|line| is_lock_on(line, byte)))
        });
        has_lock.then_some(process.pid)
    })
}

/// Whether a line of fdinfo is that of a lock on `byte`:
/// `lock: 1: OFDLCK  ADVISORY  READ -1 08:01:131 101 103`
fn is_lock_on(line: &str, byte: i64) -> bool {
    let Some(lock) = line.strip_prefix("lock:") else { return false };
    let mut fields = lock.split_whitespace().rev();
    let (Some(end), Some(start)) = (fields.next(), fields.next()) else { return false };
    let end = if end == "EOF" { Ok(i64::MAX) } else { end.parse() };
    let is_flock = lock.contains(" FLOCK ");
    !is_flock && matches!((start.parse::<i64>(), end), (Ok(start), Ok(end)) if (start..=end).contains(&byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writers_exclude_all_but_inspection() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let open = || File::options().read(true).write(true).open(file.path()).unwrap();
        let [first, second, third] = [open(), open(), open()];
        assert!(take(&first, Access::Read).unwrap());
        assert!(take(&second, Access::Read).unwrap(), "readers exclude each other");
        assert!(!take(&third, Access::ReadWrite).unwrap());
        let name = holder(&third, Access::ReadWrite).unwrap().to_string();
        assert!(name.contains(&format!("(pid {})", std::process::id())), "{name}");
        drop((first, second));
        assert!(take(&third, Access::ReadWrite).unwrap(), "a lock outlived its description");
        assert!(take(&third, Access::ReadWrite).unwrap(), "a description conflicts with itself");
        assert!(!take(&open(), Access::Read).unwrap());
        assert!(take(&open(), Access::Inspect).unwrap());
    }

    #[test]
    fn lines_of_fdinfo_are_read() {
        let line = "lock:\t1: OFDLCK ADVISORY  READ -1 fe:01:1580 101 103";
        assert!(is_lock_on(line, 101) && is_lock_on(line, 103));
        assert!(!is_lock_on(line, 100) && !is_lock_on(line, 104));
        assert!(is_lock_on("lock:\t1: POSIX  ADVISORY  WRITE 12 fe:01:1580 0 EOF", 203));
        assert!(!is_lock_on("lock:\t1: FLOCK  ADVISORY  WRITE 12 fe:01:1580 0 EOF", 203));
        assert!(!is_lock_on("pos:\t101", 101));
    }
}
