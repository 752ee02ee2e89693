//! Why serving did not begin, or ended.

use std::io;
use std::path::PathBuf;

use thiserror::Error;

use super::super::choose_device::DeviceError;
use super::super::protect::TakeOverError;
use super::unprotected::UnprotectedError;
use crate::control::ControlError;
use crate::control::socket::SocketError;
use crate::device::NamespaceError;

/// Why serving did not begin, or ended.
#[derive(Debug, Error)]
pub enum ServeError {
    /// The image or its sidecar cannot be used.
    #[error(transparent)]
    Image(#[from] crate::storage::error::ImageError),
    /// Somebody else has the image.
    #[error("{0}; or is this the destination of its live migration? Say so by `--incoming`")]
    InUse(crate::storage::error::ImageError),
    /// An option without what it is for.
    #[error(
        "--force gives up the sidecar of an image that is served by `--integrity none`: leave it away, or say that too"
    )]
    ForceAlone,
    /// The image is not served without its tuples.
    #[error(transparent)]
    Unprotected(#[from] UnprotectedError),
    /// No device can be chosen, or its metadata cannot be used.
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// The namespace cannot be used.
    #[error(transparent)]
    Namespace(#[from] NamespaceError),
    /// The device holds data of others.
    #[error(transparent)]
    TakeOver(#[from] TakeOverError),
    /// The socket cannot be used.
    #[error(transparent)]
    Socket(#[from] SocketError),
    /// A choice of the guest's block size that the image does not allow.
    #[error("{} has {size} bytes, not a positive multiple of --block-size {block_size}: choose 512, or `truncate -s` it", path.display())]
    BlockSize {
        /// The image.
        path: PathBuf,
        /// Its size, in bytes.
        size: u64,
        /// What was asked for, in bytes.
        block_size: u32,
    },
    /// Not enough descriptors for the queues.
    #[error(
        "--num-queues {queues} needs {needed} open files, but the limit is {limit}: ask for fewer queues, or raise `ulimit -n`"
    )]
    TooManyQueues {
        /// Queues asked for.
        queues: u16,
        /// Descriptors they need.
        needed: u64,
        /// Descriptors there can be.
        limit: u64,
    },
    /// Not enough memory for the queues.
    #[error(
        "--num-queues {queues} needs {needed} MiB of bounce memory, but the machine has {total} MiB: ask for fewer queues"
    )]
    TooMuchMemory {
        /// Queues asked for.
        queues: u16,
        /// What they need, in MiB.
        needed: u64,
        /// What there is, in MiB.
        total: u64,
    },
    /// No io_uring.
    #[error("io_uring cannot be used: {}", io_uring_cure(.0))]
    IoUring(io::Error),
    /// The process could not be set up.
    #[error("cannot {action}")]
    Setup {
        /// What was to be done.
        action: &'static str,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// Serving ended by a failure.
    #[error("cannot go on serving")]
    Control(#[source] ControlError),
    /// What was flushed is durable; what was not may be.
    #[error(
        "cannot close {}, so what was not flushed may be lost, {}: serve it again, which recovers it, and check the guest's \
         file systems if a flush of it then fails",
        path.display(),
        crate::report::chain(reason)
    )]
    Close {
        /// The image.
        path: PathBuf,
        /// What the system said. Not a source, for the cure is to come last.
        reason: io::Error,
    },
}

impl ServeError {
    /// The exit status for it.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Image(error) => error.exit_status(1),
            _ => 1,
        }
    }

    /// Whether somebody else has the storage, who may let go of it.
    pub(in crate::command) fn is_in_use(&self) -> bool {
        use crate::storage::error::ImageError::InUse;
        matches!(self, Self::Image(InUse { .. }) | Self::Namespace(NamespaceError::Open(InUse { .. })))
    }
}

fn io_uring_cure(error: &io::Error) -> String {
    match error.raw_os_error() {
        Some(libc::EPERM | libc::EACCES) => format!(
            "{error}; allow it: `sysctl kernel.io_uring_disabled=0`, and io_uring_setup, io_uring_enter and \
             io_uring_register in the container's seccomp profile"
        ),
        Some(libc::ENOSYS) => format!(
            "{error}; run Linux 6.1 or later with CONFIG_IO_URING, or allow io_uring_setup, io_uring_enter and \
             io_uring_register in the container's seccomp profile"
        ),
        // tells its cure itself
        None if error.kind() == io::ErrorKind::OutOfMemory => error.to_string(),
        _ => format!("{error}; run Linux 6.1 or later"),
    }
}
