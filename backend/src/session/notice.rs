//! Notices to a session.

use std::fmt;

/// A notice from the control thread, or from a worker that has ended.
pub enum Notice {
    /// Work to be done while no queue runs. A session that ends drops it undone.
    WhileStopped(Box<dyn FnOnce() -> DoneWork + Send>),
    /// A worker has ended by itself.
    WorkerEnded,
}

impl Notice {
    /// Work that returns whether it has changed the configuration space.
    pub fn while_stopped(work: impl FnOnce() -> bool + Send + 'static) -> Self {
        Self::WhileStopped(Box::new(move || DoneWork { changed: work(), report: Box::new(|| ()) }))
    }
}

impl fmt::Debug for Notice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::WhileStopped(_) => "WhileStopped",
            Self::WorkerEnded => "WorkerEnded",
        })
    }
}

/// Work that was done while no queue ran.
pub struct DoneWork {
    /// Whether the configuration space has changed.
    pub changed: bool,
    /// Reports the result. To be called when the queues run again.
    pub report: Box<dyn FnOnce() + Send>,
}

impl fmt::Debug for DoneWork {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DoneWork").field("changed", &self.changed).finish_non_exhaustive()
    }
}
