//! Stale sidecars of an image, which may have been written without them.

use std::io;

use rustix::io::Errno;
use uuid::Uuid;

use super::{Image, set_attribute};
use crate::storage::error::ImageError;

/// The extended attribute with the UUIDs of such sidecars, as in
/// [`UUID_ATTRIBUTE`](super::UUID_ATTRIBUTE).
const STALE_ATTRIBUTE: &str = "user.stableblk.stale";

impl Image {
    /// The UUIDs of sidecars that may not match the image any more.
    pub(crate) fn stale_sidecars(&self) -> Result<Vec<Uuid>, ImageError> {
        self.uuids_in(STALE_ATTRIBUTE)
    }

    /// Marks `sidecars` as stale, durably.
    pub(crate) fn mark_stale(&self, sidecars: &[Uuid]) -> io::Result<()> {
        let sidecars: Vec<_> = sidecars.iter().map(Uuid::to_string).collect();
        set_attribute(&self.file, STALE_ATTRIBUTE, &sidecars.join(" "))?;
        self.file.sync_all()
    }

    /// Removes the marks, because a new sidecar has replaced those. A failure has no consequence:
    /// the new one has another UUID.
    pub(super) fn forget_stale_sidecars(&self) {
        match rustix::fs::fremovexattr(&self.file, STALE_ATTRIBUTE) {
            Ok(()) | Err(Errno::NODATA | Errno::NOTSUP | Errno::PERM) => {}
            Err(error) => tracing::debug!("cannot remove {STALE_ATTRIBUTE}: {error}"),
        }
    }
}
