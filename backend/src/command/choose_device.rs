//! Chooses the device that serves a disk. A new device is added here, as a variant of
//! [`DeviceKind`]; its two steps of opening are in `serve/open_devices.rs`.

use std::path::{Path, PathBuf};

use thiserror::Error;

use crate::device::{BlockIntegrity, DetectError, Namespace, NoAttribute};
use crate::storage::image::Image;
use crate::storage::sidecar_path;

/// The place of the tuples, as the command line gives it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Integrity {
    /// On the device, where it has room for them; else in `IMAGE.pi`, beside the image.
    Auto,
    /// No place: the disk has no PI.
    None {
        /// Whether an image that has a sidecar is served, after which the sidecar is wrong.
        give_up_sidecar: bool,
    },
    /// The tuples are in this file.
    Path(PathBuf),
}

/// The device that serves a disk, with the image that was opened to choose it.
#[derive(Debug)]
pub(super) enum DeviceKind {
    /// An NVMe namespace by its character device. It keeps tuples in its metadata.
    NvmePassthrough,
    /// An image without tuples.
    Plain {
        /// The image.
        image: Image,
        /// Whether it is served although it has a sidecar.
        give_up_sidecar: bool,
    },
    /// An image with tuples in a sidecar.
    Sidecar {
        /// The image.
        image: Image,
        /// The path of the sidecar.
        path: PathBuf,
    },
    /// A block device that keeps tuples in its metadata.
    KernelPi {
        /// The block device.
        image: Image,
        /// The layout of its metadata.
        integrity: BlockIntegrity,
    },
}

/// Why no device can be chosen, or the one that was chosen cannot be used.
#[derive(Debug, Error)]
pub enum DeviceError {
    /// The format of the metadata is unknown.
    #[error("cannot use the metadata of {}: {reason}; {}", path.display(), Self::CURE)]
    Profile {
        /// The device.
        path: PathBuf,
        /// The reason. It is not a source, because the cure is to come last.
        reason: DetectError,
    },
    /// The kernel has no way to access the metadata.
    #[error("cannot use the metadata of {}: {}; {}", path.display(), crate::report::chain(reason), Self::CURE)]
    Access {
        /// The device.
        path: PathBuf,
        /// The reason. It is not a source, because the cure is to come last.
        reason: NoAttribute,
    },
    /// `--integrity` was given for a character device, which has only the metadata of its
    /// namespace.
    #[error("--integrity is not for {}: it has metadata of its own, or name its block device", .0.display())]
    NamespaceWithIntegrity(PathBuf),
}

impl DeviceError {
    const CURE: &str = "name the NVMe namespace's character device (/dev/ngXnY), a file for a sidecar \
        (`--integrity PATH`), or leave the metadata to the kernel (`--integrity none`)";
}

impl DeviceKind {
    /// The device for the disk at `path`: the one that the user named, else the one that fits what
    /// the disk has. `open` opens and locks the image; a namespace is not opened.
    pub(super) fn choose<E: From<DeviceError>>(
        path: &Path,
        integrity: &Integrity,
        open: impl FnOnce() -> Result<Image, E>,
    ) -> Result<Self, E> {
        if Namespace::is_at(path) {
            return match integrity {
                Integrity::Auto => Ok(Self::NvmePassthrough),
                Integrity::None { .. } | Integrity::Path(_) => {
                    Err(DeviceError::NamespaceWithIntegrity(path.to_owned()).into())
                }
            };
        }
        let image = open()?;
        match integrity {
            Integrity::None { give_up_sidecar } => {
                Ok(Self::Plain { image, give_up_sidecar: *give_up_sidecar })
            }
            Integrity::Path(sidecar) => Ok(Self::Sidecar { image, path: sidecar.clone() }),
            Integrity::Auto => {
                let found =
                    if image.is_block_device() { BlockIntegrity::detect(image.file()) } else { Ok(None) };
                match found.map_err(|reason| DeviceError::Profile { path: path.to_owned(), reason })? {
                    Some(integrity) => Ok(Self::KernelPi { image, integrity }),
                    None => Ok(Self::Sidecar { image, path: sidecar_path::default_path(path) }),
                }
            }
        }
    }
}
