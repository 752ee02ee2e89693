//! What is done to the whole disk: by a job beside its queues, or while they stand still.

use std::io;
use std::sync::Arc;

use super::protocol::{Reply, Size};
use crate::control::resize;
use crate::device::bounce::FolioPool;
use crate::device::growth_error::GrowthError;
use crate::device::operation::DeviceOperation;
use crate::device::{BlockDevice, DeviceQueue, Event, OwnEvents};
use crate::inbox::Inbox;
use crate::report;
use crate::worker::disk::Disk;

/// What has been done for the control thread.
#[derive(Debug)]
pub(super) enum Done {
    /// The answer for a client.
    Answer(u64, Reply),
    /// This is to be done next, or again: the session that was to do it has ended.
    Todo(Quiet),
    /// A resize is over.
    Resized {
        /// Who asked for it; nobody where the storage was seen to have changed.
        client: Option<u64>,
        result: Result<Size, GrowthError>,
    },
}

/// Work for which no queue may run.
#[derive(Debug, Clone, Copy)]
pub(super) enum Quiet {
    /// Nothing: that queues stand still is what is wanted.
    Drain { client: u64 },
    /// To grow to so many bytes, for which the device was made ready.
    Grow { bytes: u64, client: Option<u64> },
}

impl Quiet {
    /// Does it, now that no queue runs.
    pub(super) fn run<B: BlockDevice>(self, disk: &Disk<B>) -> Done {
        match self {
            Self::Drain { client } => Done::Answer(client, Reply::done()),
            Self::Grow { bytes, client } => {
                let result = disk.device.grow(bytes).map(|()| Size { bytes, grown: true });
                Done::Resized { client, result }
            }
        }
    }

    /// The same for a session to do, which may end before it does.
    pub(super) fn by_session<B: BlockDevice>(
        self,
        disk: Arc<Disk<B>>,
        results: Arc<Inbox<Done>>,
    ) -> Box<dyn FnOnce() -> bool + Send> {
        let mut errand = Errand { quiet: Some(self), results };
        Box::new(move || {
            let Some(quiet) = errand.quiet.take() else {
                return false;
            };
            let done = quiet.run(&disk);
            let changed = matches!(done, Done::Resized { result: Ok(_), .. });
            errand.results.post(done);
            changed
        })
    }
}

/// Work on its way to a session. Dropped undone, it goes back.
struct Errand {
    quiet: Option<Quiet>,
    results: Arc<Inbox<Done>>,
}

impl Drop for Errand {
    fn drop(&mut self) {
        if let Some(quiet) = self.quiet.take() {
            self.results.post(Done::Todo(quiet));
        }
    }
}

/// Finds out to which size the disk is to grow, and makes its device ready for that.
pub(super) fn prepare_growth<B: BlockDevice>(
    disk: &Disk<B>,
    asked: Option<u64>,
    client: Option<u64>,
) -> Done {
    let prepare = || match resize::plan(disk, asked)? {
        None => Ok(None),
        Some(size) => disk.device.prepare_growth(size).map(|()| Some(size)),
    };
    match prepare() {
        Ok(Some(bytes)) => Done::Todo(Quiet::Grow { bytes, client }),
        Ok(None) => {
            let bytes = disk.device.info().capacity.get();
            Done::Resized { client, result: Ok(Size { bytes, grown: false }) }
        }
        Err(error) => Done::Resized { client, result: Err(error) },
    }
}

/// Makes all writes that are complete durable, by a queue of its own.
pub(super) fn flush<B: BlockDevice>(disk: &Disk<B>) -> Reply {
    match try_flush(disk) {
        Ok(()) => Reply::done(),
        Err(error) => Reply::Error(format!("cannot flush: {}", report::chain(&error))),
    }
}

fn try_flush<B: BlockDevice>(disk: &Disk<B>) -> io::Result<()> {
    let info = disk.device.info();
    let pool = FolioPool::reserve(info.metadata_per_page())?;
    let events = OwnEvents::new()?;
    let Some(mut queue) = disk.device.open_queue_if_held(pool.arena(), events.sources())? else {
        // it was closed when it was handed over, which made everything durable
        return Ok(());
    };
    queue.submit(DeviceOperation::Flush { request: 0 });
    loop {
        queue.enter(true)?;
        while let Some(event) = queue.reap() {
            if let Event::Done(_, result) = event {
                // one that fails for durability that was lost before settles nothing: the guest is to see it
                return result;
            }
        }
    }
}
