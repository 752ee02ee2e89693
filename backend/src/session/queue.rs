//! A queue of a session: its settings from the front-end, and its worker while it runs.

use std::io;
use std::sync::mpsc::Receiver;
use std::thread::JoinHandle;

use crate::guest::eventfd::{CallFd, KickFd};
use crate::worker::Vring;

/// The addresses of a ring in the front-end's address space, as the front-end gives them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct FrontendAddresses {
    pub(super) descriptor: u64,
    pub(super) available: u64,
    pub(super) used: u64,
    /// The place where writes to the used ring are logged: a guest address, unlike the others.
    pub(super) used_log: Option<u64>,
}

/// The thread that serves a queue.
#[derive(Debug)]
pub(super) struct Worker {
    /// The thread, which returns the ring.
    pub(super) thread: JoinHandle<io::Result<Vring>>,
    /// A receiver whose sender is dropped when the thread ends.
    pub(super) ended: Receiver<()>,
}

/// A queue as the front-end has set it up so far.
#[derive(Debug, Default)]
pub(super) struct Queue {
    pub(super) size: u16,
    pub(super) addresses: Option<FrontendAddresses>,
    pub(super) next_avail: u16,
    /// The available index at a reset, until there is a new ring. QEMU 7.2 resets the device first
    /// when it stops a guest, and asks for the indices of its rings after that.
    pub(super) left_at: Option<u16>,
    /// Whether a worker found the ring broken. Stopping and starting it does not repair it.
    pub(super) retired: bool,
    pub(super) kick: Option<KickFd>,
    pub(super) call: Option<CallFd>,
    pub(super) error: Option<CallFd>,
    pub(super) enabled: bool,
    pub(super) worker: Option<Worker>,
}

impl Queue {
    /// Resets the queue to its state before a driver has found it.
    pub(super) fn reset(&mut self) {
        *self = Self { left_at: self.left_at.or(Some(self.next_avail)), ..Self::default() };
    }
}
