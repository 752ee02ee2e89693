//! The metadata of a block device, as the kernel reports it: by the ioctl of Linux 6.17, else in
//! sysfs.

#![expect(unsafe_code, reason = "the ioctl has no safe wrapper")]

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use integrity::{IntegrityProfile, LogicalBlockMetadataCap, ProfileError};
use rustix::io::Errno;
use rustix::ioctl::{Updater, ioctl, opcode};
use thiserror::Error;

use super::opaque_metadata::{UnusableMetadata, profile_in};
use super::protection::TupleRule;

/// `FS_IOC_GETLBMD_CAP` of `linux/fs.h`.
const GET_CAPABILITY: rustix::ioctl::Opcode = opcode::read_write::<[u8; 16]>(0x15, 2);

/// Where the metadata was reported.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// The ioctl `FS_IOC_GETLBMD_CAP`.
    Capability,
    /// `/sys/dev/block/MAJOR:MINOR/integrity`.
    Sysfs,
}

/// The metadata of a block device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BlockIntegrity {
    /// How its tuples are laid out.
    pub profile: IntegrityProfile,
    /// The rules that the tuples follow.
    pub rule: TupleRule,
    /// Where that was reported.
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
    /// The kernel's `nop` format: the device keeps metadata, but does not check it.
    #[error(transparent)]
    Opaque(#[from] UnusableMetadata),
    /// sysfs does not say where the tuple stands in the metadata.
    #[error(
        "the metadata has {metadata_size} bytes and this kernel, older than 6.17, does not report where in them the \
        {tuple_size}-byte tuple is"
    )]
    TuplePlace {
        /// Metadata per interval, in bytes.
        metadata_size: u8,
        /// The tuple, in bytes.
        tuple_size: usize,
    },
}

impl BlockIntegrity {
    /// The metadata of the block device that is open as `file`; `None` when it has none.
    pub fn detect(file: &File) -> Result<Option<Self>, DetectError> {
        let (found, source) = match query_capability(file) {
            Ok(capability) => (from_capability(capability)?, Source::Capability),
            Err(Errno::NOTTY | Errno::INVAL | Errno::OPNOTSUPP) => (from_sysfs(file)?, Source::Sysfs),
            Err(error) => return Err(DetectError::Query(error.into())),
        };
        let generates = attribute(file, "integrity/write_generate").is_some_and(|value| value != "0");
        Ok(found.map(|(profile, rule)| {
            let kernel_generates = generates && rule == TupleRule::Standard;
            Self { profile, rule, source, kernel_generates }
        }))
    }
}

fn query_capability(file: &File) -> rustix::io::Result<LogicalBlockMetadataCap> {
    let mut bytes = [0; 16];
    // SAFETY: the ioctl of this opcode reads and fills in a struct of 16 bytes, the size that is
    // part of the opcode and that `bytes` has. `bytes` is borrowed mutably by `query`.
    let query = unsafe { Updater::<GET_CAPABILITY, [u8; 16]>::new(&mut bytes) };
    // SAFETY: the ioctl accesses those 16 bytes and nothing else, and `bytes` outlives the call.
    unsafe { ioctl(file, query) }?;
    Ok(LogicalBlockMetadataCap::from_bytes(bytes))
}

/// A profile, and the rules of its tuples.
type Found = Option<(IntegrityProfile, TupleRule)>;

fn from_capability(capability: LogicalBlockMetadataCap) -> Result<Found, DetectError> {
    if capability.size == 0 {
        return Ok(None);
    }
    match IntegrityProfile::try_from(capability) {
        Ok(profile) => Ok(Some((profile, TupleRule::Standard))),
        Err(ProfileError::NoProtectionInformation) => {
            let profile = profile_in(capability.size.into(), capability.interval.into())?;
            Ok(Some((profile, TupleRule::Own)))
        }
        Err(error) => Err(error.into()),
    }
}

fn from_sysfs(file: &File) -> Result<Found, DetectError> {
    let number = |name| attribute(file, name).and_then(|value| value.parse().ok());
    let Some(format) = attribute(file, "integrity/format") else {
        return Ok(None);
    };
    let interval_size = number("integrity/protection_interval_bytes").unwrap_or(0);
    // NVMe alone has metadata that is larger than the tuple
    let metadata_size = number("metadata_bytes").and_then(|bytes| u8::try_from(bytes).ok());
    match format.as_str() {
        "none" => Ok(None),
        "nop" => {
            let profile = profile_in(metadata_size.unwrap_or(0).into(), interval_size)?;
            Ok(Some((profile, TupleRule::Own)))
        }
        name => {
            let profile = IntegrityProfile::from_kernel_name(name, interval_size)?;
            let tuple_size = profile.tuple_size();
            match metadata_size {
                Some(metadata_size) if usize::from(metadata_size) > tuple_size => {
                    Err(DetectError::TuplePlace { metadata_size, tuple_size })
                }
                _ => Ok(Some((profile, TupleRule::Standard))),
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
    fn metadata_without_a_guard_is_for_tuples_of_our_own() {
        let nop = LogicalBlockMetadataCap { size: 64, interval: 512, ..LogicalBlockMetadataCap::default() };
        let (profile, rule) = from_capability(nop).unwrap().unwrap();
        assert_eq!((profile.metadata_size(), rule), (64, TupleRule::Own));
        assert!(matches!(
            from_capability(LogicalBlockMetadataCap { size: 4, ..nop }),
            Err(DetectError::Opaque(_))
        ));
        assert!(matches!(from_capability(LogicalBlockMetadataCap { size: 0, ..nop }), Ok(None)));
    }
}
