//! How a disk that is served comes to be opened again: after it was handed over, or at the destination of a migration.

use std::io;
use std::thread;
use std::time::{Duration, Instant};

use super::{ServeArgs, ServeError};
use crate::device::{BlockDevice, Leased};

/// How long the storage's last holder may take to let go of it.
const RELEASE_WAIT_MAX: Duration = Duration::from_secs(5);
const RELEASE_POLL_INTERVAL: Duration = Duration::from_millis(20);

/// `device`, or only the likeness of it for the destination of a migration, as one that `open` can open again.
pub(super) fn lease<B: BlockDevice>(
    args: &ServeArgs,
    device: B,
    open: impl Fn(&ServeArgs) -> Result<B, ServeError> + Send + Sync + 'static,
) -> Leased<B> {
    let mut owner = args.clone();
    owner.incoming = false;
    let open = move || wait_for_release(|| open(&owner)).map_err(io::Error::other);
    if args.incoming { Leased::awaited(device.info().clone(), open) } else { Leased::held(device, open) }
}

/// A source lets go before its front-end is told that the guest has stopped; this is for storage that is slow to tell others.
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
