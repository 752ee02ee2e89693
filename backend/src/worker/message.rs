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
    /// Where to signal used buffers from now on; `None`: the driver polls.
    Call(Option<CallFd>),
    /// The memory has grown: this is all of it. Dropping the sender says that it was taken over.
    Memory(Arc<GuestMemory>, Sender<()>),
    /// Log the oldest request: the queue makes no progress.
    LogOldest,
    /// Pop no more, finish what was popped, return the ring.
    Stop,
}
