//! Child processes: each is owned, limited in time, and waited for.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process, waitid};

use crate::error::BenchError;
use crate::usage::written_bytes;

const LOOK_INTERVAL: Duration = Duration::from_millis(2);

/// A running program; killed and waited for when dropped.
#[derive(Debug)]
pub(crate) struct Process {
    child: Child,
    program: String,
    output: PathBuf,
    log: PathBuf,
}

impl Process {
    /// Starts `command`. Its output goes to files in `directory`.
    pub(crate) fn start(mut command: Command, directory: &Path) -> Result<Self, BenchError> {
        let path = Path::new(command.get_program());
        let program = path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned();
        let (output, log) = (directory.join("output"), directory.join(format!("{program}.log")));
        let create = |path: &Path| File::create(path).map_err(BenchError::file("create", path));
        let spawned =
            command.stdin(std::process::Stdio::null()).stderr(create(&log)?).stdout(create(&output)?).spawn();
        match spawned {
            Ok(child) => Ok(Self { child, program, output, log }),
            Err(source) => Err(BenchError::Missing { program, source }),
        }
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Waits until `path` exists, as a back-end's socket does when it is ready.
    pub(crate) fn wait_for(&mut self, path: &Path, limit: Duration) -> Result<(), BenchError> {
        let ready = self.wait_until(limit, |process| Ok(path.exists() || process.has_ended()?.is_some()))?;
        if self.has_ended()?.is_some() {
            return Err(BenchError::NotServing { program: self.program.clone(), log: self.log() });
        }
        if ready { Ok(()) } else { Err(self.timed_out(limit)) }
    }

    /// Waits for its end, which must be a success, and returns its output.
    pub(crate) fn finish(mut self, limit: Duration) -> Result<String, BenchError> {
        self.wait_until(limit, |process| Ok(process.has_ended()?.is_some()))?;
        match self.has_ended()? {
            None => Err(self.timed_out(limit)),
            Some(status) if status.success() => {
                fs::read_to_string(&self.output).map_err(BenchError::file("read", &self.output))
            }
            Some(status) => Err(self.failure(&status.to_string())),
        }
    }

    /// Ends it as an operator does, and waits. Returns the bytes that it has written to disks, if
    /// the kernel counts them.
    pub(crate) fn terminate(mut self, limit: Duration) -> Result<Option<u64>, BenchError> {
        // it may have ended by itself: then its status says so
        let _ = kill_process(Pid::from_child(&self.child), Signal::TERM);
        self.wait_for_end(limit)?;
        let written = written_bytes(self.id()).ok();
        self.finish(limit).map(|_| written)
    }

    /// Waits until it has ended. The kernel keeps its counters until [`Process::finish`].
    pub(crate) fn wait_for_end(&mut self, limit: Duration) -> Result<(), BenchError> {
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT | WaitIdOptions::NOHANG;
        let ended = self.wait_until(limit, |process| {
            let status = waitid(WaitId::Pid(Pid::from_child(&process.child)), options);
            status.map(|status| status.is_some()).map_err(|error| process.failure(&error.to_string()))
        })?;
        if ended { Ok(()) } else { Err(self.timed_out(limit)) }
    }

    fn has_ended(&mut self) -> Result<Option<ExitStatus>, BenchError> {
        let ended = self.child.try_wait();
        ended
            .map_err(|error| BenchError::Program { program: self.program.clone(), reason: error.to_string() })
    }

    /// Whether `condition` came true in time.
    fn wait_until(
        &mut self,
        limit: Duration,
        condition: impl Fn(&mut Self) -> Result<bool, BenchError>,
    ) -> Result<bool, BenchError> {
        let deadline = Instant::now() + limit;
        while !condition(self)? {
            if Instant::now() > deadline {
                return Ok(false);
            }
            thread::sleep(LOOK_INTERVAL);
        }
        Ok(true)
    }

    fn timed_out(&self, limit: Duration) -> BenchError {
        BenchError::TimedOut { program: self.program.clone(), limit }
    }

    fn failure(&self, what: &str) -> BenchError {
        BenchError::Program { program: self.program.clone(), reason: format!("{what}: {}", self.log()) }
    }

    fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default().trim().to_owned()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // both fail only when the process is gone already
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The output of a short-lived program.
pub(crate) fn output_of(command: Command, directory: &Path, limit: Duration) -> Result<String, BenchError> {
    Process::start(command, directory)?.finish(limit)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_secs(20);

    fn start(directory: &Path, script: &str) -> Process {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        Process::start(command, directory).unwrap()
    }

    #[test]
    fn a_success_has_output_and_a_failure_its_log() {
        let directory = tempfile::tempdir().unwrap();
        assert_eq!(start(directory.path(), "echo figures").finish(LIMIT).unwrap(), "figures\n");
        let failure =
            start(directory.path(), "echo reason >&2; exit 3").finish(LIMIT).unwrap_err().to_string();
        assert_eq!(failure, "sh failed: exit status: 3: reason");
    }

    #[test]
    fn a_process_that_does_not_end_is_killed() {
        let directory = tempfile::tempdir().unwrap();
        let process = start(directory.path(), "sleep 1000");
        let pid = process.id();
        assert!(matches!(process.finish(Duration::from_millis(20)), Err(BenchError::TimedOut { .. })));
        assert!(!Path::new(&format!("/proc/{pid}")).exists());
    }

    #[test]
    fn a_back_end_that_ends_does_not_serve() {
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("socket");
        let failure = start(directory.path(), "echo no disk >&2").wait_for(&socket, LIMIT).unwrap_err();
        assert_eq!(failure.to_string(), "sh ended instead of serving: no disk");
        let mut serving = start(directory.path(), &format!("touch {}; sleep 1000", socket.display()));
        serving.wait_for(&socket, LIMIT).unwrap();
    }

    #[test]
    fn a_missing_program_is_an_error() {
        let directory = tempfile::tempdir().unwrap();
        let missing = Process::start(Command::new("no-such-program"), directory.path()).unwrap_err();
        assert!(missing.to_string().contains("install-prerequisites"));
    }
}
