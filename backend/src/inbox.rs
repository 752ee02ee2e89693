//! What others tell a worker: the session, and workers whose release granted it a range.

use std::sync::{Mutex, PoisonError};

use rustix::event::{EventfdFlags, eventfd};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use crate::event::CallFd;

/// A message to a worker.
#[derive(Debug)]
pub enum Message {
    /// The range that this request waited for is held now.
    Granted(usize),
    /// Where to signal used buffers from now on; `None`: the driver polls.
    Call(Option<CallFd>),
    /// Pop no more, finish what was popped, return the ring.
    Stop,
}

/// A worker's messages and the eventfd that wakes it for them.
#[derive(Debug)]
pub struct Inbox {
    messages: Mutex<Vec<Message>>,
    wake: OwnedFd,
}

impl Inbox {
    /// An empty inbox.
    pub fn new() -> std::io::Result<Self> {
        let wake = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        Ok(Self { messages: Mutex::new(Vec::new()), wake })
    }

    /// Leaves `message` and wakes the worker.
    pub fn post(&self, message: Message) {
        self.messages.lock().unwrap_or_else(PoisonError::into_inner).push(message);
        // fails only when the counter is full, and then the worker has been woken
        let _ = rustix::io::write(&self.wake, &1u64.to_ne_bytes());
    }

    /// All messages so far, in order.
    pub fn take(&self) -> Vec<Message> {
        std::mem::take(&mut *self.messages.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// The eventfd, for the ring's poll.
    pub fn wake_fd(&self) -> BorrowedFd<'_> {
        self.wake.as_fd()
    }
}
