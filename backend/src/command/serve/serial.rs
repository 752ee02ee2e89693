//! The default serial number of a disk.

use std::fs::File;

use virtio::DEVICE_ID_LEN;

use super::error::ServeError;
use crate::storage::image::Image;

/// Twenty characters of the image's UUID; without a UUID, of its device and inode number.
pub(super) fn image_serial(image: &Image) -> Result<String, ServeError> {
    if let Some(uuid) = image.uuids()?.first() {
        return Ok(uuid.simple().to_string()[..DEVICE_ID_LEN].to_owned());
    }
    device_serial(image.file())
}

/// The device and inode number of a file, as a serial number.
pub(super) fn device_serial(file: &File) -> Result<String, ServeError> {
    use std::os::unix::fs::MetadataExt;

    let examined = file.metadata();
    let meta = examined.map_err(|source| ServeError::Setup { action: "examine the image", source })?;
    Ok(format!("{:04x}-{:x}", meta.dev(), meta.ino()).chars().take(DEVICE_ID_LEN).collect())
}
