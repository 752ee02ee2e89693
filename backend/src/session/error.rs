//! The errors of a session.

use thiserror::Error;

/// Why a message was not carried out.
#[derive(Debug, Error)]
pub(super) enum SessionError {
    /// The message is refused. It has changed nothing, and the session can continue.
    #[error("{0}")]
    Refused(String),
    /// A queue or the disk cannot be used any more; the log has the cause. The session ends.
    #[error("the session cannot continue")]
    Failed,
}

/// The result of a message.
pub(super) type SessionResult<T> = Result<T, SessionError>;

/// The error for a message that is refused for `reason`.
pub(super) fn refuse(reason: impl Into<String>) -> SessionError {
    SessionError::Refused(reason.into())
}

/// The error for a message whose feature was not offered.
pub(super) fn not_offered() -> SessionError {
    refuse("it was not offered")
}

/// Logs why a queue can never be served again. The error ends the session.
pub(super) fn queue_failed(what: &str, queue: usize, error: &dyn std::fmt::Display) -> SessionError {
    tracing::error!(queue, "{what}: {error}");
    SessionError::Failed
}
