//! The requests to the log's thread, and their results.

use std::io;

use crate::sidecar::checkpoint::Spoiled;

/// The errno of a failure that has none of its own.
pub(super) const EIO: i32 = 5;

/// Something that the log's thread does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Task {
    Commit,
    Checkpoint,
    Verification,
}

/// The task that a change, a flush or a read waits for, and the last attempt before the wait began.
#[derive(Debug, Clone, Copy)]
pub struct Waits {
    task: Task,
    since: u64,
}

/// The state of one task.
#[derive(Debug, Default)]
pub(super) struct Demand {
    /// Whether something needs it done.
    pub(super) wanted: bool,
    /// Whether the last attempt failed. It is tried again when a change waits for it, and once a
    /// second; not for each write.
    pub(super) failing: bool,
    /// The last attempt that failed, and the errno.
    failure: Option<(u64, i32)>,
}

/// All that the log's thread is asked to do.
#[derive(Debug, Default)]
pub(super) struct LogWork {
    pub(super) commit: Demand,
    /// Whether the next commit must include the records of the open page.
    pub(super) seal_wanted: bool,
    pub(super) checkpoint: Demand,
    /// The verification of regions that a crash has left in doubt.
    pub(super) verification: Demand,
    /// The page up to which the log has to be durable for the checkpoint that is wanted; a page
    /// before the tail while that is not known yet. Records that are made meanwhile do not put the
    /// checkpoint off.
    pub(super) goal: u64,
    /// The checkpoint that is under way: set when what it has written may be lost.
    pub(super) checkpointing: Option<Spoiled>,
    /// The last page of the log whose data was to become durable by a sync that no flush asked for.
    pub(super) data_synced: u64,
    /// The newest page with a record of a failed write. Before it is durable, the array must not
    /// get the tuples which that write would have had.
    pub(super) settled: u64,
    /// Whether all regions are to become clean after the checkpoint that is wanted or under way.
    pub(super) clean_all: bool,
    /// The number of commits and checkpoints that were begun.
    attempts: u64,
    /// Whether there was an intent since the last tick.
    pub(super) busy: bool,
}

impl LogWork {
    /// Begins an attempt at a task, and returns its number.
    pub(super) fn begin(&mut self) -> u64 {
        self.attempts += 1;
        self.attempts
    }

    /// Asks for `task` and notes that in `waits`. Fails when an attempt has failed since the wait
    /// began.
    pub(super) fn wait(&mut self, waits: &mut Option<Waits>, task: Task) -> io::Result<()> {
        match task {
            Task::Commit => self.commit.wanted = true,
            Task::Checkpoint => self.checkpoint.wanted = true,
            // the regions are wanted, not the task
            Task::Verification => {}
        }
        let since = match *waits {
            Some(waits) if waits.task == task => waits.since,
            _ => {
                *waits = Some(Waits { task, since: self.attempts });
                return Ok(());
            }
        };
        let failed = match task {
            Task::Commit => self.commit.failure_after(since),
            // a checkpoint begins with a commit
            Task::Checkpoint => {
                self.checkpoint.failure_after(since).or_else(|| self.commit.failure_after(since))
            }
            Task::Verification => self.verification.failure_after(since),
        };
        failed.map_or(Ok(()), Err)
    }

    /// As [`Self::wait`], for a commit of all records that there are.
    pub(super) fn wait_for_records(&mut self, waits: &mut Option<Waits>) -> io::Result<()> {
        self.seal_wanted = true;
        self.wait(waits, Task::Commit)
    }
}

impl Demand {
    pub(super) fn end(&mut self, attempt: u64, result: &io::Result<()>) {
        self.failing = result.is_err();
        if let Err(error) = result {
            self.failure = Some((attempt, error.raw_os_error().unwrap_or(EIO)));
        }
    }

    fn failure_after(&self, attempt: u64) -> Option<io::Error> {
        let (_, errno) = self.failure.filter(|(failed, _)| *failed > attempt)?;
        Some(io::Error::from_raw_os_error(errno))
    }
}
