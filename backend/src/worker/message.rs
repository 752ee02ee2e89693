//! Messages to a worker: from the session, from the watchdog, and from workers whose release
//! granted it a range.

use std::sync::Arc;
use std::sync::mpsc::Sender;

use crate::guest::eventfd::CallFd;
use crate::guest::memory_table::GuestMemory;

/// A message to a worker.
#[derive(Debug)]
pub enum WorkerMessage {
    /// The range that this request waited for is held now.
    Granted(usize),
    /// The eventfd by which to signal used buffers from now on; `None` when the driver polls.
    Call(Option<CallFd>),
    /// All of the memory, which has grown. The sender is dropped when it was taken over.
    Memory(Arc<GuestMemory>, Sender<()>),
    /// Other limits count. Looking at them again is all that is needed.
    LimitsChanged,
    /// Log the oldest request, because the queue makes no progress.
    LogOldest,
    /// Pop no more chains, finish those that were popped, and return the ring.
    Stop,
}
