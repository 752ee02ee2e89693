//! Transfers that a device refused for their tags.

use std::io;

use integrity::sidecar::SidecarError;
use thiserror::Error;

use crate::device::operation::TransferBuffer;

/// Why a transfer was refused.
#[derive(Debug, Error)]
pub enum PiFailure {
    /// A write from a folio whose data did not match its tags when it reached the device: it was
    /// damaged on the way.
    #[error("the device refused the write: {reason}")]
    Write {
        /// The check that failed, as far as the device reported it.
        reason: PiStatus,
    },
    /// A write from the guest's own memory, which the guest changed after the guard was computed
    /// and before the device read it. That is the defect which the bounce cures.
    #[error("the guest changed the data while it was written, since --bounce is never: {reason}")]
    UnstableWrite {
        /// The check that failed, as far as the device reported it.
        reason: PiStatus,
    },
    /// A read that was verified again here, after it had been repeated without the device's checks.
    #[error("{found} (the device: {reason})")]
    Read {
        /// The check that failed, as far as the device reported it.
        reason: PiStatus,
        /// The first tag that is wrong.
        found: SidecarError,
    },
    /// A read that the device refuses even without its checks. SCSI disks do: the kernel cannot
    /// turn their checks off.
    #[error("the device refused the read: {reason}; it does not give it without checks either")]
    Withheld {
        /// The check that failed, as far as the device reported it.
        reason: PiStatus,
    },
    /// A read in which nothing wrong was found when it was repeated.
    #[error("the device refused the read: {reason}; its tags could not be shown to be wrong")]
    Unexplained {
        /// The check that failed, as far as the device reported it.
        reason: PiStatus,
    },
}

/// The check that failed, as a device reports it.
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
    /// The failure of a read that was refused for `reason`, and repeated without checks with the
    /// outcome `repeated`. `verify` checks the data that came then.
    pub(super) fn of_read(
        reason: PiStatus,
        repeated: io::Result<()>,
        verify: impl FnOnce() -> Result<(), SidecarError>,
    ) -> Self {
        match repeated.map(|()| verify()) {
            Ok(Err(found)) => Self::Read { reason, found },
            Ok(Ok(())) => Self::Unexplained { reason },
            Err(_) => Self::Withheld { reason },
        }
    }

    /// The failure of a write from `buffer` that was refused for `reason`.
    pub(super) fn of_write(reason: PiStatus, buffer: &TransferBuffer) -> Self {
        match buffer {
            TransferBuffer::Bounce(_) => Self::Write { reason },
            TransferBuffer::Guest(..) => Self::UnstableWrite { reason },
        }
    }

    /// The failure in an error that a device returned, if there is one.
    pub fn in_error(error: &io::Error) -> Option<&Self> {
        error.get_ref()?.downcast_ref()
    }
}

impl PiStatus {
    /// The failed check in an error of the kernel, if it is one of tags.
    pub(super) fn of_error(error: &io::Error) -> Option<Self> {
        (error.raw_os_error() == Some(libc::EILSEQ)).then_some(Self::Unspecified)
    }
}
