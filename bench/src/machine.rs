//! Where and with what was measured.

use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::Duration;

use procfs::{CpuInfo, Current, LoadAverage};
use serde::{Deserialize, Serialize};

use crate::error::BenchError;
use crate::process::output_of;

const TIME_LIMIT: Duration = Duration::from_secs(30);

/// Facts that figures depend on.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Machine {
    /// UTC, as `2026-01-31`.
    pub(crate) date: String,
    pub(crate) processor: String,
    pub(crate) cores: usize,
    pub(crate) memory_mib: u64,
    pub(crate) kernel: String,
    /// Others' work, over the minute before.
    pub(crate) load_before: f32,
    /// Of each program, as it says itself.
    pub(crate) versions: Vec<String>,
}

impl Machine {
    /// Examines this machine, and asks all programs for their version: the first sign that one is
    /// missing.
    pub(crate) fn examine(stableblk: &Path, scratch: &Path) -> Result<Self, BenchError> {
        let memory = rustix::system::sysinfo();
        let cpus = CpuInfo::current()?;
        Ok(Self {
            date: jiff::Timestamp::now().strftime("%Y-%m-%d").to_string(),
            processor: cpus.model_name(0).unwrap_or("unknown").to_owned(),
            cores: thread::available_parallelism().map_or(1, usize::from),
            memory_mib: memory.totalram.saturating_mul(memory.mem_unit.into()) >> 20,
            kernel: rustix::system::uname().release().to_string_lossy().into_owned(),
            load_before: LoadAverage::current()?.one,
            versions: versions(stableblk, scratch)?,
        })
    }
}

fn versions(stableblk: &Path, scratch: &Path) -> Result<Vec<String>, BenchError> {
    let version = |mut command: Command| -> Result<String, BenchError> {
        command.arg("--version");
        let printed = output_of(command, scratch, TIME_LIMIT)?;
        Ok(printed.lines().next().unwrap_or_default().to_owned())
    };
    let mut git = Command::new("git");
    git.args(["describe", "--always", "--dirty", "--exclude", "*"]);
    // sources without a repository have no commit
    let commit = output_of(git, scratch, TIME_LIMIT)
        .map_or_else(|_| String::new(), |commit| format!(" ({})", commit.trim()));
    Ok(vec![
        version(Command::new(stableblk))? + &commit,
        version(guest::qemu_storage_daemon())?,
        version(Command::new("fio"))?,
        version(Command::new("rustc"))?,
    ])
}
