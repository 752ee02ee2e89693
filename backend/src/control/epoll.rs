//! An epoll set that reports one event at a time.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};
use std::time::Duration;

use epoll::{ControlOptions, Event, Events};

/// The events to wait for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Interest {
    /// The descriptor is readable.
    Read,
    /// The descriptor is writable.
    Write,
    /// The other side is gone, which is always reported.
    Hangup,
}

impl Interest {
    fn events(self) -> Events {
        match self {
            Self::Read => Events::EPOLLIN,
            Self::Write => Events::EPOLLOUT,
            Self::Hangup => Events::empty(),
        }
    }
}

/// An epoll set.
#[derive(Debug)]
pub(super) struct EpollSet(RawFd);

impl EpollSet {
    pub(super) fn new() -> io::Result<Self> {
        epoll::create(true).map(Self)
    }

    /// Waits until `fd` is readable. Its events are reported as `token`.
    pub(super) fn watch(&self, fd: BorrowedFd<'_>, token: u64) -> io::Result<()> {
        let event = Event::new(Interest::Read.events(), token);
        epoll::ctl(self.0, ControlOptions::EPOLL_CTL_ADD, fd.as_raw_fd(), event)
    }

    /// Changes the events of an `fd` that is watched.
    pub(super) fn change(&self, fd: BorrowedFd<'_>, token: u64, interest: Interest) -> io::Result<()> {
        let event = Event::new(interest.events(), token);
        epoll::ctl(self.0, ControlOptions::EPOLL_CTL_MOD, fd.as_raw_fd(), event)
    }

    pub(super) fn forget(&self, fd: BorrowedFd<'_>) -> io::Result<()> {
        let event = Event::new(Events::empty(), 0);
        epoll::ctl(self.0, ControlOptions::EPOLL_CTL_DEL, fd.as_raw_fd(), event)
    }

    /// The next event: its token, and whether the other side is gone. None when `limit` has passed
    /// without an event.
    pub(super) fn wait(&self, limit: Option<Duration>) -> io::Result<Option<(u64, bool)>> {
        // rounded up, because a wait that ends too early would be repeated at once
        let ms = limit.map_or(-1, |limit| i32::try_from(limit.as_millis() + 1).unwrap_or(i32::MAX));
        let gone = (Events::EPOLLHUP | Events::EPOLLERR).bits();
        let mut events = [Event::new(Events::empty(), 0)];
        loop {
            match epoll::wait(self.0, ms, &mut events) {
                Ok(0) => return Ok(None),
                Ok(_) => return Ok(Some((events[0].data, events[0].events & gone != 0))),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }
}

impl Drop for EpollSet {
    fn drop(&mut self) {
        let _ = epoll::close(self.0);
    }
}
