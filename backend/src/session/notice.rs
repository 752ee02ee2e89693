//! Notices to a session.

use std::fmt;

/// A notice from the control thread, or from a worker that has ended.
pub enum Notice {
    /// Work to be done while no queue runs. It returns whether the configuration space has changed.
    /// A session that ends drops it undone.
    WhileStopped(Box<dyn FnOnce() -> bool + Send>),
    /// A worker has ended by itself.
    WorkerEnded,
}

impl fmt::Debug for Notice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::WhileStopped(_) => "WhileStopped",
            Self::WorkerEnded => "WorkerEnded",
        })
    }
}
