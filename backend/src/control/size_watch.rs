//! The kernel's notifications that an image may have another size, without polling.
//!
//! For a file, inotify reports that a process that could write has closed it: `truncate -s`,
//! `fallocate`. Our own writes close nothing. A block device's driver announces a change of its
//! capacity to all listeners (`NETLINK_KOBJECT_UEVENT`).

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::inotify;
use rustix::net::netlink::{KOBJECT_UEVENT, SocketAddrNetlink};
use rustix::net::{AddressFamily, RecvFlags, SocketFlags, SocketType, bind, recv, socket_with};

use super::file_watch::{Role, WatchedFile};

/// The multicast group of the kernel's own events.
const KERNEL_EVENTS: u32 = 1;
/// A length that no event exceeds: the kernel's buffer has 2 KiB.
const EVENT_LEN_MAX: usize = 4096;
/// The number of events that are taken at once. The others wake the thread again.
const EVENTS_MAX: usize = 64;

/// The watch of an image and its files. It says when to measure the image.
#[derive(Debug)]
pub struct SizeWatch {
    events: OwnedFd,
    files: Vec<WatchedFile>,
}

impl SizeWatch {
    /// Watches regular files by their paths.
    pub fn of_files(files: &[(Role, &Path)]) -> io::Result<Self> {
        let events = inotify::init(inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK)?;
        let files = files.iter().map(|(role, path)| WatchedFile::new(&events, *role, path));
        let files = files.collect::<io::Result<_>>()?;
        Ok(Self { events, files })
    }

    /// Watches all devices: few have events, and a measurement costs little.
    pub fn of_devices() -> io::Result<Self> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = socket_with(AddressFamily::NETLINK, SocketType::DGRAM, flags, Some(KOBJECT_UEVENT))?;
        bind(&socket, &SocketAddrNetlink::new(0, KERNEL_EVENTS))?;
        Ok(Self { events: socket, files: Vec::new() })
    }

    /// The descriptor that is readable when there are events.
    pub(super) fn as_fd(&self) -> BorrowedFd<'_> {
        self.events.as_fd()
    }

    /// Takes events, and examines the files. The content of the events does not matter.
    pub(super) fn take(&mut self) {
        self.take_events();
        self.files.iter_mut().for_each(WatchedFile::look);
    }

    fn take_events(&self) {
        let mut event = [0; EVENT_LEN_MAX];
        for _ in 0..EVENTS_MAX {
            let taken = match recv(&self.events, &mut event, RecvFlags::empty()) {
                Err(rustix::io::Errno::NOTSOCK) => rustix::io::read(&self.events, &mut event).map(drop),
                // events were lost, which is a reason to measure too
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
    fn a_close_after_writing_is_reported_and_a_write_is_not() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let mut watch = SizeWatch::of_files(&[(Role::Image, file.path())]).unwrap();
        file.as_file().write_all_at(&[7; 512], 0).unwrap();
        assert!(!is_readable(&watch), "a write was reported");
        OpenOptions::new().write(true).open(file.path()).unwrap().set_len(8192).unwrap();
        assert!(is_readable(&watch));
        watch.take();
        assert!(!is_readable(&watch), "reported twice");
    }
}
