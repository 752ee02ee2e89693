//! Refusals of messages.

use std::io;

use vhost::vhost_user::{Error as VhostError, Result as VhostResult};

/// Refuses a message, which must have changed nothing.
pub(super) fn refuse(reason: impl Into<String>) -> VhostError {
    VhostError::ReqHandlerError(io::Error::new(io::ErrorKind::InvalidInput, reason.into()))
}

/// A message for which the feature bit was not offered.
pub(super) fn not_offered<T>() -> VhostResult<T> {
    Err(VhostError::InvalidOperation("it was not offered"))
}
