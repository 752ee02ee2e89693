//! The decision whether a disk that is served may grow, and to which size. The device does the
//! growth.

use crate::device::BlockDevice;
use crate::device::growth_error::GrowthError;
use crate::storage::size::StorageSize;
use crate::worker::disk::Disk;

/// The size in bytes to which `disk` is to grow: `asked`, or the size to which its storage has
/// grown already. None: it has that size.
pub(super) fn plan<B: BlockDevice>(disk: &Disk<B>, asked: Option<u64>) -> Result<Option<u64>, GrowthError> {
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
        // no size that is asked for brings back the blocks that are gone
        for asked in [None, Some(8192), Some(16384)] {
            assert!(matches!(check(file(4096), asked), Err(GrowthError::CutOff { now: 4096, served: 8192 })));
        }
    }
}
