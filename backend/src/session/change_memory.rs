//! Changes of the memory that the front-end shares, around the workers that use it.

use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::{Duration, Instant};

use super::error::{SessionError, SessionResult, refuse};
use super::state::Session;
use crate::device::BlockDevice;
use crate::guest::memory_table::{MemoryError, MemoryTable};
use crate::report;
use crate::worker::message::WorkerMessage;

/// How often to look whether a worker that does not answer has died.
const DEAD_WORKER_INTERVAL: Duration = Duration::from_millis(100);

/// How long a worker may take to use memory that was added.
const MEMORY_LIMIT: Duration = Duration::from_secs(30);

impl<B: BlockDevice> Session<B> {
    /// Changes the memory while all queues are stopped.
    pub(super) fn change_memory(
        &mut self,
        change: impl FnOnce(&mut MemoryTable) -> Result<(), MemoryError>,
    ) -> SessionResult<()> {
        self.while_stopped(|session| {
            change(&mut session.memory).map_err(|error| refuse(report::chain(&error)))
        })
    }

    /// Adds memory. No queue is stopped for it. All queues use it when this returns, because a
    /// request may lie in it from then on.
    pub(super) fn grow_memory(
        &mut self,
        change: impl FnOnce(&mut MemoryTable) -> Result<(), MemoryError>,
    ) -> SessionResult<()> {
        change(&mut self.memory).map_err(|error| refuse(report::chain(&error)))?;
        let (taken, untaken) = mpsc::channel();
        for (queue, inbox) in self.queues.iter().zip(&self.disk.inboxes) {
            if queue.worker.is_some() {
                inbox.post(WorkerMessage::Memory(self.memory.memory().clone(), taken.clone()));
            }
        }
        drop(taken);
        let start = Instant::now();
        while untaken.recv_timeout(DEAD_WORKER_INTERVAL) == Err(RecvTimeoutError::Timeout) {
            for (queue, inbox) in self.queues.iter().zip(&self.disk.inboxes) {
                if queue.worker.as_ref().is_some_and(|worker| worker.thread.is_finished()) {
                    inbox.take();
                }
            }
            if start.elapsed() > MEMORY_LIMIT {
                let seconds = MEMORY_LIMIT.as_secs();
                tracing::error!("a queue has not taken the new memory over after {seconds} s");
                return Err(SessionError::Failed);
            }
        }
        self.start_all()
    }
}
