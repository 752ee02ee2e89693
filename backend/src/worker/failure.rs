//! Why a part of a request failed.

use std::io;

use integrity::LengthError;
use integrity::sidecar::SidecarError;
use thiserror::Error;
use virtio::{CopyError, Status};

use crate::device::PiFailure;
use crate::metrics::{Counter, QueueMetrics};

/// Why a part of a request failed, for the driver, the log and the counters.
#[derive(Debug, Error)]
pub(super) enum Failure {
    #[error(transparent)]
    Device(#[from] io::Error),
    #[error(transparent)]
    Integrity(#[from] SidecarError),
    #[error(transparent)]
    Copy(#[from] CopyError),
    #[error(transparent)]
    Length(#[from] LengthError),
    /// Bytes that were copied are not the guest's, or did not reach it.
    #[error("the guest's memory is lost")]
    MemoryLost,
}

impl Failure {
    /// The status that the request is answered with. virtio-blk has one status for all failures of
    /// a request that was in order (virtio 1.2, 5.2.6); requests that are not in order are refused
    /// by [`virtio::Request::check`].
    pub(super) fn status(&self) -> Status {
        match self {
            Self::Device(_) | Self::Integrity(_) | Self::Copy(_) | Self::Length(_) | Self::MemoryLost => {
                Status::IoErr
            }
        }
    }

    /// The counter of such failures.
    pub(super) fn counter<'a>(&self, metrics: &'a QueueMetrics) -> &'a Counter {
        match self {
            Self::Integrity(_) | Self::Length(_) => &metrics.failed.integrity_errors,
            Self::Device(error) => match PiFailure::in_error(error) {
                Some(PiFailure::UnstableWrite { .. }) => &metrics.failed.unstable_writes,
                Some(_) => &metrics.failed.integrity_errors,
                None if is_no_space(error) => &metrics.failed.no_space,
                None => &metrics.failed.device_errors,
            },
            Self::Copy(_) | Self::MemoryLost => &metrics.failed.device_errors,
        }
    }
}

/// Whether the storage is full. A full quota counts too: the cure is the same, to make room.
fn is_no_space(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}
