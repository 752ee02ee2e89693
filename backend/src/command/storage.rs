//! Which device serves an image.

use std::path::{Path, PathBuf};

use thiserror::Error;

use crate::device::{BlockIntegrity, DetectError, NoAttribute};
use crate::storage::image::Image;
use crate::storage::sidecar_path;

/// Where the tuples are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Integrity {
    /// On the device, where it has room for them; else beside the image, `IMAGE.pi`.
    Auto,
    /// Nowhere: no PI.
    None,
    /// In this file.
    Path(PathBuf),
}

/// Where the tuples of an image are, and so by which device it is served.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Storage {
    /// Nowhere.
    Plain,
    /// In this file.
    Sidecar(PathBuf),
    /// On the block device itself.
    KernelPi(BlockIntegrity),
}

/// Why the metadata of a device cannot be used.
#[derive(Debug, Error)]
pub enum StorageError {
    /// Its format cannot be found out, or is unknown.
    #[error("cannot use the metadata of {}: {reason}; {}", path.display(), Self::CURE)]
    Profile {
        /// The device.
        path: PathBuf,
        /// Why. Not a source, for the cure is to come last.
        reason: DetectError,
    },
    /// The kernel has no way to it.
    #[error("cannot use the metadata of {}: {}; {}", path.display(), crate::report::chain(reason), Self::CURE)]
    Access {
        /// The device.
        path: PathBuf,
        /// Why. Not a source, for the cure is to come last.
        reason: NoAttribute,
    },
}

impl StorageError {
    const CURE: &str = "name the NVMe namespace's character device (/dev/ngXnY), a file for a sidecar \
        (`--integrity PATH`), or leave the metadata to the kernel (`--integrity none`)";
}

impl Storage {
    /// The device for `image`, which was named by `path`: what the user said, else what the image has.
    pub(super) fn choose(image: &Image, path: &Path, integrity: &Integrity) -> Result<Self, StorageError> {
        match integrity {
            Integrity::None => Ok(Self::Plain),
            Integrity::Path(sidecar) => Ok(Self::Sidecar(sidecar.clone())),
            Integrity::Auto => {
                let found =
                    if image.is_block_device() { BlockIntegrity::detect(image.file()) } else { Ok(None) };
                let found =
                    found.map_err(|reason| StorageError::Profile { path: path.to_owned(), reason })?;
                Ok(found.map_or_else(|| Self::Sidecar(sidecar_path::default_path(path)), Self::KernelPi))
            }
        }
    }
}
