//! Why the control thread cannot continue.

use std::io;
use std::time::Duration;

use thiserror::Error;

/// How long a session may take to end after SIGTERM. Its requests are in the kernel, which may wait
/// for a device that is gone.
pub(crate) const STOP_LIMIT: Duration = Duration::from_secs(30);

/// Why the control thread cannot continue.
#[derive(Debug, Error)]
pub enum ControlError {
    /// A system call that must not fail has failed.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// The session was asked to end and has not.
    #[error(
        "{what} after {seconds} s: the storage does not answer; writes that were not flushed are recovered when \
         the disk is served again"
    )]
    Hangs {
        /// The task that has not ended.
        what: String,
        /// The seconds that it was waited for.
        seconds: u64,
    },
}
