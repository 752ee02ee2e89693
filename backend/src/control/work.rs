//! Work that the control thread gives to others, and the results of it: jobs, work while no queue
//! runs, and the growth of the disk, which needs both.

use super::protocol::{ControlReply, ControlRequest, ResizeResult};
use super::stopped_work::{JobResult, StoppedWork, prepare_growth};
use super::thread::ControlThread;
use super::whole_disk::Resizing;
use crate::device::BlockDevice;
use crate::device::growth_error::GrowthError;
use crate::report;
use crate::session::Notice;

impl<B: BlockDevice> ControlThread<'_, B> {
    /// Puts a request off that cannot be carried out during a resize, if no client has asked for
    /// that one. False: the client is to ask again.
    fn put_off(&mut self, client: u64, request: &ControlRequest) -> bool {
        let is_possible = self.resizing == Resizing::ByItself && self.asked_meanwhile.is_none();
        if is_possible {
            self.asked_meanwhile = Some((client, request.clone()));
        }
        is_possible
    }

    /// Carries out a request for the whole disk that no resize may be under way for.
    pub(super) fn carry_out_alone(&mut self, client: u64, request: &ControlRequest) {
        let is_resizing = self.resizing != Resizing::No;
        let reason = match *request {
            ControlRequest::Resize { .. } if self.freeze.since().is_some() => {
                "the disk is frozen: thaw it first"
            }
            _ if is_resizing && self.put_off(client, request) => return,
            _ if is_resizing => "another resize is under way: ask again when it is done",
            ControlRequest::Resize { size } => return self.resize(size, Some(client)),
            ControlRequest::Freeze { seconds } => return self.freeze(client, seconds),
            _ => return,
        };
        self.reply(client, &ControlReply::Error(reason.to_owned()));
    }

    /// Starts a job, for `client` if it is for one. False: it cannot be started, and the client has
    /// its reply.
    pub(super) fn start_job(
        &mut self,
        client: Option<u64>,
        job: impl FnOnce() -> JobResult + Send + 'static,
    ) -> bool {
        let started = self.jobs.start(job);
        if let Err(error) = &started {
            let reason = format!("cannot start a thread: {error}");
            tracing::error!("{reason}");
            self.resizing = Resizing::No;
            if let Some(client) = client {
                self.reply(client, &ControlReply::Error(reason));
            }
        }
        started.is_ok()
    }

    /// Does work for which no queue may run: by the session, or at once when there is none.
    pub(super) fn do_while_stopped(&mut self, work: StoppedWork) {
        if let Some(session) = self.front_ends.session() {
            let work = work.for_session(self.disk.clone(), self.jobs.results().clone());
            session.post(Notice::WhileStopped(work));
        } else {
            let result = work.run(self.disk);
            self.take_result(result);
        }
    }

    pub(super) fn take_results(&mut self) {
        for result in self.jobs.results().receive() {
            self.take_result(result);
        }
    }

    fn take_result(&mut self, result: JobResult) {
        match result {
            JobResult::Reply(client, reply) => {
                self.reply(client, &reply);
                self.answer_requests(client);
            }
            JobResult::Nothing => {}
            JobResult::Frozen { client, result } => self.close_frozen(client, result),
            JobResult::FrozenClosed { client, result } => self.is_frozen(client, result),
            JobResult::Thawed { client, result } => self.is_thawed(client, &result),
            JobResult::ToDo(work) => self.do_while_stopped(work),
            JobResult::Resized { client, result } => self.end_resize(client, result),
        }
    }

    /// Measures the storage again: a process that could write the image has closed it, a file was
    /// renamed or deleted, or a device has changed.
    pub(super) fn storage_changed(&mut self) {
        if let Some(size) = &mut self.size {
            size.take();
        }
        if self.resizing == Resizing::No {
            self.resize(None, None);
        } else {
            self.measure_again = true;
        }
    }

    /// Grows into storage that is larger than the disk: a growth was cut off, or was never
    /// announced.
    pub(super) fn finish_growth(&mut self) {
        let device = &self.disk.device;
        let served = device.info().capacity.get();
        let is_larger = device.is_held() && device.measure().is_ok_and(|size| size.bytes > served);
        if is_larger && !self.disk.limits.read_only {
            self.storage_changed();
        }
    }

    /// Starts to grow the disk to `size`, or to the size of its storage.
    pub(super) fn resize(&mut self, size: Option<u64>, client: Option<u64>) {
        self.resizing = if client.is_some() { Resizing::Asked } else { Resizing::ByItself };
        let disk = self.disk.clone();
        self.start_job(client, move || prepare_growth(&disk, size, client));
    }

    fn end_resize(&mut self, client: Option<u64>, result: Result<ResizeResult, GrowthError>) {
        self.resizing = Resizing::No;
        match &result {
            Ok(size) if size.grown => tracing::info!(bytes = size.bytes, "the disk has grown"),
            Ok(_) => {}
            // another host writes to it
            Err(GrowthError::NotHeld) if client.is_none() => {}
            Err(error) => tracing::error!("the disk does not grow: {}", report::chain(error)),
        }
        if let Some(client) = client {
            let reply = result.map_or_else(
                |error| ControlReply::Error(report::chain(&error)),
                |size| ControlReply::ok(&size),
            );
            self.reply(client, &reply);
            self.answer_requests(client);
        }
        if let Some((client, request)) = self.asked_meanwhile.take() {
            self.carry_out(client, request);
        }
        if std::mem::take(&mut self.measure_again) && self.resizing == Resizing::No {
            self.resize(None, None);
        }
    }
}
