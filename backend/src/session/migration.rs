//! The session's part in a live migration: the dirty log, and the hand-over of the disk.

use std::sync::mpsc;
use std::{io, thread};

use super::error::{SessionError, SessionResult, refuse};
use super::state::Session;
use super::wait::wait;
use crate::device::BlockDevice;
use crate::worker::beside::LEAVE_LIMIT;

impl<B: BlockDevice> Session<B> {
    /// Switches the dirty log. It is on while the front-end asks for it (`migrating`) and has given
    /// a log, in whichever order.
    pub(super) fn switch_log(&mut self, migrating: bool) -> SessionResult<()> {
        let log = self.memory.dirty_log();
        let on = migrating && log.has_base();
        if on != log.is_on() {
            if on {
                // memory may have been added since the log was given
                log.covers(self.memory.end()).map_err(|error| refuse(error.to_string()))?;
            }
            log.switch(on)
                .map_err(|error| refuse(format!("membarrier, which a dirty log needs: {error}")))?;
            tracing::info!("the dirty log is {}", if on { "on" } else { "off" });
        }
        self.migrating = migrating;
        Ok(())
    }

    /// Hands the disk over when a migration switches over: its source stops all queues while it
    /// still logs. From the reply on, the disk belongs to the destination, until queues start here
    /// again because the migration has failed. An error, when the disk could not be closed, ends
    /// the session: a reply would say that everything is on the disk.
    pub(super) fn hand_over_if_migrated(&self) -> SessionResult<()> {
        if !self.memory.dirty_log().is_on() || self.queues.iter().any(|queue| queue.worker.is_some()) {
            return Ok(());
        }
        let (done, handed_over) = mpsc::channel();
        let disk = self.disk.clone();
        let spawned = thread::Builder::new().name("hand over".to_owned());
        let spawned = spawned.spawn(move || {
            let handed_over = match disk.beside.close(LEAVE_LIMIT) {
                Ok(_closed) => disk.device.hand_over(),
                Err(busy) => Err(busy.into()),
            };
            done.send(handed_over)
        });
        let handed_over = match spawned {
            Ok(_) => wait(&handed_over, || "the disk is not closed for its hand-over".to_owned())
                .unwrap_or_else(|| Err(io::Error::other("the hand-over panicked"))),
            Err(error) => Err(error),
        };
        handed_over.map_err(|error| {
            tracing::error!(
                "cannot close the disk before its hand-over, so the migration is refused: {}; keep the guest \
                 here, and check its file systems",
                crate::report::chain(&error)
            );
            SessionError::Failed
        })
    }
}
