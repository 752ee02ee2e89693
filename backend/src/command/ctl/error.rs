//! Replies that cannot be shown.

use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use serde_json::Value;
use thiserror::Error;

use super::snapshot::SnapshotError;
use crate::control::client::ClientError;

/// Why there is nothing to print.
#[derive(Debug, Error)]
pub enum CtlError {
    /// There is no reply, or a refusal.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// The reply is none that this program knows.
    #[error("{} sends a reply that this program cannot show: use the stableblk that serves the disk, or --json", path.display())]
    Unknown {
        /// The socket.
        path: PathBuf,
        /// The part that is unknown.
        #[source]
        source: serde_json::Error,
    },
    /// The disk could not be copied.
    #[error(transparent)]
    Snapshot(#[from] SnapshotError),
    /// The reply cannot be printed.
    #[error(transparent)]
    Output(#[from] crate::storage::error::ImageError),
}

impl CtlError {
    /// The exit status for the error.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Client(ClientError::Refused(_)) | Self::Output(_) => 1,
            Self::Client(_) | Self::Snapshot(SnapshotError::Client(_)) | Self::Unknown { .. } => 3,
            Self::Snapshot(_) => 1,
        }
    }
}

/// A reply from the disk at `socket`, as this program knows it.
pub(super) fn read<T: DeserializeOwned>(socket: &Path, result: Value) -> Result<T, CtlError> {
    serde_json::from_value(result).map_err(|source| CtlError::Unknown { path: socket.to_owned(), source })
}
