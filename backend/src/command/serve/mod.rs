//! `stableblk --socket-path S --blk-file F`: serve a disk.

mod bounce;
mod config;
mod error;
mod lease;
mod open_device;
mod open_devices;
mod open_storage;
mod options;
mod resources;
mod serial;
mod serve_disk;
mod sockets;
mod unprotected;

use std::process::ExitCode;

pub use self::config::Config;
pub use self::error::{EXIT_CONFIGURATION, ServeError};
use self::open_device::{OpenDevice, OpenStorage};
#[cfg(feature = "bench-null")]
use self::open_devices::Null;
use self::open_devices::{KernelPi, NvmePassthrough, Plain, Sidecar};
pub use self::options::ServeArgs;
use self::resources::check_resources;
use self::serve_disk::{Process, serve_disk};
pub use self::unprotected::{Protected, UnprotectedError};
use super::choose_device::DeviceKind;
use crate::control::Termination;
use crate::control::log_filter::LogFilter;
use crate::device::{self, Namespace, NamespaceError};
use crate::guest::sigbus;
use crate::storage::error::ImageError;
use crate::storage::image::{Holder, Image};

/// The output of `--print-capabilities`, by QEMU's back-end conventions.
pub const CAPABILITIES: &str = r#"{
  "type": "block",
  "features": [
    "read-only",
    "blk-file"
  ]
}"#;

/// Serves until a signal. Nothing on disk changes before everything needed has been found in order.
pub fn run(config: Config, log: &LogFilter) -> Result<ExitCode, ServeError> {
    match start(config, log) {
        Err(ServeError::Image(error) | ServeError::Namespace(NamespaceError::Open(error))) if matches!(&error, ImageError::InUse { holder, .. } if *holder != Holder::Kernel) => {
            Err(ServeError::InUse(error))
        }
        outcome => outcome,
    }
}

/// Prepares the process, chooses the device, and serves by it.
fn start(config: Config, log: &LogFilter) -> Result<ExitCode, ServeError> {
    let setup = |action| move |source| ServeError::Setup { action, source };
    let termination = Termination::catch().map_err(setup("catch signals"))?;
    sigbus::catch().map_err(setup("catch SIGBUS"))?;
    check_resources(config.disk.num_queues)?;
    device::probe_io_uring().map_err(ServeError::IoUring)?;
    let process = Process { log, termination };
    let storage = &config.storage;
    let kind = DeviceKind::choose(&storage.path, &storage.integrity, || Image::open_for_serving(storage))?;
    match kind {
        DeviceKind::NvmePassthrough => {
            let namespace = Namespace::open_for_serving(storage)?;
            serve(config, NvmePassthrough, namespace, process)
        }
        DeviceKind::Plain { image, give_up_sidecar } => {
            serve(config, Plain { give_up_sidecar }, image, process)
        }
        DeviceKind::Sidecar { image, path } => serve(config, Sidecar { path }, image, process),
        DeviceKind::KernelPi { image, integrity } => serve(config, KernelPi { integrity }, image, process),
    }
}

fn serve<O: OpenDevice>(
    config: Config,
    opener: O,
    storage: O::Storage,
    process: Process<'_>,
) -> Result<ExitCode, ServeError> {
    #[cfg(feature = "bench-null")]
    if config.drop_transfers {
        return serve_disk(config, Null(opener), storage, process);
    }
    serve_disk(config, opener, storage, process)
}
