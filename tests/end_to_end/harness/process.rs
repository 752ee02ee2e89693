//! A child process that cannot outlive its test, nor hang it.

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;

use guest::limited;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open};

use super::TIME_LIMIT;

/// A running program. Killed and waited for when dropped.
#[derive(Debug)]
pub(crate) struct Process {
    child: Child,
    stdout: Transcript,
    stderr: Transcript,
}

/// A program that has ended.
#[derive(Debug)]
pub(crate) struct Finished {
    /// None when a signal ended it.
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

/// Runs `command` to its end.
pub(crate) fn finish(command: &mut Command) -> Finished {
    Process::start(command).finish()
}

impl Process {
    pub(crate) fn start(command: &mut Command) -> Self {
        command.env_remove("RUST_LOG").stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap_or_else(|error| panic!("cannot start {command:?}: {error}"));
        let stdout = Transcript::of(child.stdout.take().unwrap());
        let stderr = Transcript::of(child.stderr.take().unwrap());
        Self { child, stdout, stderr }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// How many open files, threads and mappings it has.
    pub(crate) fn holdings(&self) -> [usize; 3] {
        let process = PathBuf::from(format!("/proc/{}", self.pid()));
        let count = |directory| fs::read_dir(process.join(directory)).unwrap().count();
        [count("fd"), count("task"), count("map_files")]
    }

    pub(crate) fn stdout(&self) -> &Transcript {
        &self.stdout
    }

    pub(crate) fn stderr(&self) -> &Transcript {
        &self.stderr
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(self.rustix_pid(), signal).unwrap();
    }

    /// Waits for the end, which must come by itself.
    pub(crate) fn wait(&mut self) -> ExitStatus {
        let pidfd = pidfd_open(self.rustix_pid(), PidfdFlags::empty()).unwrap();
        let limit = Timespec::try_from(TIME_LIMIT).unwrap();
        let ended = poll(&mut [PollFd::new(&pidfd, PollFlags::IN)], Some(&limit)).unwrap();
        assert_eq!(ended, 1, "the process does not end; stderr so far:\n{}", self.stderr.so_far());
        self.child.wait().unwrap()
    }

    pub(crate) fn finish(mut self) -> Finished {
        let status = self.wait();
        assert_ne!(status.signal(), Some(Signal::SEGV.as_raw()), "{}", self.stderr.whole());
        Finished { code: status.code(), stdout: self.stdout.whole(), stderr: self.stderr.whole() }
    }

    fn rustix_pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        limited::end(&mut self.child);
    }
}

/// The text that a process has printed on one stream.
#[derive(Clone, Debug, Default)]
pub(crate) struct Transcript(Arc<(Mutex<Printed>, Condvar)>);

#[derive(Debug, Default)]
struct Printed {
    text: String,
    ended: bool,
}

impl Transcript {
    fn of(stream: impl Read + Send + 'static) -> Self {
        let transcript = Self::default();
        let printed = transcript.clone();
        thread::spawn(move || {
            let mut stream = BufReader::new(stream);
            let mut line = Vec::new();
            while stream.read_until(b'\n', &mut line).is_ok_and(|len| len > 0) {
                printed.change(|printed| printed.text.push_str(&String::from_utf8_lossy(&line)));
                line.clear();
            }
            printed.change(|printed| printed.ended = true);
        });
        transcript
    }

    fn change(&self, change: impl FnOnce(&mut Printed)) {
        let (printed, changed) = &*self.0;
        change(&mut printed.lock().unwrap());
        changed.notify_all();
    }

    pub(crate) fn so_far(&self) -> String {
        self.0.0.lock().unwrap().text.clone()
    }

    /// Waits for the stream's end.
    pub(crate) fn whole(&self) -> String {
        self.wait_while(|printed| !printed.ended)
    }

    /// Waits until `text` has been printed.
    pub(crate) fn wait_for(&self, text: &str) {
        self.wait_until(|printed| printed.contains(text));
    }

    /// Waits until what has been printed is `enough`.
    pub(crate) fn wait_until(&self, enough: impl Fn(&str) -> bool) {
        let printed = self.wait_while(|printed| !printed.ended && !enough(&printed.text));
        assert!(enough(&printed), "this is all that was printed:\n{printed}");
    }

    fn wait_while(&self, mut waiting: impl FnMut(&Printed) -> bool) -> String {
        let (printed, changed) = &*self.0;
        let printed = printed.lock().unwrap();
        let (printed, waited) =
            changed.wait_timeout_while(printed, TIME_LIMIT, |printed| waiting(printed)).unwrap();
        assert!(!waited.timed_out(), "it was not printed in time; printed so far:\n{}", printed.text);
        printed.text.clone()
    }
}
