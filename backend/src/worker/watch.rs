//! The flag and eventfd by which workers wake the watchdog.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use rustix::event::{EventfdFlags, eventfd};

/// Where workers notify the watchdog of work to watch over.
#[derive(Debug)]
pub struct Watch {
    /// True also where there is no watchdog.
    notified: AtomicBool,
    wake: OnceLock<OwnedFd>,
}

impl Default for Watch {
    fn default() -> Self {
        Self { notified: AtomicBool::new(true), wake: OnceLock::new() }
    }
}

impl Watch {
    /// Notifies the watchdog that a request is in flight. It takes one load, except for the first
    /// request since the watchdog rested.
    pub fn notify(&self) {
        if !self.notified.load(Relaxed) {
            self.notified.store(true, Relaxed);
            if let Some(wake) = self.wake.get() {
                // fails only when the counter is full, and then the watchdog has been woken
                let _ = rustix::io::write(wake, &1u64.to_ne_bytes());
            }
        }
    }

    /// Lets workers notify from now on. Fails when the system has no eventfd for it.
    pub(crate) fn begin(&self) -> io::Result<()> {
        let wake = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        let _ = self.wake.set(wake);
        self.set_notified(false);
        Ok(())
    }

    /// Readable when a worker has notified; none before [`Self::begin`].
    pub(crate) fn wake_fd(&self) -> Option<BorrowedFd<'_>> {
        self.wake.get().map(AsFd::as_fd)
    }

    /// Clears the notifications of workers.
    pub(crate) fn clear(&self) {
        if let Some(wake) = self.wake_fd() {
            let _ = rustix::io::read(wake, &mut [0; 8]);
        }
    }

    /// After `false`, the next request makes its worker notify; after `true`, no request does.
    pub(crate) fn set_notified(&self, notified: bool) {
        self.notified.store(notified, Relaxed);
    }
}
