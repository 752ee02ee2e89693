//! The program, serving.

use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::process::Signal;
use serde_json::Value;
use tempfile::TempDir;

use super::failing_syncs::{Which, with_failing_syncs};
use super::process::{Finished, Process, Transcript, finish};
use super::{Frontend, GuestMemory, Image, wait_until};

/// The built program.
pub(crate) const PROGRAM: &str = env!("CARGO_BIN_EXE_stableblk");

/// A `stableblk` that serves an image. Killed when dropped.
#[derive(Debug)]
pub(crate) struct Backend {
    process: Process,
    socket: PathBuf,
    control: PathBuf,
    _directory: TempDir,
}

/// Copies the program to where others than root can reach it. By a process of its own: a file that
/// is open for writing here is so for a moment in each process that another test starts, and cannot
/// be run meanwhile.
pub(crate) fn copy_program(to: &Path) {
    assert!(Command::new("cp").arg(PROGRAM).arg(to).status().unwrap().success());
}

/// The command that serves `image` at `socket`. Where `args` say where the tuples are, that counts.
pub(crate) fn serve_command(socket: &Path, image: &Image, args: &[&str]) -> Command {
    let mut command = Command::new(PROGRAM);
    command.arg("--socket-path").arg(socket).arg("--blk-file").arg(image.path());
    if !args.contains(&"--integrity") {
        command.args(image.integrity_option());
    }
    command.args(args);
    command
}

impl Backend {
    /// Serves `image`, ready for front-ends when this returns.
    pub(crate) fn serve(image: &Image, args: &[&str]) -> Self {
        Self::serve_by(image, args, |_| None)
    }

    /// As [`Self::serve`], with syncs that fail, where that can be done.
    pub(crate) fn serve_with_failing_syncs(image: &Image, args: &[&str], which: Which<'_>) -> Option<Self> {
        with_failing_syncs(&Command::new(PROGRAM), which)?;
        Some(Self::serve_by(image, args, |command| with_failing_syncs(command, which)))
    }

    /// Serves `image` by the command that `replace` makes of its own, if it makes one.
    fn serve_by(image: &Image, args: &[&str], replace: impl Fn(&Command) -> Option<Command>) -> Self {
        // not beside the image: the path of a socket is short
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("socket");
        let control = directory.path().join("control");
        let mut command = serve_command(&socket, image, args);
        command.arg("--control").arg(&control);
        let mut command = replace(&command).unwrap_or(command);
        let process = Process::start(&mut command);
        // said after it listens
        process.stderr().wait_for("serving");
        Self { process, socket, control, _directory: directory }
    }

    /// Connects a front-end with guest memory of its own, which takes all features that are
    /// offered.
    pub(crate) fn connect(&self) -> Frontend {
        Frontend::connect(self, &GuestMemory::new())
    }

    pub(crate) fn socket(&self) -> &Path {
        &self.socket
    }

    /// Gives its control socket another name in `directory`, by a link to it.
    pub(crate) fn link_control(&self, directory: &Path, name: &str) {
        std::fs::hard_link(&self.control, directory.join(name)).unwrap();
    }

    /// The path of its control socket.
    pub(crate) fn control(&self) -> &Path {
        &self.control
    }

    /// `stableblk ctl` and what it prints.
    pub(crate) fn ctl(&self, args: &[&str]) -> Finished {
        finish(Command::new(PROGRAM).arg("ctl").arg(&self.control).args(args))
    }

    /// `stableblk ctl`, which must succeed, and its JSON.
    pub(crate) fn ask(&self, args: &[&str]) -> Value {
        let Finished { code, stdout, stderr } = self.ctl(&[args, &["--json"]].concat());
        assert_eq!(code, Some(0), "{args:?}: {stderr}");
        serde_json::from_str(&stdout).unwrap_or_else(|error| panic!("{error}: {stdout}"))
    }

    pub(crate) fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// How many open files, threads and mappings it has.
    pub(crate) fn holdings(&self) -> [usize; 3] {
        self.process.holdings()
    }

    /// Waits until it has no more of each than `before`: a thread that was joined is to be seen for
    /// a moment longer.
    pub(crate) fn wait_until_it_holds(&self, before: [usize; 3]) {
        let holds = || self.holdings().iter().zip(before).all(|(now, before)| *now <= before);
        wait_until(holds, || format!("files, threads, mappings: {:?}, not {before:?}", self.holdings()));
    }

    /// The log so far.
    pub(crate) fn log(&self) -> &Transcript {
        self.process.stderr()
    }

    /// SIGTERM: it must end by itself, in order, and take its socket away. Returns its log.
    pub(crate) fn stop(self) -> String {
        self.terminate(Some(0))
    }

    /// As [`Self::stop`], with this exit status.
    pub(crate) fn terminate(mut self, expected: Option<i32>) -> String {
        self.process.signal(Signal::TERM);
        let status = self.process.wait();
        let log = self.log().whole();
        assert_eq!(status.code(), expected, "{status} after SIGTERM:\n{log}");
        assert!(!self.socket.exists(), "the socket is still there");
        assert!(!self.control.exists(), "the control socket is still there");
        log
    }

    /// SIGKILL.
    pub(crate) fn kill(mut self) {
        self.process.signal(Signal::KILL);
        self.process.wait();
    }
}
