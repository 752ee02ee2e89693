//! An epoll set whose events are told one at a time.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};
use std::time::Duration;

use epoll::{ControlOptions, Event, Events};

/// What is waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Interest {
    /// There is something to read.
    Read,
    /// There is room to write.
    Write,
    /// The other side is gone, which is told always.
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

    /// Waits for something to read from `fd`, whose events are told as `token`.
    pub(super) fn watch(&self, fd: BorrowedFd<'_>, token: u64) -> io::Result<()> {
        let event = Event::new(Interest::Read.events(), token);
        epoll::ctl(self.0, ControlOptions::EPOLL_CTL_ADD, fd.as_raw_fd(), event)
    }

    /// Waits for something else of an `fd` that is watched.
    pub(super) fn change(&self, fd: BorrowedFd<'_>, token: u64, interest: Interest) -> io::Result<()> {
        let event = Event::new(interest.events(), token);
        epoll::ctl(self.0, ControlOptions::EPOLL_CTL_MOD, fd.as_raw_fd(), event)
    }

    pub(super) fn forget(&self, fd: BorrowedFd<'_>) -> io::Result<()> {
        let event = Event::new(Events::empty(), 0);
        epoll::ctl(self.0, ControlOptions::EPOLL_CTL_DEL, fd.as_raw_fd(), event)
    }

    /// The next event: its token, and whether the other side is gone. None when there is none within `limit`.
    pub(super) fn wait(&self, limit: Option<Duration>) -> io::Result<Option<(u64, bool)>> {
        // rounded up, so that nobody looks too early and again at once
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
