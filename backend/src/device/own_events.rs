//! The events of a queue that has no driver.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use rustix::event::{EventfdFlags, eventfd};

use super::EventSources;

/// Eventfds that only the device signals.
#[derive(Debug)]
pub(crate) struct OwnEvents {
    kick: Arc<OwnedFd>,
    wake: Arc<OwnedFd>,
}

impl OwnEvents {
    pub(crate) fn new() -> io::Result<Self> {
        let new = || eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).map(Arc::new);
        Ok(Self { kick: new()?, wake: new()? })
    }

    pub(crate) fn sources(&self) -> EventSources<'_> {
        EventSources { kick: &self.kick, wake: &self.wake }
    }
}
