//! Notice of an image that may have another size: by the kernel, without polling.
//!
//! A file tells when somebody who had it open for writing closes it (inotify): `truncate -s`, `fallocate`. Our own
//! writes close nothing. A block device's driver announces a change of its capacity to all who listen (`NETLINK_KOBJECT_UEVENT`).

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::inotify;
use rustix::net::netlink::{KOBJECT_UEVENT, SocketAddrNetlink};
use rustix::net::{AddressFamily, RecvFlags, SocketFlags, SocketType, bind, recv, socket_with};

/// The multicast group of the kernel's own events.
const KERNEL_EVENTS: u32 = 1;
/// Longer than any event: the kernel's buffer has 2 KiB.
const EVENT_LEN_MAX: usize = 4096;
/// Events that are taken at once; what is left wakes again.
const EVENTS_MAX: usize = 64;

/// Tells when to measure an image.
#[derive(Debug)]
pub struct SizeWatch(OwnedFd);

impl SizeWatch {
    /// Watches the regular file at `path`.
    pub fn of_file(path: &Path) -> io::Result<Self> {
        let watch = inotify::init(inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK)?;
        inotify::add_watch(&watch, path, inotify::WatchFlags::CLOSE_WRITE)?;
        Ok(Self(watch))
    }

    /// Watches all devices: few have events, and a measurement costs little.
    pub fn of_devices() -> io::Result<Self> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = socket_with(AddressFamily::NETLINK, SocketType::DGRAM, flags, Some(KOBJECT_UEVENT))?;
        bind(&socket, &SocketAddrNetlink::new(0, KERNEL_EVENTS))?;
        Ok(Self(socket))
    }

    /// Readable when there are events.
    pub(super) fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }

    /// Takes events. What they say is of no interest: whoever is told measures for himself.
    pub(super) fn take(&self) {
        let mut event = [0; EVENT_LEN_MAX];
        for _ in 0..EVENTS_MAX {
            let taken = match recv(&self.0, &mut event, RecvFlags::empty()) {
                Err(rustix::io::Errno::NOTSOCK) => rustix::io::read(&self.0, &mut event).map(drop),
                // events were lost: as good a reason to measure as any
                Err(rustix::io::Errno::NOBUFS) => Ok(()),
                taken => taken.map(drop),
            };
            if taken.is_err() {
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs::OpenOptions;
    use std::os::unix::fs::FileExt;

    use rustix::event::{PollFd, PollFlags, Timespec, poll};

    use super::*;

    fn is_readable(watch: &SizeWatch) -> bool {
        poll(&mut [PollFd::from_borrowed_fd(watch.as_fd(), PollFlags::IN)], Some(&Timespec::default()))
            .unwrap()
            > 0
    }

    #[test]
    fn a_file_tells_when_its_writer_closes_it_and_not_of_writes() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let watch = SizeWatch::of_file(file.path()).unwrap();
        file.as_file().write_all_at(&[7; 512], 0).unwrap();
        assert!(!is_readable(&watch), "a write was told");
        OpenOptions::new().write(true).open(file.path()).unwrap().set_len(8192).unwrap();
        assert!(is_readable(&watch));
        watch.take();
        assert!(!is_readable(&watch), "told twice");
    }
}
