//! Transfers that a device refused for their tags.

use std::io;

use integrity::sidecar::SidecarError;
use thiserror::Error;

/// Why a transfer was refused.
#[derive(Debug, Error)]
pub enum PiFailure {
    /// A write whose data did not match its tags when the device had it: someone changed it on the way.
    #[error("the device refused the write: {reason}")]
    Write {
        /// Which check failed, as far as the device told.
        reason: PiStatus,
    },
    /// A read that was verified again here, after it had been repeated without the device's checks.
    #[error("{found} (the device: {reason})")]
    Read {
        /// Which check failed, as far as the device told.
        reason: PiStatus,
        /// The first tag that is wrong.
        found: SidecarError,
    },
    /// A read in which nothing wrong was found when it was repeated, or which could not be repeated.
    #[error("the device refused the read: {reason}; its tags could not be shown to be wrong")]
    Unexplained {
        /// Which check failed, as far as the device told.
        reason: PiStatus,
    },
}

/// What a device tells of a failed check.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum PiStatus {
    /// `EILSEQ`: some tag.
    #[error("protection error")]
    Unspecified,
    /// NVMe 181h.
    #[error("Invalid Protection Information, 181h")]
    Invalid,
    /// NVMe 282h.
    #[error("End-to-end Guard Check Error, 282h")]
    Guard,
    /// NVMe 283h.
    #[error("End-to-end Application Tag Check Error, 283h")]
    Application,
    /// NVMe 284h.
    #[error("End-to-end Reference Tag Check Error, 284h")]
    Reference,
    /// NVMe 288h.
    #[error("End-to-end Storage Tag Check Error, 288h")]
    Storage,
}

impl From<PiFailure> for io::Error {
    fn from(failure: PiFailure) -> Self {
        Self::new(io::ErrorKind::InvalidData, failure)
    }
}

impl PiFailure {
    /// What to say of a read that was refused for `reason`, and repeated without checks with the outcome `repeated`: what
    /// `verify` finds in it then.
    pub(super) fn of_read(
        reason: PiStatus,
        repeated: io::Result<()>,
        verify: impl FnOnce() -> Result<(), SidecarError>,
    ) -> Self {
        match repeated.map(|()| verify()) {
            Ok(Err(found)) => Self::Read { reason, found },
            _ => Self::Unexplained { reason },
        }
    }

    /// Whether an error is one of these.
    pub fn is_in(error: &io::Error) -> bool {
        error.get_ref().and_then(<dyn std::error::Error + Send + Sync>::downcast_ref::<Self>).is_some()
    }
}

impl PiStatus {
    /// What an error of the kernel tells of tags.
    pub(super) fn of_error(error: &io::Error) -> Option<Self> {
        (error.raw_os_error() == Some(libc::EILSEQ)).then_some(Self::Unspecified)
    }
}
