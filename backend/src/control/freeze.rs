//! Freezing the disk for a snapshot of its files: the queues drain, everything is made durable, the
//! sidecar is closed as at a clean end, and no request is taken until the disk is thawed.
//!
//! The storage stays locked meanwhile. A client that does not thaw the disk in time gets an error
//! afterwards, since its snapshot may be of no one moment.

use std::io;
use std::time::{Duration, Instant};

use super::protocol::{ControlReply, FREEZE_SECONDS_MAX, FreezeResult, ThawResult};
use super::stopped_work::{JobResult, StoppedWork};
use super::thread::ControlThread;
use super::whole_disk::Freeze;
use crate::device::BlockDevice;
use crate::report;

/// When the disk is thawed after that has failed for want of a thread.
const RETRY_PAUSE: Duration = Duration::from_secs(1);

impl<B: BlockDevice> ControlThread<'_, B> {
    /// Begins to freeze the disk.
    pub(super) fn freeze(&mut self, client: u64, seconds: u64) {
        let refusal = match self.freeze {
            _ if seconds == 0 || seconds > FREEZE_SECONDS_MAX => {
                format!("a disk can be frozen for 1 to {FREEZE_SECONDS_MAX} seconds")
            }
            Freeze::Not => {
                self.freeze = Freeze::Begun { since: Instant::now(), limit: Duration::from_secs(seconds) };
                self.do_while_stopped(StoppedWork::Freeze { client });
                return;
            }
            _ => "the disk is frozen already".to_owned(),
        };
        self.reply(client, &ControlReply::Error(refusal));
    }

    /// No queue can be opened any more, or the disk cannot be frozen.
    pub(super) fn close_frozen(&mut self, client: u64, result: io::Result<()>) {
        if result.is_err() {
            return self.is_frozen(client, result);
        }
        let disk = self.disk.clone();
        let close = move || JobResult::FrozenClosed { client, result: disk.device.close_frozen() };
        if !self.start_job(Some(client), close)
            && let Some(since) = self.freeze.since()
        {
            self.thaw_at(since, Instant::now());
        }
    }

    fn thaw_at(&mut self, since: Instant, until: Instant) {
        self.freeze = Freeze::Frozen { since, until };
    }

    /// The device is closed, or the disk could not be frozen.
    pub(super) fn is_frozen(&mut self, client: u64, result: io::Result<()>) {
        let Freeze::Begun { since, limit } = self.freeze else {
            return;
        };
        let reply = match result {
            Ok(()) => {
                self.freeze = Freeze::Frozen { since, until: Instant::now() + limit };
                let (seconds, took_ms) = (limit.as_secs(), milliseconds(since));
                tracing::info!(took_ms, "the disk is frozen, for at most {seconds} s");
                ControlReply::ok(&FreezeResult { seconds, took_ms })
            }
            Err(error) => {
                let reason = format!("cannot freeze the disk: {}", report::chain(&error));
                tracing::error!("{reason}");
                self.freeze = Freeze::Not;
                self.do_while_stopped(StoppedWork::StartQueues);
                ControlReply::Error(reason)
            }
        };
        self.reply(client, &reply);
        self.answer_requests(client);
    }

    /// Begins to thaw the disk, for a client.
    pub(super) fn thaw(&mut self, client: u64) {
        let refusal = match self.freeze {
            Freeze::Frozen { since, .. } => return self.begin_thaw(Some(client), since),
            Freeze::Not => {
                "the disk is not frozen: a snapshot that was made since its time was over may be of no one moment"
            }
            Freeze::Begun { .. } => "the disk is being frozen: ask again when that is done",
            Freeze::Ending { .. } => "the disk is being thawed, since its time is over",
        };
        self.reply(client, &ControlReply::Error(refusal.to_owned()));
    }

    /// Thaws the disk if it was frozen for long enough.
    pub(super) fn thaw_in_time(&mut self, now: Instant) {
        if let Freeze::Frozen { since, until } = self.freeze
            && until <= now
        {
            tracing::warn!(
                "no client has thawed the disk in time: it continues, and a snapshot may be of no one moment"
            );
            self.begin_thaw(None, since);
        }
    }

    fn begin_thaw(&mut self, client: Option<u64>, since: Instant) {
        self.freeze = Freeze::Ending { since };
        let disk = self.disk.clone();
        if !self.start_job(client, move || JobResult::Thawed { client, result: disk.device.thaw() }) {
            self.thaw_at(since, Instant::now() + RETRY_PAUSE);
        }
    }

    /// The device is open again, or could not be opened.
    pub(super) fn is_thawed(&mut self, client: Option<u64>, result: &io::Result<()>) {
        let Some(since) = self.freeze.since() else {
            return;
        };
        self.freeze = Freeze::Not;
        // where the device is not open, the first of them tries again
        self.do_while_stopped(StoppedWork::StartQueues);
        let stalled_ms = milliseconds(since);
        let reply = match result {
            Ok(()) => {
                tracing::info!(stalled_ms, "the disk is thawed");
                ControlReply::ok(&ThawResult { stalled_ms })
            }
            Err(error) => {
                let reason = format!("cannot open the disk again: {}", report::chain(error));
                tracing::error!("{reason}");
                ControlReply::Error(reason)
            }
        };
        if let Some(client) = client {
            self.reply(client, &reply);
            self.answer_requests(client);
        }
        // the storage may have grown meanwhile
        self.finish_growth();
    }
}

fn milliseconds(since: Instant) -> u64 {
    u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX)
}
