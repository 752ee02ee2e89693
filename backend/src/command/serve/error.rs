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
use crate::worker::limits::LimitGroupError;

/// The exit status that says that the configuration is wrong (`EX_CONFIG` of `sysexits.h`): options
/// that make no sense, or files that cannot be served as they are.
pub const EXIT_CONFIGURATION: u8 = 78;

/// Why serving did not begin, or ended.
#[derive(Debug, Error)]
pub enum ServeError {
    /// The image or its sidecar cannot be used.
    #[error(transparent)]
    Image(#[from] crate::storage::error::ImageError),
    /// Another process has the image.
    #[error("{0}; or is this the destination of its live migration? Then use `--incoming`")]
    InUse(crate::storage::error::ImageError),
    /// `--force` was given without `--integrity none`.
    #[error(
        "--force gives up the sidecar of an image that is served by `--integrity none`: leave it out, or give both options"
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
    /// The device holds data of another program.
    #[error(transparent)]
    TakeOver(#[from] TakeOverError),
    /// The file of the limit group cannot be used.
    #[error(transparent)]
    LimitGroup(#[from] LimitGroupError),
    /// The socket cannot be used.
    #[error(transparent)]
    Socket(#[from] SocketError),
    /// The image does not consist of whole blocks of the guest.
    #[error("{} has {size} bytes, not a positive multiple of --block-size {block_size}: choose 512, or `truncate -s` it", path.display())]
    BlockSize {
        /// The image.
        path: PathBuf,
        /// The size of the image, in bytes.
        size: u64,
        /// The block size, in bytes.
        block_size: u32,
    },
    /// There are not enough descriptors for the queues.
    #[error(
        "--num-queues {queues} needs {needed} open files, but the limit is {limit}: ask for fewer queues, or raise `ulimit -n`"
    )]
    TooManyQueues {
        /// The number of queues.
        queues: u16,
        /// The number of descriptors that the queues need.
        needed: u64,
        /// The largest number of descriptors.
        limit: u64,
    },
    /// There is not enough memory for the queues.
    #[error(
        "--num-queues {queues} needs {needed} MiB of bounce memory, but the machine has {total} MiB: ask for fewer queues"
    )]
    TooMuchMemory {
        /// The number of queues.
        queues: u16,
        /// The memory that the queues need, in MiB.
        needed: u64,
        /// The memory of the machine, in MiB.
        total: u64,
    },
    /// io_uring cannot be used.
    #[error("io_uring cannot be used: {}", io_uring_cure(.0))]
    IoUring(io::Error),
    /// The process could not be set up.
    #[error("cannot {action}")]
    Setup {
        /// The step that failed.
        action: &'static str,
        /// The system's error.
        #[source]
        source: io::Error,
    },
    /// Serving has ended with a failure.
    #[error("cannot continue serving")]
    Control(#[source] ControlError),
    /// The device could not be closed. Writes that were flushed are durable; the others may be.
    #[error(
        "cannot close {}, so writes that were not flushed may be lost, {}: serve it again, which recovers it, and check the guest's \
         file systems if a flush of it then fails",
        path.display(),
        crate::report::chain(reason)
    )]
    Close {
        /// The image.
        path: PathBuf,
        /// The system's error. It is not a source, because the cure is to come last.
        reason: io::Error,
    },
}

impl ServeError {
    /// The exit status for the error.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        let usual = if self.needs_person() { EXIT_CONFIGURATION } else { 1 };
        match self {
            Self::Image(error) => error.exit_status(usual),
            _ => usual,
        }
    }

    /// Whether a person must act before the disk can be served, so that it makes no sense to start
    /// the process again.
    fn needs_person(&self) -> bool {
        match self {
            Self::Image(error)
            | Self::InUse(error)
            | Self::Unprotected(UnprotectedError::Image(error))
            | Self::Namespace(NamespaceError::Open(error)) => error.needs_person(),
            Self::ForceAlone
            | Self::Unprotected(_)
            | Self::Device(_)
            | Self::BlockSize { .. }
            | Self::TooManyQueues { .. }
            | Self::LimitGroup(_)
            | Self::TooMuchMemory { .. }
            | Self::Namespace(NamespaceError::NotNvme(_) | NamespaceError::Format { .. }) => true,
            Self::TakeOver(error) => !matches!(error, TakeOverError::Transfer { .. }),
            Self::Socket(error) => !matches!(error, SocketError::InUse(_) | SocketError::Io { .. }),
            Self::IoUring(error) => !matches!(error.kind(), io::ErrorKind::OutOfMemory),
            Self::Namespace(NamespaceError::Identify { .. })
            | Self::Setup { .. }
            | Self::Control(_)
            | Self::Close { .. } => false,
        }
    }

    /// Whether another process has the storage, and may let go of it.
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
        // this error has its cure already
        None if error.kind() == io::ErrorKind::OutOfMemory => error.to_string(),
        _ => format!("{error}; run Linux 6.1 or later"),
    }
}
