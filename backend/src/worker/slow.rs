//! Requests that took longer than `--slow-ms`: they are logged with their stages, and the slowest
//! are kept for the status.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::QueueWorker;
use super::stages::{Stages, microseconds};
use crate::device::{BlockDevice, DeviceQueue};
use crate::metrics::SlowRequest;
use crate::worker::request::RequestWork;

/// A request that was timed, and has been done.
#[derive(Debug)]
pub(super) struct Timed {
    pub(super) work: RequestWork,
    pub(super) offset: u64,
    pub(super) len: u64,
    pub(super) succeeded: bool,
    pub(super) stages: Box<Stages>,
}

impl<B: BlockDevice> QueueWorker<B> {
    /// Looks whether requests are to be timed, for this turn.
    pub(super) fn look_for_slow(&mut self) {
        let limit = self.disk.events.slow.limit();
        if limit != self.slow {
            self.slow = limit;
            self.device.note_grants(limit.is_some());
        }
    }

    /// Takes over when the log gave requests leave to change blocks.
    pub(super) fn take_grants(&mut self) {
        if self.slow.is_none() {
            return;
        }
        for (request, at) in self.device.take_grants() {
            let stages = self.requests.active.get_mut(request).and_then(|active| active.stages.as_mut());
            if let Some(stages) = stages {
                stages.granted(at);
            }
        }
    }

    /// Reports a request that took long.
    pub(super) fn report_if_slow(&self, timed: &Timed) {
        let Timed { work, offset, len, succeeded, ref stages } = *timed;
        let total = stages.popped().elapsed();
        if self.slow.is_none_or(|limit| total < limit) {
            return;
        }
        let (queue, metrics) = (self.ring.vring.index, self.metrics());
        metrics.completed.slow.add(1);
        let kind = match work {
            RequestWork::Read => "read",
            RequestWork::Write => "write",
            RequestWork::Flush => "flush",
            RequestWork::Zero(_) => "zeroing",
        };
        let (total_us, reached) = (microseconds(total), stages.times());
        // the log limits messages from one place
        tracing::warn!(
            queue,
            kind,
            offset,
            len,
            succeeded,
            total_us,
            range_us = reached.range_us,
            folio_us = reached.folio_us,
            log_us = reached.log_us,
            submitted_us = reached.submitted_us,
            completed_us = reached.completed_us,
            "slow request"
        );
        let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
        self.disk.events.slow.note(SlowRequest {
            queue,
            kind: kind.to_owned(),
            offset,
            len,
            succeeded,
            ended_unix_ms: u64::try_from(since_1970.as_millis()).unwrap_or(u64::MAX),
            total_us,
            stages: reached,
        });
    }
}
