//! Waits of the session for its workers. The log reports each that takes long.

use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

/// The time after which a wait is logged first. Each further time is twice as long.
const LIMIT: Duration = Duration::from_secs(10);

/// Waits for a message on `receiver`, or for the end of all senders. A worker that still uses guest
/// memory or the device must not be left behind, so the wait continues after its limit, and the log
/// reports `what` is missing.
pub(super) fn wait<T>(receiver: &Receiver<T>, what: impl Fn() -> String) -> Option<T> {
    let (start, mut limit) = (Instant::now(), LIMIT);
    loop {
        match receiver.recv_timeout(limit.saturating_sub(start.elapsed())) {
            Ok(value) => return Some(value),
            Err(RecvTimeoutError::Disconnected) => return None,
            Err(RecvTimeoutError::Timeout) => {
                tracing::error!("{} after {} s", what(), start.elapsed().as_secs());
                limit *= 2;
            }
        }
    }
}
