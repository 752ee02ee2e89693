//! Waits of the session for its workers. Each has a limit, after which the log says what does not come.

use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

/// After how long a wait is logged, and then after twice as long, and so on.
const LIMIT: Duration = Duration::from_secs(10);

/// Waits for what `receiver` gets, or for the end of all senders. A worker that still uses guest memory or the device must not be
/// left behind, so the wait goes on after its limit; but then the log says what is waited for.
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
