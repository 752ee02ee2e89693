//! What the tests stand on: the program as a process, an image, guest memory, and a front-end that lays out chains by hand.

mod backend;
mod crash;
mod dirty_log;
mod frontend;
mod image;
pub(crate) mod inflight;
mod memory;
mod pattern;
mod process;
mod queue;
pub(crate) mod watched;

use std::time::Duration;

pub(crate) use backend::{Backend, PROGRAM, serve_command};
pub(crate) use crash::crash;
pub(crate) use dirty_log::DirtyLog;
pub(crate) use frontend::{Frontend, message};
pub(crate) use image::Image;
pub(crate) use load::{stamped, stamps};
pub(crate) use memory::GuestMemory;
pub(crate) use pattern::pattern;
pub(crate) use process::{Finished, Process, Transcript, finish};
pub(crate) use queue::{Completion, Queue, Request};

/// Longest wait for anything. Nothing here takes that long: a test that reaches it has found a hang.
pub(crate) const TIME_LIMIT: Duration = Duration::from_secs(30);

/// `VIRTIO_BLK_S_*`
pub(crate) const OK: u8 = virtio::Status::Ok as u8;
pub(crate) const IOERR: u8 = virtio::Status::IoErr as u8;
pub(crate) const UNSUPP: u8 = virtio::Status::Unsupp as u8;

/// What a status byte holds until the device writes it.
pub(crate) const NOT_WRITTEN: u8 = 0xee;
