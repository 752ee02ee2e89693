//! The two steps of opening, for each device.

use std::path::{Path, PathBuf};

use super::config::StorageConfig;
use super::error::ServeError;
use super::open_device::OpenDevice;
use super::open_storage::refuse_uneven_size;
use super::unprotected::{self, UnusedSidecar};
use crate::command::choose_device::DeviceError;
use crate::command::protect::refuse_other_data;
#[cfg(feature = "bench-null")]
use crate::device::null::NullDevice;
use crate::device::{
    BlockDevice, BlockIntegrity, KernelPiDevice, Namespace, NvmePassthroughDevice, PlainDevice, SidecarDevice,
};
use crate::storage::image::{Access, Image};
use crate::storage::sidecar_file::{SidecarFile, load_error};

/// An image without tuples. Commit marks the sidecar that the image leaves behind, if it has one.
pub(super) struct Plain {
    /// Whether an image that has a sidecar is served.
    pub(super) give_up_sidecar: bool,
}

impl OpenDevice for Plain {
    type Storage = Image;
    type Prepared = (Image, UnusedSidecar);
    type Device = PlainDevice;

    fn name(&self) -> &'static str {
        "plain"
    }

    fn prepare(&self, _: &StorageConfig, image: Image) -> Result<Self::Prepared, ServeError> {
        let unused = unprotected::check(&image, self.give_up_sidecar)?;
        Ok((image, unused))
    }

    fn commit(&self, _: &StorageConfig, prepared: Self::Prepared) -> Result<PlainDevice, ServeError> {
        let (image, unused) = prepared;
        unused.mark(&image)?;
        Ok(PlainDevice::new(image))
    }
}

/// An image and a sidecar. Commit recovers the sidecar and marks it dirty.
pub(super) struct Sidecar {
    /// The path of the sidecar.
    pub(super) path: PathBuf,
}

impl OpenDevice for Sidecar {
    type Storage = Image;
    type Prepared = (Image, SidecarFile);
    type Device = SidecarDevice;

    fn name(&self) -> &'static str {
        "sidecar"
    }

    fn prepare(&self, config: &StorageConfig, image: Image) -> Result<Self::Prepared, ServeError> {
        let access = if config.incoming { Access::Inspect } else { config.access() };
        let sidecar = SidecarFile::open(&self.path, &image, access)?;
        // an image of which only a part is covered is served as far as that
        let covered = sidecar.layout().image_size();
        refuse_uneven_size(&config.path, covered, config.block_size)?;
        Ok((image, sidecar))
    }

    fn commit(&self, config: &StorageConfig, prepared: Self::Prepared) -> Result<SidecarDevice, ServeError> {
        let (image, sidecar) = prepared;
        let opened = if config.incoming {
            // only the limits of the device: its owner still changes it
            Ok(SidecarDevice::preview(image, sidecar, config.tuple_cache))
        } else if config.read_only {
            SidecarDevice::view(image, sidecar, config.tuple_cache)
        } else {
            SidecarDevice::open(image, sidecar, config.sidecar_options())
        };
        opened.map_err(|error| load_error("open", &self.path)(error).into())
    }

    fn sidecar(&self) -> Option<&Path> {
        Some(&self.path)
    }
}

/// A block device that keeps tuples in its metadata. Commit has nothing to write.
pub(super) struct KernelPi {
    /// The layout of the metadata.
    pub(super) integrity: BlockIntegrity,
}

impl OpenDevice for KernelPi {
    type Storage = Image;
    type Prepared = KernelPiDevice;
    type Device = KernelPiDevice;

    fn name(&self) -> &'static str {
        "kernel-pi"
    }

    fn prepare(&self, config: &StorageConfig, image: Image) -> Result<KernelPiDevice, ServeError> {
        let device = KernelPiDevice::new(image, &self.integrity)
            .map_err(|reason| DeviceError::Access { path: config.path.clone(), reason })?;
        without_other_data(config, device)
    }

    fn commit(&self, _: &StorageConfig, device: KernelPiDevice) -> Result<KernelPiDevice, ServeError> {
        Ok(device)
    }
}

/// An NVMe namespace by its character device. Commit has nothing to write.
pub(super) struct NvmePassthrough;

impl OpenDevice for NvmePassthrough {
    type Storage = Namespace;
    type Prepared = NvmePassthroughDevice;
    type Device = NvmePassthroughDevice;

    fn name(&self) -> &'static str {
        "nvme-passthrough"
    }

    fn prepare(
        &self,
        config: &StorageConfig,
        namespace: Namespace,
    ) -> Result<NvmePassthroughDevice, ServeError> {
        without_other_data(config, NvmePassthroughDevice::new(namespace))
    }

    fn commit(
        &self,
        _: &StorageConfig,
        device: NvmePassthroughDevice,
    ) -> Result<NvmePassthroughDevice, ServeError> {
        Ok(device)
    }
}

/// Refuses a device that holds data of another owner. The destination of a migration does not look:
/// the source still changes the data.
fn without_other_data<B: BlockDevice>(config: &StorageConfig, device: B) -> Result<B, ServeError> {
    if config.incoming { Ok(device) } else { Ok(refuse_other_data(device, &config.path)?) }
}

/// Another device, opened in its two steps, whose transfers are dropped.
#[cfg(feature = "bench-null")]
pub(super) struct Null<O>(pub(super) O);

#[cfg(feature = "bench-null")]
impl<O: OpenDevice> OpenDevice for Null<O> {
    type Storage = O::Storage;
    type Prepared = O::Prepared;
    type Device = NullDevice<O::Device>;

    fn name(&self) -> &'static str {
        "null"
    }

    fn prepare(&self, config: &StorageConfig, storage: O::Storage) -> Result<O::Prepared, ServeError> {
        self.0.prepare(config, storage)
    }

    fn commit(&self, config: &StorageConfig, prepared: O::Prepared) -> Result<Self::Device, ServeError> {
        tracing::warn!("--device null: reads give zeros and writes are lost");
        self.0.commit(config, prepared).map(NullDevice::new)
    }

    fn sidecar(&self) -> Option<&Path> {
        self.0.sidecar()
    }
}
