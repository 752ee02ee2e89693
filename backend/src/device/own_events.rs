//! The events of a queue that has no driver.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use rustix::event::{EventfdFlags, eventfd};

use super::EventSources;

/// Eventfds that nobody but the device signals. To be dropped after the queue, which polls them.
#[derive(Debug)]
pub(crate) struct OwnEvents {
    kick: OwnedFd,
    wake: OwnedFd,
}

impl OwnEvents {
    pub(crate) fn new() -> io::Result<Self> {
        let new = || eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK);
        Ok(Self { kick: new()?, wake: new()? })
    }

    pub(crate) fn sources(&self) -> EventSources<'_> {
        EventSources { kick: self.kick.as_fd(), wake: self.wake.as_fd() }
    }
}
