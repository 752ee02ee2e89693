//! The program under test, as its users run it: by its command line.

use std::{
    fs::File,
    path::{Path, PathBuf},
    process::{Child, Command},
    thread,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};

use crate::{GuestError, limited, output_of, read_text};

/// From the start to the socket, and from SIGTERM to the end.
const TIME_LIMIT: Duration = Duration::from_secs(120);
const POLL_INTERVAL: Duration = Duration::from_millis(10);

/// The `stableblk` program.
#[derive(Debug, Clone)]
pub struct Stableblk(PathBuf);

impl Stableblk {
    /// The program at `path`.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self(path.into())
    }

    /// Makes a sparse image of `size`, such as `256M`, and its sidecar.
    pub fn create(&self, image: &Path, size: &str) -> Result<(), GuestError> {
        let mut create = Command::new(&self.0);
        create.arg("create").arg(image).args(["--size", size]);
        output_of(&mut create, "stableblk create").map(drop)
    }

    /// Serves `image` on `socket` and returns when front-ends can connect. The log is beside the
    /// socket.
    pub fn serve(&self, image: &Path, socket: &Path, options: &[&str]) -> Result<Server, GuestError> {
        let log = socket.with_extension("log");
        let log_file = File::create(&log).map_err(GuestError::file(&log))?;
        let mut serve = Command::new(&self.0);
        serve.arg("--socket-path").arg(socket).arg("--blk-file").arg(image);
        // which could keep it from saying that it serves
        serve.env_remove("RUST_LOG");
        let process = serve.args(options).stderr(log_file).spawn().map_err(failed)?;
        let mut server = Server { process, log };
        // said after it listens; the socket's path is there before
        let is_ready = |log: &Path| read_text(log).is_ok_and(|log| log.contains("serving"));
        if poll(|| server.has_ended() || is_ready(&server.log)) && !server.has_ended() {
            Ok(server)
        } else {
            Err(server.failure("did not serve"))
        }
    }

    /// The status of a disk, by its control socket.
    pub fn status(&self, control: &Path) -> Result<serde_json::Value, GuestError> {
        let mut ctl = Command::new(&self.0);
        let output = output_of(ctl.arg("ctl").arg(control).args(["status", "--json"]), "stableblk ctl")?;
        serde_json::from_str(&output).map_err(failed)
    }

    /// Verifies every block of `image`; the number of those that do not match their tuple.
    pub fn count_mismatches(&self, image: &Path) -> Result<u64, GuestError> {
        let report = self.check(image, &[])?;
        report["mismatched_blocks"].as_u64().ok_or_else(|| failed("check: no number of blocks"))
    }

    /// Verifies every block of `image` by `check` with further options, and returns its JSON
    /// output.
    pub fn check(&self, image: &Path, options: &[&str]) -> Result<serde_json::Value, GuestError> {
        let mut check = Command::new(&self.0);
        let check = check.arg("check").arg(image).arg("--json").args(options);
        let output = limited::output(check).map_err(failed)?;
        let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
        match (output.status.code(), report["mismatched_blocks"].as_u64()) {
            // 3: all match, and some were adopted after a crash
            (Some(0 | 3), Some(0)) | (Some(1), Some(1..)) => Ok(report),
            _ => {
                let said = String::from_utf8_lossy(&output.stderr);
                Err(failed(format!("check: {}: {said}{report}", output.status)))
            }
        }
    }
}

/// A running back-end; killed when dropped.
#[derive(Debug)]
pub struct Server {
    process: Child,
    log: PathBuf,
}

impl Server {
    /// Stops the back-end as an operator does, with SIGTERM; an error unless it ends with status 0.
    pub fn stop(mut self) -> Result<(), GuestError> {
        kill_process(Pid::from_child(&self.process), Signal::TERM).map_err(failed)?;
        if poll(|| self.has_ended()) && self.process.wait().is_ok_and(|status| status.success()) {
            Ok(())
        } else {
            Err(self.failure("did not stop well"))
        }
    }

    /// SIGKILL, wherever it stands.
    pub fn kill(mut self) {
        limited::end(&mut self.process);
    }

    /// How much it has written to storage, in bytes, as the kernel accounts it.
    #[must_use]
    pub fn written_bytes(&self) -> u64 {
        let io = read_text(Path::new(&format!("/proc/{}/io", self.process.id()))).unwrap_or_default();
        let line = io.lines().find_map(|line| line.strip_prefix("write_bytes: "));
        line.and_then(|count| count.parse().ok()).unwrap_or(0)
    }

    fn has_ended(&mut self) -> bool {
        !matches!(self.process.try_wait(), Ok(None))
    }

    fn failure(&self, what: &str) -> GuestError {
        let log = read_text(&self.log).unwrap_or_default();
        failed(format!("{what}; its log:\n{log}"))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        limited::end(&mut self.process);
    }
}

fn failed(reason: impl ToString) -> GuestError {
    GuestError::program("stableblk")(reason)
}

/// Whether `condition` became true in time.
fn poll(mut condition: impl FnMut() -> bool) -> bool {
    let deadline = Instant::now() + TIME_LIMIT;
    while Instant::now() < deadline {
        if condition() {
            return true;
        }
        thread::sleep(POLL_INTERVAL);
    }
    false
}
