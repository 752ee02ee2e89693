//! The parts that all tests use: the program as a process, an image, guest memory, and a front-end
//! that lays out chains by hand.

mod backend;
mod checked_file_system;
mod crash;
mod dirty_log;
mod failing_syncs;
mod frontend;
mod frozen;
mod image;
pub(crate) mod inflight;
mod loop_device;
mod memory;
mod other_daemon;
mod pattern;
mod process;
mod prometheus;
mod queue;
mod seccomp;
mod skipping;
mod small_file_system;
mod system;
mod vm;
pub(crate) mod watched;

use std::thread;
use std::time::{Duration, Instant};

pub(crate) use backend::{Backend, PROGRAM, copy_program, serve_command};
pub(crate) use checked_file_system::CheckedFileSystem;
pub(crate) use crash::crash;
pub(crate) use dirty_log::DirtyLog;
pub(crate) use failing_syncs::{Which, with_failing_syncs};
pub(crate) use frontend::{Frontend, message};
pub(crate) use frozen::FileSystem;
pub(crate) use image::Image;
pub(crate) use load::{stamped, stamps};
pub(crate) use loop_device::LoopDevice;
pub(crate) use memory::GuestMemory;
pub(crate) use other_daemon::OtherDaemon;
pub(crate) use pattern::pattern;
pub(crate) use process::{Finished, Process, Transcript, finish};
pub(crate) use prometheus::{Exporter, Prometheus, RULES, value};
pub(crate) use queue::{Completion, Queue, Request};
pub(crate) use seccomp::refuse_system_call;
pub(crate) use small_file_system::SmallFileSystem;
pub(crate) use vm::{Connected, Setup, Vm};

/// The longest wait for anything. Nothing here takes that long, even on a busy machine: a test that
/// reaches it has found a hang.
pub(crate) const TIME_LIMIT: Duration = Duration::from_secs(120);

/// Polls until `condition` is true; `otherwise` says what there is instead.
pub(crate) fn wait_until(condition: impl Fn() -> bool, otherwise: impl Fn() -> String) {
    let deadline = Instant::now() + TIME_LIMIT;
    while !condition() {
        assert!(Instant::now() < deadline, "{}", otherwise());
        thread::sleep(Duration::from_millis(5));
    }
}

/// `VIRTIO_BLK_S_*`
pub(crate) const OK: u8 = virtio::Status::Ok as u8;
pub(crate) const IOERR: u8 = virtio::Status::IoErr as u8;
pub(crate) const UNSUPP: u8 = virtio::Status::Unsupp as u8;

/// The value of a status byte until the device writes it.
pub(crate) const NOT_WRITTEN: u8 = 0xee;
