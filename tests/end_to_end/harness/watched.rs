//! A back-end's worker that is stopped after each store to the memory it shares with us, by the
//! processor's debug registers: what a front-end would find is looked at there, and there the
//! process is killed.

use std::fs;
use std::mem::offset_of;
use std::process::{Command, Stdio};
use std::thread;
use std::time::Instant;

use guest::limited;
use nix::Result;
use nix::errno::Errno;
use nix::sys::ptrace;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use procfs::process::{MMapPath, Process};

use super::{Backend, TIME_LIMIT};

/// Bytes of shared memory whose stores are to be seen.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Watch {
    /// Name of the file, as it was made.
    pub(crate) memfd: &'static str,
    /// Where in the file; a multiple of the length.
    pub(crate) offset: u64,
    /// 1, 2, 4 or 8.
    pub(crate) len: u64,
}

/// A worker that was stopped, and stops again at each store to what is watched.
#[derive(Debug)]
pub(crate) struct WatchedWorker {
    process: Process,
    worker: Pid,
}

/// Whether debug registers can be set, tried on a process that does nothing: not every virtual
/// machine or container lets one.
pub(crate) fn debug_registers() -> Result<()> {
    let mut idle = Command::new("cat").stdin(Stdio::piped()).spawn().unwrap();
    let pid = Pid::from_raw(idle.id().cast_signed());
    let set = stop(pid).and_then(|()| {
        set_register(pid, 0, 0x1000)?;
        set_register(pid, 7, control(0, 8))
    });
    limited::end(&mut idle);
    set
}

fn stop(thread: Pid) -> Result<()> {
    ptrace::seize(thread, ptrace::Options::empty())?;
    ptrace::interrupt(thread)?;
    wait_for(thread);
    Ok(())
}

/// The state of `thread`, if it has changed.
fn wait_now(thread: Pid) -> Result<WaitStatus> {
    waitpid(thread, Some(WaitPidFlag::__WALL | WaitPidFlag::WNOHANG))
}

/// Waits until something has become of `traced`.
fn wait_for(traced: Pid) -> WaitStatus {
    let mut status = WaitStatus::StillAlive;
    let mut has_changed = || {
        status = wait_now(traced).unwrap();
        status != WaitStatus::StillAlive
    };
    let deadline = Instant::now() + TIME_LIMIT;
    while !has_changed() {
        assert!(Instant::now() < deadline, "the traced thread {traced} neither stops nor ends");
        // it is at most a few system calls away from the next stop
        thread::yield_now();
    }
    status
}

fn set_register(thread: Pid, register: usize, value: u64) -> Result<()> {
    ptrace::write_user(thread, register_offset(register) as ptrace::AddressType, value.cast_signed())
}

/// The bits of register 7 for another one: enabled for this thread; at stores; the length.
fn control(register: usize, len: u64) -> u64 {
    let len = if len == 8 { 2 } else { len - 1 };
    1 << (2 * register) | (0b01 | len << 2) << (16 + 4 * register)
}

impl WatchedWorker {
    /// Stops the worker of queue 0 of `backend`, wherever it is. To be used by one thread alone.
    pub(crate) fn stop(backend: &Backend) -> Self {
        let process = Process::new(backend.pid().try_into().unwrap()).unwrap();
        let is_worker = |tid: &i32| {
            let name = fs::read_to_string(format!("/proc/{}/task/{tid}/comm", backend.pid()));
            name.is_ok_and(|name| name.trim() == "queue0")
        };
        let tasks = process.tasks().unwrap().flatten().map(|task| task.tid);
        let worker = Pid::from_raw(tasks.into_iter().find(is_worker).expect("a worker"));
        stop(worker).unwrap();
        Self { process, worker }
    }

    /// Sets up to four watches.
    pub(crate) fn watch(&self, watches: &[Watch]) {
        for (register, watch) in watches.iter().enumerate() {
            self.set_register(register, address(&self.process, watch));
        }
        let controls = watches.iter().enumerate().map(|(register, watch)| control(register, watch.len));
        self.set_register(7, controls.fold(0, |all, control| all | control));
    }

    /// Lets the worker run to its next store to something that is watched. Its index in the
    /// watches.
    pub(crate) fn run_to_store(&self) -> usize {
        loop {
            ptrace::cont(self.worker, None).unwrap();
            match wait_for(self.worker) {
                WaitStatus::Stopped(_, Signal::SIGTRAP) => break,
                WaitStatus::Stopped(..) | WaitStatus::PtraceEvent(..) => {}
                other => panic!("the worker ended: {other:?}"),
            }
        }
        let status = ptrace::read_user(self.worker, register_offset(6) as ptrace::AddressType).unwrap();
        self.set_register(6, 0);
        (status & 0xf).trailing_zeros() as usize
    }

    /// Kills the process where its worker stands.
    pub(crate) fn kill(self, backend: Backend) {
        drop(self);
        backend.kill();
    }

    fn is_thread_there(&self) -> bool {
        fs::exists(format!("/proc/{}/task/{}", self.process.pid, self.worker)).unwrap_or(false)
    }

    fn set_register(&self, register: usize, value: u64) {
        set_register(self.worker, register, value).unwrap();
    }
}

/// Also when a test fails: the process would not be gone before its traced thread was waited for,
/// and a wait for it would hang.
impl Drop for WatchedWorker {
    fn drop(&mut self) {
        // fails only when it is gone
        let _ = kill(Pid::from_raw(self.process.pid), Signal::SIGKILL);
        // An error is no end: the thread may be reported in a way that the crate does not know, or
        // be still on its way out.
        let is_gone = || match wait_now(self.worker) {
            Ok(WaitStatus::Signaled(..) | WaitStatus::Exited(..)) => true,
            Err(Errno::ECHILD) => !self.is_thread_there(),
            _ => false,
        };
        let deadline = Instant::now() + TIME_LIMIT;
        while !is_gone() {
            if Instant::now() > deadline {
                eprintln!("the traced thread {} does not end", self.worker);
                return;
            }
            thread::yield_now();
        }
    }
}

fn register_offset(register: usize) -> usize {
    offset_of!(libc::user, u_debugreg) + register * size_of::<u64>()
}

/// Where the process has mapped what `watch` is of.
fn address(process: &Process, watch: &Watch) -> u64 {
    let name = format!("/memfd:{} (deleted)", watch.memfd);
    let maps = process.maps().unwrap();
    let map = maps.iter().find(|map| {
        matches!(&map.pathname, MMapPath::Path(path) if path.as_os_str() == name.as_str())
            && (map.offset..map.offset + (map.address.1 - map.address.0)).contains(&watch.offset)
    });
    let map = map.unwrap_or_else(|| panic!("{name} is not mapped: {maps:?}"));
    map.address.0 + (watch.offset - map.offset)
}
