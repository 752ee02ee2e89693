//! Opening the storage of a disk that is to be served: an image, or an NVMe namespace.

use std::path::Path;

use super::config::StorageConfig;
use super::error::ServeError;
use super::open_device::OpenStorage;
use super::serial::{device_serial, image_serial};
use crate::device::{Namespace, StablePages};
use crate::storage::image::{Access, DirectIo, Image};

impl OpenStorage for Image {
    fn open_for_serving(config: &StorageConfig) -> Result<Self, ServeError> {
        let (path, access) = (&config.path, config.access());
        let mut image = Self::open(path, access, DirectIo::WherePossible)?;
        refuse_uneven_size(path, image.size(), config.block_size)?;
        if !image.size().is_multiple_of(image.alignment().offset.into()) {
            // direct I/O could not reach the end of the image
            drop(image);
            image = Self::open(path, access, DirectIo::Never)?;
        }
        // as each queue will
        let opened_again = image.open_for_sync().map(drop).and_then(|()| match access {
            Access::ReadWrite => image.mark_losses(),
            Access::Inspect | Access::Preview | Access::Read => Ok(()),
        });
        opened_again.map_err(|source| ServeError::Setup {
            action: "open the image once more, by /proc/self/fd",
            source,
        })?;
        if !image.is_direct() {
            tracing::info!(image = %path.display(), "no direct I/O here: going through the page cache");
        }
        Ok(image)
    }

    fn default_serial(&self) -> Result<String, ServeError> {
        image_serial(self)
    }

    fn needs_stable_pages(&self) -> Option<StablePages> {
        StablePages::needed_by(self.file())
    }
}

impl OpenStorage for Namespace {
    fn open_for_serving(config: &StorageConfig) -> Result<Self, ServeError> {
        let access = config.access();
        let mut namespace = Self::open(&config.path, access)?;
        if access == Access::ReadWrite {
            namespace.mark_losses().map_err(|source| ServeError::Setup {
                action: "open the namespace once more, by /proc/self/fd",
                source,
            })?;
        }
        refuse_uneven_size(&config.path, namespace.capacity(), config.block_size)?;
        Ok(namespace)
    }

    fn default_serial(&self) -> Result<String, ServeError> {
        device_serial(self.file())
    }

    fn needs_stable_pages(&self) -> Option<StablePages> {
        None
    }
}

/// Refuses storage that does not consist of whole blocks of the guest.
pub(super) fn refuse_uneven_size(path: &Path, size: u64, block_size: u32) -> Result<(), ServeError> {
    if size == 0 || !size.is_multiple_of(block_size.into()) {
        return Err(ServeError::BlockSize { path: path.to_owned(), size, block_size });
    }
    Ok(())
}
