//! The two steps in which every device is opened: when serving begins, and when storage that was
//! handed over is taken again.

use std::path::Path;

use super::config::StorageConfig;
use super::error::ServeError;
use crate::device::{BlockDevice, StablePages};

/// An image or a namespace, open and locked.
pub(super) trait OpenStorage: Sized {
    /// Opens and locks the storage, and checks its size. Changes nothing on disk.
    fn open_for_serving(config: &StorageConfig) -> Result<Self, ServeError>;

    /// The serial number of a disk for which none was given.
    fn default_serial(&self) -> Result<String, ServeError>;

    /// Why pages must not change while the kernel writes them; none where they may.
    fn needs_stable_pages(&self) -> Option<StablePages>;
}

/// A way to open one kind of device.
pub(super) trait OpenDevice: Send + Sync + 'static {
    /// The storage that the device lies on.
    type Storage: OpenStorage;
    /// A device that was checked and has not changed anything on disk.
    type Prepared;
    /// The open device.
    type Device: BlockDevice;

    /// The first step: opens and checks everything the device needs. Changes nothing on disk.
    fn prepare(&self, config: &StorageConfig, storage: Self::Storage) -> Result<Self::Prepared, ServeError>;

    /// The second step: writes to disk what has to be there before the device is used.
    fn commit(&self, config: &StorageConfig, prepared: Self::Prepared) -> Result<Self::Device, ServeError>;

    /// The name of the device, for the status.
    fn name(&self) -> &'static str;

    /// The sidecar of the device, if it has one.
    fn sidecar(&self) -> Option<&Path> {
        None
    }

    /// Opens the storage and then the device, both steps in a row.
    fn open(&self, config: &StorageConfig) -> Result<Self::Device, ServeError> {
        let storage = Self::Storage::open_for_serving(config)?;
        let prepared = self.prepare(config, storage)?;
        self.commit(config, prepared)
    }
}
