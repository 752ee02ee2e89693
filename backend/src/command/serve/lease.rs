//! Opening a disk again while it is served: after it was handed over, or at the destination of a
//! migration.

use std::io;
use std::thread;
use std::time::{Duration, Instant};

use super::config::StorageConfig;
use super::error::ServeError;
use super::open_device::OpenDevice;
use crate::device::{BlockDevice, Leased};

/// How long the last holder of the storage may take to let go of it.
const RELEASE_WAIT_MAX: Duration = Duration::from_secs(5);
const RELEASE_POLL_INTERVAL: Duration = Duration::from_millis(20);

/// `device` as one that can be handed over, and then opened again by `opener`. At the destination
/// of a migration, `device` is only a preview, and the first queue opens the device.
pub(super) fn lease<O: OpenDevice>(opener: O, config: StorageConfig, device: O::Device) -> Leased<O::Device> {
    let incoming = config.incoming;
    let owned = StorageConfig { incoming: false, ..config };
    let open = move || wait_for_release(|| opener.open(&owned)).map_err(io::Error::other);
    if incoming { Leased::awaited(device.info().clone(), open) } else { Leased::held(device, open) }
}

/// Opens the device, again and again while its last holder still has it. A source lets go of the
/// storage before its front-end gets the reply that the guest has stopped, but some storage passes
/// that on slowly.
fn wait_for_release<T>(open: impl Fn() -> Result<T, ServeError>) -> Result<T, ServeError> {
    let deadline = Instant::now() + RELEASE_WAIT_MAX;
    loop {
        match open() {
            Err(error) if error.is_in_use() && Instant::now() < deadline => {
                thread::sleep(RELEASE_POLL_INTERVAL);
            }
            outcome => return outcome,
        }
    }
}
