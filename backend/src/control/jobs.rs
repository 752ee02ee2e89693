//! Work of the control thread that may take long. A thread of its own does it, one job after the
//! other, so that the control thread never blocks.

use std::sync::Arc;
use std::sync::mpsc::{self, Sender};
use std::{fmt, io, thread};

use crate::inbox::Inbox;

type Job<T> = Box<dyn FnOnce() -> T + Send>;

/// A thread for jobs. The first job starts it, and it sleeps while there is none.
pub(super) struct Jobs<T> {
    /// Results on their way to the control thread.
    results: Arc<Inbox<T>>,
    thread: Option<Sender<Job<T>>>,
}

impl<T> fmt::Debug for Jobs<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Jobs").field("started", &self.thread.is_some()).finish_non_exhaustive()
    }
}

impl<T: Send + 'static> Jobs<T> {
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self { results: Arc::new(Inbox::new()?), thread: None })
    }

    /// The inbox of results, where a session leaves its own too.
    pub(super) fn results(&self) -> &Arc<Inbox<T>> {
        &self.results
    }

    /// Has `job` done after those before it. The end of the process does not wait for it.
    pub(super) fn start(&mut self, job: impl FnOnce() -> T + Send + 'static) -> io::Result<()> {
        let mut job: Job<T> = Box::new(job);
        if let Some(thread) = &self.thread {
            match thread.send(job) {
                Ok(()) => return Ok(()),
                // the thread has panicked, which release builds do not survive
                Err(unsent) => job = unsent.0,
            }
        }
        let (sender, jobs) = mpsc::channel::<Job<T>>();
        let results = self.results.clone();
        thread::Builder::new().name("jobs".to_owned()).spawn(move || {
            for job in jobs {
                results.post(job());
            }
        })?;
        let _ = sender.send(job);
        self.thread = Some(sender);
        Ok(())
    }
}
