//! The resources that a process uses: CPU time, memory, and wake-ups.

use std::time::Duration;

use nix::time::clock_getcpuclockid;
use nix::unistd::Pid;
use procfs::ProcError;
use serde::{Deserialize, Serialize};

use crate::error::BenchError;

/// CPU time of a process so far, threads that have ended included.
#[derive(Debug, Clone, Copy)]
pub(crate) struct CpuTime {
    /// Exact to the nanosecond; the kernel splits it only by its clock's ticks.
    total: Duration,
    user_ticks: u64,
    system_ticks: u64,
}

/// CPU time between two moments, in seconds.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub(crate) struct CpuUse {
    pub(crate) user: f64,
    pub(crate) system: f64,
}

impl CpuTime {
    pub(crate) fn of(pid: u32) -> Result<Self, BenchError> {
        let pid = i32::try_from(pid).map_err(|_| BenchError::NoSuchProcess(pid))?;
        let clock = clock_getcpuclockid(Pid::from_raw(pid)).map_err(BenchError::CpuClock)?;
        let total = clock.now().map_err(BenchError::CpuClock)?.into();
        let stat = procfs::process::Process::new(pid).and_then(|process| process.stat())?;
        Ok(Self { total, user_ticks: stat.utime, system_ticks: stat.stime })
    }

    pub(crate) fn since(self, earlier: Self) -> CpuUse {
        let total = self.total.saturating_sub(earlier.total).as_secs_f64();
        let (user, system) = (self.user_ticks - earlier.user_ticks, self.system_ticks - earlier.system_ticks);
        let user_share = if user + system == 0 { 0.0 } else { ratio(user, user + system) };
        CpuUse { user: total * user_share, system: total * (1.0 - user_share) }
    }
}

#[expect(clippy::cast_precision_loss, reason = "ticks of a run are few")]
fn ratio(part: u64, whole: u64) -> f64 {
    part as f64 / whole as f64
}

/// Resident memory of a process, in KiB.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Memory {
    /// Its own: heap, stacks, bounce memory, the program.
    pub(crate) own_kib: u64,
    /// The client's memory that it has touched.
    pub(crate) shared_kib: u64,
}

impl Memory {
    pub(crate) fn of(pid: u32) -> Result<Self, BenchError> {
        let status = process(pid)?.status()?;
        let own_kib = status.rssanon.unwrap_or(0) + status.rssfile.unwrap_or(0);
        Ok(Self { own_kib, shared_kib: status.rssshmem.unwrap_or(0) })
    }
}

/// How often the threads of a process have gone to sleep or lost the CPU.
pub(crate) fn context_switches(pid: u32) -> Result<u64, BenchError> {
    let mut switches = 0;
    for task in process(pid)?.tasks()? {
        let status = match task.and_then(|task| task.status()) {
            // a thread that has just ended
            Err(ProcError::NotFound(_)) => continue,
            status => status?,
        };
        switches += status.voluntary_ctxt_switches.unwrap_or(0);
        switches += status.nonvoluntary_ctxt_switches.unwrap_or(0);
    }
    Ok(switches)
}

/// Bytes that the process caused to be written to disks, threads that have ended included. Data
/// that is written past the page cache counts when it is written, a page of the cache when it
/// becomes dirty. The journal of a file system, which the kernel writes, does not count. Also for a
/// process that has ended and was not waited for.
pub(crate) fn written_bytes(pid: u32) -> Result<u64, BenchError> {
    Ok(process(pid)?.io()?.write_bytes)
}

fn process(pid: u32) -> Result<procfs::process::Process, BenchError> {
    let number = i32::try_from(pid).map_err(|_| BenchError::NoSuchProcess(pid))?;
    Ok(procfs::process::Process::new(number)?)
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;
    use crate::process::Process;

    #[test]
    fn pages_that_become_dirty_and_direct_writes_are_counted() {
        let directory = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap();
        let written = |direct: &str| {
            let file = directory.path().join("file");
            let mut dd = Command::new("dd");
            dd.args(["if=/dev/zero", "bs=4096", "count=64", direct]).arg(format!("of={}", file.display()));
            let mut process = Process::start(dd, directory.path()).unwrap();
            process.wait_for_end(Duration::from_secs(20)).unwrap();
            written_bytes(process.id()).unwrap()
        };
        // the directory, and the log of the program, have a few pages too
        for direct in ["oflag=direct", "conv=fsync"] {
            let bytes = written(direct);
            assert!((64 * 4096..96 * 4096).contains(&bytes), "{direct}: {bytes}");
        }
    }

    fn cpu_time(millis: u64, user_ticks: u64, system_ticks: u64) -> CpuTime {
        CpuTime { total: Duration::from_millis(millis), user_ticks, system_ticks }
    }

    #[test]
    fn exact_time_is_split_as_the_ticks_are() {
        let used = cpu_time(1500, 40, 80).since(cpu_time(1000, 30, 50));
        assert_eq!(used, CpuUse { user: 0.125, system: 0.375 });
    }

    #[test]
    fn time_of_less_than_a_tick_is_kept() {
        let used = cpu_time(1001, 7, 7).since(cpu_time(1000, 7, 7));
        assert!((used.user + used.system - 0.001).abs() < 1e-12);
    }

    #[test]
    fn a_process_that_works_uses_time() {
        let before = CpuTime::of(std::process::id()).unwrap();
        let deadline = std::time::Instant::now() + Duration::from_millis(20);
        while std::time::Instant::now() < deadline {}
        let used = CpuTime::of(std::process::id()).unwrap().since(before);
        assert!(used.user + used.system > 0.0);
        assert!(Memory::of(std::process::id()).unwrap().own_kib > 0);
        assert!(context_switches(std::process::id()).unwrap() > 0);
    }
}
