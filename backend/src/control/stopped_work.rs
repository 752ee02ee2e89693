//! Work on the whole disk: by a job beside its queues, or while no queue runs.

use std::io;
use std::sync::Arc;

use super::protocol::{ControlReply, ResizeResult};
use super::resize;
use crate::device::bounce::FolioPool;
use crate::device::growth_error::GrowthError;
use crate::device::operation::DeviceOperation;
use crate::device::{BlockDevice, DeviceQueue, Event, OwnEvents};
use crate::inbox::Inbox;
use crate::report;
use crate::session::DoneWork;
use crate::worker::beside::LEAVE_LIMIT;
use crate::worker::disk::Disk;

/// The result of a job, or of work while no queue ran.
#[derive(Debug)]
pub(super) enum JobResult {
    Nothing,
    /// The reply for a client.
    Reply(u64, ControlReply),
    /// This work is to be done next, or again because the session that was to do it has ended.
    ToDo(StoppedWork),
    /// No queue can be opened any more: the device can be closed.
    Frozen {
        client: u64,
        result: io::Result<()>,
    },
    /// The frozen device was closed, or could not be.
    FrozenClosed {
        client: u64,
        result: io::Result<()>,
    },
    /// The device is open again, or could not be opened.
    Thawed {
        client: Option<u64>,
        result: io::Result<()>,
    },
    /// A resize is over.
    Resized {
        /// The client that asked for it; none where the storage has changed by itself.
        client: Option<u64>,
        /// The size, or why the disk does not have it.
        result: Result<ResizeResult, GrowthError>,
    },
}

/// Work for which no queue may run.
#[derive(Debug, Clone, Copy)]
pub(super) enum StoppedWork {
    /// Nothing: the client wants queues to stop once, and so to drain.
    Drain { client: u64 },
    /// Opening no queue any more.
    Freeze { client: u64 },
    /// Nothing: queues start again afterwards, which they could not while the disk was frozen.
    StartQueues,
    /// Growing to `bytes` bytes, for which the device was prepared.
    Grow { bytes: u64, client: Option<u64> },
}

impl StoppedWork {
    /// Does the work. No queue runs.
    pub(super) fn run<B: BlockDevice>(self, disk: &Disk<B>) -> JobResult {
        match self {
            Self::Drain { client } => JobResult::Reply(client, ControlReply::done()),
            Self::Freeze { client } => {
                let result = match disk.beside.close(LEAVE_LIMIT) {
                    Ok(_closed) => disk.device.freeze(),
                    Err(busy) => Err(busy.into()),
                };
                JobResult::Frozen { client, result }
            }
            Self::StartQueues => JobResult::Nothing,
            Self::Grow { bytes, client } => {
                let grown = match disk.beside.close(LEAVE_LIMIT) {
                    Ok(_closed) => disk.device.grow(bytes),
                    Err(busy) => Err(GrowthError::Io(busy.into())),
                };
                let result = grown.map(|()| ResizeResult { bytes, grown: true });
                JobResult::Resized { client, result }
            }
        }
    }

    /// The work as a session does it. If the session ends before, the work goes back as `ToDo`.
    pub(super) fn for_session<B: BlockDevice>(
        self,
        disk: Arc<Disk<B>>,
        results: Arc<Inbox<JobResult>>,
    ) -> Box<dyn FnOnce() -> DoneWork + Send> {
        let mut posted = PostedWork { work: Some(self), results };
        Box::new(move || {
            let Some(work) = posted.work.take() else {
                return DoneWork { changed: false, report: Box::new(|| ()) };
            };
            let result = work.run(&disk);
            let changed = matches!(result, JobResult::Resized { result: Ok(_), .. });
            // a client that has its reply finds the queues running
            DoneWork { changed, report: Box::new(move || posted.results.post(result)) }
        })
    }
}

/// Work that was posted to a session. Dropped undone, it goes back.
struct PostedWork {
    work: Option<StoppedWork>,
    results: Arc<Inbox<JobResult>>,
}

impl Drop for PostedWork {
    fn drop(&mut self) {
        if let Some(work) = self.work.take() {
            self.results.post(JobResult::ToDo(work));
        }
    }
}

/// Finds out to which size the disk is to grow, and prepares its device for that.
pub(super) fn prepare_growth<B: BlockDevice>(
    disk: &Disk<B>,
    asked: Option<u64>,
    client: Option<u64>,
) -> JobResult {
    let prepare = || match resize::plan(disk, asked)? {
        None => Ok(None),
        Some(size) => disk.device.prepare_growth(size).map(|()| Some(size)),
    };
    match prepare() {
        Ok(Some(bytes)) => JobResult::ToDo(StoppedWork::Grow { bytes, client }),
        Ok(None) => {
            let bytes = disk.device.info().capacity.get();
            JobResult::Resized { client, result: Ok(ResizeResult { bytes, grown: false }) }
        }
        Err(error) => JobResult::Resized { client, result: Err(error) },
    }
}

/// Makes all completed writes durable, by a queue of its own.
pub(super) fn flush<B: BlockDevice>(disk: &Disk<B>) -> ControlReply {
    match try_flush(disk) {
        Ok(()) => ControlReply::done(),
        Err(error) => ControlReply::Error(format!("cannot flush: {}", report::chain(&error))),
    }
}

fn try_flush<B: BlockDevice>(disk: &Disk<B>) -> io::Result<()> {
    let info = disk.device.info();
    let pool = FolioPool::reserve(info.metadata_per_page())?;
    let events = OwnEvents::new()?;
    let Some(mut queue) = disk.device.open_queue_if_held(pool.arena(), events.sources())? else {
        // the hand-over closed it, which made everything durable
        return Ok(());
    };
    queue.submit(DeviceOperation::Flush { request: 0 });
    loop {
        queue.enter(true)?;
        while let Some(event) = queue.reap() {
            if let Event::Done(_, result) = event {
                // A failure for durability that was lost before is not settled by this: the guest
                // is to see it.
                return result;
            }
        }
    }
}
