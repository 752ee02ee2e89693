//! Requests on the control socket, and their replies.

use super::protocol::{ControlReply, ControlRequest, SLOW_MS_MAX};
use super::session_thread::SessionThread;
use super::status::{self, status};
use super::stopped_work::{JobResult, StoppedWork, flush};
use super::thread::ControlThread;
use crate::device::BlockDevice;
use crate::metrics::QueueState;
use crate::report;
use crate::worker::limits::Limits;
use crate::worker::message::WorkerMessage;

impl<B: BlockDevice> ControlThread<'_, B> {
    /// Takes what a client has sent, and answers its requests.
    pub(super) fn attend(&mut self, client: u64, gone: bool) {
        if let Some(clients) = &mut self.clients {
            clients.attend(&self.epoll, client, gone);
        }
        self.answer_requests(client);
    }

    /// Answers the requests that a client has sent, up to one that takes long.
    pub(super) fn answer_requests(&mut self, client: u64) {
        while let Some(request) =
            self.clients.as_mut().and_then(|clients| clients.next_request(&self.epoll, client))
        {
            let request = request.map_err(ToOwned::to_owned).and_then(|line| {
                serde_json::from_slice(&line).map_err(|error| format!("no known request: {error}"))
            });
            match request {
                Ok(request) => self.carry_out(client, request),
                Err(reason) => self.reply(client, &ControlReply::Error(reason)),
            }
        }
    }

    /// Sends a reply to a client, which may be gone.
    pub(super) fn reply(&mut self, client: u64, reply: &ControlReply) {
        if let Some(clients) = &mut self.clients {
            clients.reply(&self.epoll, client, reply);
        }
    }

    fn limit(&self, limits: Option<Limits>) -> ControlReply {
        if let Some(Err(reason)) = limits.map(|limits| limits.check()) {
            return ControlReply::Error(reason);
        }
        self.disk.limiter.set(limits);
        // workers that wait for tokens may continue
        for (inbox, metrics) in self.disk.inboxes.iter().zip(&self.disk.metrics) {
            if metrics.ring.state() == QueueState::Running {
                inbox.post(WorkerMessage::LimitsChanged);
            }
        }
        let limits = status::limits(self.disk, &self.served);
        tracing::info!("limits: {}", limits.as_ref().map_or("none".to_owned(), ToString::to_string));
        ControlReply::ok(&limits)
    }

    fn set_slow(&self, ms: u64) -> ControlReply {
        if ms > SLOW_MS_MAX {
            return ControlReply::Error(format!("{ms} is more than {SLOW_MS_MAX}, a day"));
        }
        self.disk.events.slow.set_limit(ms);
        tracing::info!(ms, "slow requests are those that take longer; with 0, none is");
        ControlReply::done()
    }

    pub(super) fn carry_out(&mut self, client: u64, request: ControlRequest) {
        match request {
            ControlRequest::Status => {
                let connected = self.front_ends.session().map(SessionThread::connected);
                let waiting = self.front_ends.is_any_waiting();
                let frozen = self.freeze.since();
                let status = status(self.disk, &self.served, self.log.text(), connected, waiting, frozen);
                self.reply(client, &ControlReply::ok(&status));
            }
            ControlRequest::Limit { limits } => {
                let reply = self.limit(limits);
                self.reply(client, &reply);
            }
            ControlRequest::Damage => self.reply_damage(client),
            ControlRequest::Accept { first_lba, last_lba } => self.start_accept(client, first_lba, last_lba),
            ControlRequest::ScrubStart { rate, from_start } => self.start_scrub(client, rate, from_start),
            ControlRequest::ScrubStop => self.stop_scrub(client),
            ControlRequest::ScrubStatus => self.reply_scrub(client, Ok(())),
            ControlRequest::SlowMs { ms } => {
                let reply = self.set_slow(ms);
                self.reply(client, &reply);
            }
            ControlRequest::LogLevel { filter } => {
                let reply = match self.log.set(&filter) {
                    Ok(()) => {
                        tracing::info!("logging {filter}");
                        ControlReply::done()
                    }
                    Err(error) => ControlReply::Error(report::chain(&error)),
                };
                self.reply(client, &reply);
            }
            ControlRequest::Flush => {
                let disk = self.disk.clone();
                self.start_job(Some(client), move || JobResult::Reply(client, flush(&disk)));
            }
            ControlRequest::Drain => self.do_while_stopped(StoppedWork::Drain { client }),
            ControlRequest::Thaw => self.thaw(client),
            ControlRequest::Resize { .. } | ControlRequest::Freeze { .. } => {
                self.carry_out_alone(client, &request);
            }
        }
    }
}
