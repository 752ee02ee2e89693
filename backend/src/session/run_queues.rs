//! Stopping queues, and starting them again, around a change of the session.

use super::error::{SessionError, SessionResult, queue_failed};
use super::queue::Queue;
use super::state::Session;
use super::wait::wait;
use crate::device::BlockDevice;
use crate::metrics::QueueState;
use crate::worker::message::WorkerMessage;

impl<B: BlockDevice> Session<B> {
    /// Stops the queue's worker, waits until it has nothing in flight, and takes the queue back.
    pub(super) fn stop(&mut self, index: usize) -> SessionResult<()> {
        let stopped = self.pause(index);
        self.note_stopped();
        stopped
    }

    /// As [`Self::stop`], for a queue that continues soon: its state is not that of one which the
    /// front-end has stopped. [`Self::note_stopped`] has to follow.
    fn pause(&mut self, index: usize) -> SessionResult<()> {
        self.ask_to_stop(index);
        self.take_back(index)
    }

    /// Notes which queues are stopped, after others were started again.
    fn note_stopped(&self) {
        for (queue, metrics) in self.queues.iter().zip(&self.disk.metrics) {
            if queue.worker.is_none() {
                metrics.ring.set_state(QueueState::Stopped);
            }
        }
    }

    fn ask_to_stop(&self, index: usize) {
        if self.queues[index].worker.is_some() {
            self.disk.inboxes[index].post(WorkerMessage::Stop);
        }
    }

    fn take_back(&mut self, index: usize) -> SessionResult<()> {
        let queue = &mut self.queues[index];
        let Some(worker) = queue.worker.take() else {
            return Ok(());
        };
        let (disk, metrics) = (&self.disk, &self.disk.metrics[index]);
        wait(&worker.ended, || {
            disk.inboxes[index].post(WorkerMessage::LogOldest);
            let in_flight = metrics.in_flight.get();
            format!("queue {index} has not stopped, with {in_flight} requests in flight,")
        });
        let ended = worker.thread.join();
        // also when the worker died: the ring has no worker now
        self.disk.metrics[index].ring.set_state(QueueState::Paused);
        match ended {
            Ok(Ok(vring)) => {
                queue.next_avail = vring.ring.next_avail();
                queue.retired = vring.retired;
                queue.left_at = None;
                queue.kick = Some(vring.kick);
                queue.call = vring.call;
                queue.error = vring.error;
                tracing::debug!(queue = index, next_avail = queue.next_avail, "queue stopped");
                Ok(())
            }
            Ok(Err(error)) => Err(queue_failed("the worker died", index, &error)),
            Err(_) => Err(queue_failed("the worker panicked", index, &"see the log above")),
        }
    }

    /// Stops all queues, which drain at the same time.
    pub(super) fn stop_all(&mut self) -> SessionResult<()> {
        let stopped = self.pause_all();
        self.note_stopped();
        stopped
    }

    fn pause_all(&mut self) -> SessionResult<()> {
        (0..self.queues.len()).for_each(|index| self.ask_to_stop(index));
        let mut stopped = Ok(());
        for index in 0..self.queues.len() {
            stopped = self.take_back(index).and(stopped);
        }
        stopped
    }

    /// Makes a change for which no worker may run. Then starts all queues that can run, whether the
    /// change was made or not.
    pub(super) fn while_stopped(
        &mut self,
        change: impl FnOnce(&mut Self) -> SessionResult<()>,
    ) -> SessionResult<()> {
        let done = self.pause_all().and_then(|()| {
            let changed = change(self);
            self.start_all().and(changed)
        });
        self.note_stopped();
        done
    }

    /// Starts all queues that can run.
    pub(super) fn start_all(&mut self) -> SessionResult<()> {
        for index in 0..self.queues.len() {
            match self.start_if_ready(index) {
                Ok(()) => {}
                Err(SessionError::Failed) => return Err(SessionError::Failed),
                // one queue is no reason to refuse a message about all of them
                Err(SessionError::Refused(reason)) => {
                    tracing::debug!(queue = index, "not started: {reason}");
                }
            }
        }
        Ok(())
    }

    /// Changes one queue, which is stopped for it if it runs. If the queue cannot run with the
    /// change, the change is undone.
    pub(super) fn change_queue(&mut self, index: u32, change: impl FnOnce(&mut Queue)) -> SessionResult<()> {
        self.queue(index)?;
        let index = index as usize;
        if let Err(error) = self.pause(index) {
            self.note_stopped();
            return Err(error);
        }
        let Queue { size, addresses, next_avail, retired, enabled, .. } = self.queues[index];
        change(&mut self.queues[index]);
        let started = self.start_if_ready(index);
        if started.is_err() {
            let queue = &mut self.queues[index];
            (queue.size, queue.addresses) = (size, addresses);
            (queue.next_avail, queue.retired, queue.enabled) = (next_avail, retired, enabled);
            // a queue that ran before runs again; for another, the error would be the same as
            // before
            let _ = self.start_if_ready(index);
        }
        self.note_stopped();
        started
    }
}
