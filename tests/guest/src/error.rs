//! Why a guest gave no result.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use thiserror::Error;

/// Why a guest did not run its script to a good end.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum GuestError {
    /// A part that `scripts/install-prerequisites` provides is not there.
    #[error("no {part} at {}: run scripts/install-prerequisites", path.display())]
    MissingPart {
        /// The name of the part.
        part: &'static str,
        /// The path that was searched.
        path: PathBuf,
    },
    /// A program needed to build, serve or run the guest could not be started, or failed.
    #[error("{program} failed: {reason}")]
    Program {
        /// The program.
        program: &'static str,
        /// The error output, or the reason why it did not start.
        reason: String,
    },
    /// A file of the guest could not be read or written.
    #[error("cannot access {}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        #[source]
        source: std::io::Error,
    },
    /// The guest's kernel did not reach its first program, in as many attempts as the runner makes.
    #[error("the guest never came up; its console:\n{console}")]
    NeverUp {
        /// The kernel's output in the last attempt.
        console: String,
    },
    /// The script ended with a non-zero status.
    #[error("the guest's script ended with status {status}; its output:\n{output}\nits console:\n{console}")]
    Script {
        /// The script's exit status.
        status: i32,
        /// The script's output.
        output: String,
        /// The output of the kernel and the script's standard error.
        console: String,
    },
    /// The guest was up, then panicked or powered off by itself.
    #[error("the guest died; its console:\n{console}")]
    Died {
        /// The kernel's output.
        console: String,
    },
    /// The script did not end in time.
    #[error("the guest's script took more than {limit:?}; its output:\n{output}\nits console:\n{console}")]
    TimedOut {
        /// The limit.
        limit: Duration,
        /// The script's output so far.
        output: String,
        /// The output of the kernel and the script's standard error so far.
        console: String,
    },
}

impl GuestError {
    /// For `map_err` where `program` failed.
    pub(crate) fn program<E: ToString>(program: &'static str) -> impl Fn(E) -> Self {
        move |reason| Self::Program { program, reason: reason.to_string() }
    }

    /// For `map_err` where `path` was accessed.
    pub(crate) fn file(path: &Path) -> impl Fn(std::io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::File { path: path.clone(), source }
    }
}
