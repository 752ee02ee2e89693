//! The signals that end the process, as an event to wait for.

use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use signal_hook::consts::{SIGINT, SIGTERM};

/// SIGTERM and SIGINT. The first asks for a clean stop; a second one ends the process at once.
#[derive(Debug)]
pub struct Termination {
    signalled: UnixStream,
}

impl Termination {
    /// Catches the signals from now on.
    pub fn catch() -> io::Result<Self> {
        let (signalled, signal) = UnixStream::pair()?;
        let stopping = Arc::new(AtomicBool::new(false));
        for number in [SIGTERM, SIGINT] {
            // in this order: the first signal finds the flag unset and then sets it
            signal_hook::flag::register_conditional_shutdown(number, 1, stopping.clone())?;
            signal_hook::flag::register(number, stopping.clone())?;
            signal_hook::low_level::pipe::register(number, signal.try_clone()?)?;
        }
        Ok(Self { signalled })
    }

    /// The descriptor that a signal makes readable.
    pub(super) fn as_fd(&self) -> BorrowedFd<'_> {
        self.signalled.as_fd()
    }

    /// Clears the event of a signal.
    pub(super) fn clear(&mut self) {
        let _ = self.signalled.read(&mut [0; 16]);
    }
}
