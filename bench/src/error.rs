//! Why nothing could be measured.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use procfs::ProcError;
use thiserror::Error;

/// Why nothing could be measured.
#[derive(Debug, Error)]
pub(crate) enum BenchError {
    #[error("{program} cannot be started: run scripts/install-prerequisites")]
    Missing {
        program: String,
        #[source]
        source: io::Error,
    },
    #[error("{program} failed: {reason}")]
    Program { program: String, reason: String },
    #[error("{program} ended instead of serving: {log}")]
    NotServing { program: String, log: String },
    #[error("{program} was not done after {limit:?}")]
    TimedOut { program: String, limit: Duration },
    #[error("no process {0}")]
    NoSuchProcess(u32),
    #[error("cannot read the process's CPU clock")]
    CpuClock(#[source] nix::Error),
    #[error("cannot keep to one core")]
    Core(#[source] io::Error),
    #[error("cannot examine the process")]
    Proc(#[from] ProcError),
    #[error("cannot {action} {}", path.display())]
    File {
        action: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("{} is not what was expected", path.display())]
    Json {
        path: PathBuf,
        #[source]
        source: serde_json::Error,
    },
    #[error("the client cannot {action}: {source}")]
    Client {
        action: &'static str,
        #[source]
        source: blkio::Error,
    },
    #[error("a disk of {disk} bytes cannot be used in blocks of {block_size}")]
    DiskTooSmall { disk: u64, block_size: usize },
    #[error("no request was completed in {0:?}")]
    Stalled(Duration),
    #[error("a request completed with status {0}")]
    RequestFailed(i32),
    #[error("a read succeeded without the disk's data")]
    WrongData,
    #[error("cannot catch signals")]
    Signals(#[source] io::Error),
    #[error("stopped by a signal")]
    Stopped,
    #[error("nothing is left to measure: {0}")]
    NothingToMeasure(String),
    #[error("cannot draw {}: {reason}", path.display())]
    Chart { path: PathBuf, reason: String },
    #[error("{failed} of {runs} runs failed; the report names them")]
    FailedRuns { failed: usize, runs: usize },
}

impl BenchError {
    /// Whether the next run would fail of it too.
    pub(crate) fn is_for_good(&self) -> bool {
        matches!(self, Self::Missing { .. } | Self::NotServing { .. })
    }

    /// For `map_err` where `path` was used.
    pub(crate) fn file(action: &'static str, path: &Path) -> impl Fn(io::Error) -> Self {
        move |source| Self::File { action, path: path.to_owned(), source }
    }

    /// For `map_err` where the client's library failed.
    pub(crate) fn client(action: &'static str) -> impl Fn(blkio::Error) -> Self {
        move |source| Self::Client { action, source }
    }
}
