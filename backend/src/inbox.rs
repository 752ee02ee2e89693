//! Messages to a thread, and the eventfd that wakes it for them.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::event::{EventfdFlags, eventfd};

/// A thread's messages and the eventfd that wakes it for them.
#[derive(Debug)]
pub struct Inbox<M> {
    messages: Mutex<Vec<M>>,
    wake: Arc<OwnedFd>,
}

impl<M> Inbox<M> {
    /// An empty inbox.
    pub fn new() -> io::Result<Self> {
        let wake = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        Ok(Self { messages: Mutex::new(Vec::new()), wake: Arc::new(wake) })
    }

    /// Adds `message` and wakes the thread.
    pub fn post(&self, message: M) {
        self.messages().push(message);
        // fails only when the counter is full, and then the thread has been woken
        let _ = rustix::io::write(&self.wake, &1u64.to_ne_bytes());
    }

    /// Takes all messages so far, in order, and leaves the eventfd as it is.
    pub fn take(&self) -> Vec<M> {
        std::mem::take(&mut *self.messages())
    }

    /// Clears the eventfd and takes all messages so far, in order. The next message wakes the
    /// thread.
    pub fn receive(&self) -> Vec<M> {
        // fails only when the eventfd is clear
        let _ = rustix::io::read(&self.wake, &mut [0; 8]);
        self.take()
    }

    /// The eventfd, to poll.
    pub fn wake_fd(&self) -> BorrowedFd<'_> {
        self.wake.as_fd()
    }

    /// The eventfd, for a device's queue that polls it for the thread.
    pub fn shared_wake_fd(&self) -> &Arc<OwnedFd> {
        &self.wake
    }

    fn messages(&self) -> MutexGuard<'_, Vec<M>> {
        self.messages.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
