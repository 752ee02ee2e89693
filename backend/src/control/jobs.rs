//! What the control thread has done for it, so that it waits for nothing: by a thread for work of its own, one after the other.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::mpsc::{self, Sender};
use std::sync::{Arc, Mutex, PoisonError};
use std::{fmt, io, thread};

use rustix::event::{EventfdFlags, eventfd};

/// Results on their way to the control thread.
#[derive(Debug)]
pub(super) struct Results<T> {
    results: Mutex<Vec<T>>,
    wake: OwnedFd,
}

impl<T> Results<T> {
    fn new() -> io::Result<Self> {
        let wake = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        Ok(Self { results: Mutex::default(), wake })
    }

    /// Leaves a result, and wakes the control thread.
    pub(super) fn post(&self, result: T) {
        self.results.lock().unwrap_or_else(PoisonError::into_inner).push(result);
        // fails only when the counter is full, and then the thread has been woken
        let _ = rustix::io::write(&self.wake, &1u64.to_ne_bytes());
    }

    fn take(&self) -> Vec<T> {
        let _ = rustix::io::read(&self.wake, &mut [0; 8]);
        std::mem::take(&mut *self.results.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

type Job<T> = Box<dyn FnOnce() -> T + Send>;

/// A thread that does what may take long. It is started by the first job, and sleeps without one.
pub(super) struct Jobs<T> {
    results: Arc<Results<T>>,
    thread: Option<Sender<Job<T>>>,
}

impl<T> fmt::Debug for Jobs<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Jobs").field("started", &self.thread.is_some()).finish_non_exhaustive()
    }
}

impl<T: Send + 'static> Jobs<T> {
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self { results: Arc::new(Results::new()?), thread: None })
    }

    /// Readable when there are results.
    pub(super) fn wake_fd(&self) -> BorrowedFd<'_> {
        self.results.wake.as_fd()
    }

    /// Where others leave results.
    pub(super) fn results(&self) -> &Arc<Results<T>> {
        &self.results
    }

    /// All results so far.
    pub(super) fn take(&self) -> Vec<T> {
        self.results.take()
    }

    /// Has `job` done after those before it. The thread is not waited for at the end of the process.
    pub(super) fn start(&mut self, job: impl FnOnce() -> T + Send + 'static) -> io::Result<()> {
        let mut job: Job<T> = Box::new(job);
        if let Some(thread) = &self.thread {
            match thread.send(job) {
                Ok(()) => return Ok(()),
                // the thread is gone: a panic, which release builds do not survive
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
