//! What the kernel says of a block device's metadata: by the ioctl of Linux 6.17, else by sysfs.

#![expect(unsafe_code, reason = "the ioctl has no safe wrapper")]

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use integrity::{Guard, IntegrityProfile, LogicalBlockMetadataCap, PiType, ProfileError, TuplePlace};
use rustix::io::Errno;
use rustix::ioctl::{Updater, ioctl, opcode};
use thiserror::Error;

/// `FS_IOC_GETLBMD_CAP` of `linux/fs.h`.
const GET_CAPABILITY: rustix::ioctl::Opcode = opcode::read_write::<[u8; 16]>(0x15, 2);

/// Who told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// The ioctl `FS_IOC_GETLBMD_CAP`.
    Capability,
    /// `/sys/dev/block/MAJOR:MINOR/integrity`.
    Sysfs,
}

/// What a device keeps beside each interval of data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Metadata {
    /// Tuples, which the device checks.
    Tuples(IntegrityProfile),
    /// Bytes that it does not look at, the kernel's `nop` format: room for tuples of our own, laid out like this.
    Opaque(IntegrityProfile),
}

/// The integrity profile of a block device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BlockIntegrity {
    /// What it keeps.
    pub metadata: Metadata,
    /// How that is known.
    pub source: Source,
    /// Whether the kernel generates tuples itself for writes that come without.
    pub kernel_generates: bool,
}

/// Why the integrity profile of a device cannot be used.
#[derive(Debug, Error)]
pub enum DetectError {
    /// The kernel could not be asked.
    #[error("cannot ask for the integrity profile")]
    Query(#[source] io::Error),
    /// A format that this program does not know.
    #[error("unknown integrity profile")]
    Profile(#[from] ProfileError),
    /// sysfs does not say where the tuple stands in the metadata.
    #[error(
        "the metadata has {metadata_size} bytes and this kernel, older than 6.17, does not tell where in them the \
        {tuple_size}-byte tuple is"
    )]
    TuplePlace {
        /// Metadata per interval, in bytes.
        metadata_size: u8,
        /// The tuple, in bytes.
        tuple_size: usize,
    },
}

impl Metadata {
    /// Room for tuples of our own in `size` bytes for each `interval_size`, both in bytes: the longest guard that fits.
    /// `None`: none does.
    pub fn opaque(size: u8, interval_size: u32) -> Result<Option<Self>, ProfileError> {
        let guard = match size {
            0..8 => return Ok(None),
            8..16 => Guard::Crc16T10Dif,
            _ => Guard::Crc64Nvme,
        };
        let tuple = IntegrityProfile::new(guard, PiType::Type1, interval_size)?;
        Ok(Some(Self::Opaque(tuple.with_metadata(size, TuplePlace::First)?)))
    }

    /// How tuples are laid out.
    pub fn profile(&self) -> &IntegrityProfile {
        match self {
            Self::Tuples(profile) | Self::Opaque(profile) => profile,
        }
    }

    /// The kernel's name of the format, as in sysfs.
    pub fn kernel_name(&self) -> &'static str {
        match self {
            Self::Tuples(profile) => profile.kernel_name().unwrap_or("unknown"),
            Self::Opaque(_) => "nop",
        }
    }
}

impl BlockIntegrity {
    /// The integrity profile of the block device that is open as `file`; `None` when it has none.
    pub fn detect(file: &File) -> Result<Option<Self>, DetectError> {
        let (metadata, source) = match query_capability(file) {
            Ok(capability) => (from_capability(capability)?, Source::Capability),
            Err(Errno::NOTTY | Errno::INVAL | Errno::OPNOTSUPP) => (from_sysfs(file)?, Source::Sysfs),
            Err(error) => return Err(DetectError::Query(error.into())),
        };
        let kernel_generates = attribute(file, "integrity/write_generate").is_some_and(|value| value != "0");
        Ok(metadata.map(|metadata| Self { metadata, source, kernel_generates }))
    }
}

fn query_capability(file: &File) -> rustix::io::Result<LogicalBlockMetadataCap> {
    let mut bytes = [0; 16];
    // SAFETY: the opcode is that of an ioctl which fills a struct of 16 bytes; its size is part of the opcode.
    let query = unsafe { Updater::<GET_CAPABILITY, [u8; 16]>::new(&mut bytes) };
    // SAFETY: as above; it reads and writes those 16 bytes and nothing else.
    unsafe { ioctl(file, query) }?;
    Ok(LogicalBlockMetadataCap::from_bytes(bytes))
}

fn from_capability(capability: LogicalBlockMetadataCap) -> Result<Option<Metadata>, DetectError> {
    if capability.size == 0 {
        return Ok(None);
    }
    match IntegrityProfile::try_from(capability) {
        Ok(profile) => Ok(Some(Metadata::Tuples(profile))),
        Err(ProfileError::NoProtectionInformation) => {
            Ok(Metadata::opaque(capability.size, capability.interval.into())?)
        }
        Err(error) => Err(error.into()),
    }
}

fn from_sysfs(file: &File) -> Result<Option<Metadata>, DetectError> {
    let number = |name| attribute(file, name).and_then(|value| value.parse().ok());
    let Some(format) = attribute(file, "integrity/format") else {
        return Ok(None);
    };
    let interval_size = number("integrity/protection_interval_bytes").unwrap_or(0);
    // NVMe alone has metadata that is larger than the tuple
    let metadata_size = number("metadata_bytes").and_then(|bytes| u8::try_from(bytes).ok());
    match format.as_str() {
        "none" => Ok(None),
        "nop" => Ok(Metadata::opaque(metadata_size.unwrap_or(0), interval_size)?),
        name => {
            let profile = IntegrityProfile::from_kernel_name(name, interval_size)?;
            let tuple_size = profile.tuple_size();
            match metadata_size {
                Some(metadata_size) if usize::from(metadata_size) > tuple_size => {
                    Err(DetectError::TuplePlace { metadata_size, tuple_size })
                }
                _ => Ok(Some(Metadata::Tuples(profile))),
            }
        }
    }
}

/// An attribute of the disk that `file`, a block device or a partition of one, belongs to.
pub(super) fn attribute(file: &File, name: &str) -> Option<String> {
    let number = file.metadata().ok()?.rdev();
    attribute_of(number, name)
}

/// As [`attribute`], by the device's number.
pub(super) fn attribute_of(number: u64, name: &str) -> Option<String> {
    let (major, minor) = (rustix::fs::major(number), rustix::fs::minor(number));
    let device = PathBuf::from(format!("/sys/dev/block/{major}:{minor}"));
    // a partition has its disk's queue and profile
    let places = [device.join(name), device.join("..").join(name)];
    let value = places.iter().find_map(|place| fs::read_to_string(place).ok())?;
    Some(value.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_regular_file_has_no_profile() {
        let file = tempfile::tempfile().unwrap();
        assert_eq!(BlockIntegrity::detect(&file).unwrap(), None);
    }

    #[test]
    fn metadata_without_a_guard_is_room_for_our_own() {
        let nop = LogicalBlockMetadataCap { size: 8, interval: 512, ..LogicalBlockMetadataCap::default() };
        let guard = |cap| from_capability(cap).unwrap().map(|metadata| metadata.profile().guard());
        assert_eq!(guard(nop), Some(Guard::Crc16T10Dif));
        assert_eq!(guard(LogicalBlockMetadataCap { size: 64, ..nop }), Some(Guard::Crc64Nvme));
        assert_eq!(guard(LogicalBlockMetadataCap { size: 7, ..nop }), None);
        assert_eq!(guard(LogicalBlockMetadataCap { size: 0, ..nop }), None);
    }
}
