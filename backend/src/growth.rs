//! A disk that grows while it is served: to which size, if it may. How it grows is the device's.

use std::io;

use integrity::sidecar::SuperblockError;
use thiserror::Error;

use crate::device::BlockDevice;
use crate::disk::Disk;
use crate::storage::size::StorageSize;

/// Why a disk does not grow.
#[derive(Debug, Error)]
pub enum GrowthError {
    /// The end of the disk is gone, with what the guest wrote there.
    #[error(
        "the image has been cut off at {now} bytes, the guest's disk has {served}: what was behind is lost; give it its size back"
    )]
    CutOff {
        /// Of the storage, in bytes.
        now: u64,
        /// Of the disk, in bytes.
        served: u64,
    },
    /// A disk in use cannot lose blocks.
    #[error("{size} bytes are less than the {now} that the image has: a disk can only grow")]
    Shrinks {
        /// Asked for, in bytes.
        size: u64,
        /// Of the storage, in bytes.
        now: u64,
    },
    /// Not a whole number of blocks.
    #[error("{size} bytes are not a multiple of {unit}: make it {rounded}")]
    Uneven {
        /// Asked for, or found, in bytes.
        size: u64,
        /// Block, interval or alignment, in bytes.
        unit: u64,
        /// The next size that will do, in bytes.
        rounded: u64,
    },
    /// A device has the size it has.
    #[error("the device has {now} bytes, not {size}: grow the device first, then ask again without a size")]
    DeviceFirst {
        /// Of the device, in bytes.
        now: u64,
        /// Asked for, in bytes.
        size: u64,
    },
    /// Not ours to change.
    #[error("the disk is not held here: resize it on the host that serves it")]
    NotHeld,
    /// The storage and its sidecar are only read here.
    #[error("the image is served read-only: resize it where it is written, or restart")]
    ReadOnly,
    /// The sidecar has no room.
    #[error("the sidecar cannot cover that size")]
    Sidecar(#[source] SuperblockError),
    /// Not this device.
    #[error("a device of this kind cannot grow")]
    Unsupported,
    /// The system said no.
    #[error("cannot grow the image or its sidecar")]
    Io(#[from] io::Error),
}

/// The size in bytes that `disk` is to grow to: `asked`, or what its storage has grown to already. None: it has that.
pub fn plan<B: BlockDevice>(disk: &Disk<B>, asked: Option<u64>) -> Result<Option<u64>, GrowthError> {
    if !disk.device.is_held() {
        return Err(GrowthError::NotHeld);
    }
    let info = disk.device.info();
    let unit = (info.granule as u64).max(disk.limits.block_size.into());
    let storage = disk.device.measure()?;
    let size = check(info.capacity.get(), storage, asked, unit)?;
    match size {
        Some(size) if size > storage.bytes && disk.limits.read_only => Err(GrowthError::ReadOnly),
        size => Ok(size),
    }
}

fn check(
    served: u64,
    storage: StorageSize,
    asked: Option<u64>,
    unit: u64,
) -> Result<Option<u64>, GrowthError> {
    let StorageSize { bytes: now, is_extensible } = storage;
    let size = asked.unwrap_or(now);
    if now < served {
        return Err(GrowthError::CutOff { now, served });
    }
    if size < now {
        return Err(GrowthError::Shrinks { size, now });
    }
    if size > now && !is_extensible {
        return Err(GrowthError::DeviceFirst { now, size });
    }
    if !size.is_multiple_of(unit) {
        return Err(GrowthError::Uneven {
            size,
            unit,
            rounded: size.checked_next_multiple_of(unit).unwrap_or(now),
        });
    }
    Ok((size > served).then_some(size))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_grows_to_whole_blocks_that_its_storage_can_have() {
        let file = |bytes| StorageSize { bytes, is_extensible: true };
        let device = |bytes| StorageSize { bytes, is_extensible: false };
        let check = |storage, asked| super::check(8192, storage, asked, 4096);
        assert_eq!(check(file(8192), None).unwrap(), None);
        assert_eq!(check(file(8192), Some(8192)).unwrap(), None);
        assert_eq!(check(file(8192), Some(12288)).unwrap(), Some(12288));
        assert_eq!(check(device(12288), None).unwrap(), Some(12288));
        assert_eq!(check(file(12288), Some(16384)).unwrap(), Some(16384));
        assert!(matches!(
            check(device(8192), Some(12288)),
            Err(GrowthError::DeviceFirst { now: 8192, size: 12288 })
        ));
        assert!(matches!(check(file(12289), None), Err(GrowthError::Uneven { rounded: 16384, .. })));
        assert!(matches!(check(file(12288), Some(8192)), Err(GrowthError::Shrinks { .. })));
        // whatever size is asked for, the blocks that are gone are gone
        for asked in [None, Some(8192), Some(16384)] {
            assert!(matches!(check(file(4096), asked), Err(GrowthError::CutOff { now: 4096, served: 8192 })));
        }
    }
}
