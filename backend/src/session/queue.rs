//! A queue as the session has it: what the front-end said of it, and its worker while it runs.

use std::io;
use std::sync::mpsc::Receiver;
use std::thread::JoinHandle;

use crate::guest::eventfd::{CallFd, KickFd};
use crate::worker::Vring;

/// Ring addresses in the front-end's address space, as the front-end gives them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct FrontendAddresses {
    pub(super) descriptor: u64,
    pub(super) available: u64,
    pub(super) used: u64,
    /// Where writes to the used ring are to be logged: a guest address, unlike the others.
    pub(super) used_log: Option<u64>,
}

/// A thread that serves a queue.
#[derive(Debug)]
pub(super) struct Worker {
    /// What it gives back.
    pub(super) thread: JoinHandle<io::Result<Vring>>,
    /// Its sender is dropped when the thread ends.
    pub(super) ended: Receiver<()>,
}

/// A queue as the front-end has set it up so far.
#[derive(Debug, Default)]
pub(super) struct Queue {
    pub(super) size: u16,
    pub(super) addresses: Option<FrontendAddresses>,
    pub(super) next_avail: u16,
    /// Where a reset left the ring, until there is a new one. QEMU 7.2 resets the device first when it stops a guest, and then
    /// asks where its rings stood.
    pub(super) left_at: Option<u16>,
    /// A worker found the ring broken. Stopping and starting it mends nothing.
    pub(super) retired: bool,
    pub(super) kick: Option<KickFd>,
    pub(super) call: Option<CallFd>,
    pub(super) error: Option<CallFd>,
    pub(super) enabled: bool,
    pub(super) worker: Option<Worker>,
}

impl Queue {
    /// A queue before a driver has found it.
    pub(super) fn reset(&mut self) {
        *self = Self { left_at: self.left_at.or(Some(self.next_avail)), ..Self::default() };
    }
}
