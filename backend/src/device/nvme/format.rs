//! How a namespace is formatted.

use integrity::{Guard, IntegrityProfile, PiType, ProfileError, TuplePlace};
use thiserror::Error;

use super::identify::{IdentifyNamespace, IdentifyNvmNamespace};
use crate::device::TupleRule;
use crate::device::opaque_metadata::{UnusableMetadata, profile_in};

/// The LBA format of a namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NamespaceFormat {
    /// Bytes of data in a block.
    pub block_size: usize,
    /// How its tuple is laid out in its metadata.
    pub profile: IntegrityProfile,
    /// The rules of its tuple: our own where the format has no protection information.
    pub rule: TupleRule,
    /// Whether the metadata follows each block's data in the same buffer: an extended LBA.
    pub extended: bool,
}

/// Why a namespace cannot be served with its own metadata.
#[derive(Debug, Error)]
pub enum UnusableFormat {
    /// There is no room for tuples.
    #[error("it is formatted without metadata: name its block device instead")]
    NoMetadata,
    /// Nothing checks its metadata, and tuples of our own do not fit in.
    #[error(transparent)]
    Opaque(#[from] UnusableMetadata),
    /// It has more bytes than are supported beside protection information.
    #[error("it is formatted with {0} bytes of metadata, which is not supported")]
    MetadataSize(u16),
    /// The 32b guard, or a storage tag.
    #[error(
        "it is formatted with protection information format {guard_format} and a storage tag of {storage_tag_size} bits, which are not supported"
    )]
    Guard {
        /// PIF.
        guard_format: u8,
        /// STS.
        storage_tag_size: u8,
    },
    /// It is not a format of the specification.
    #[error("its format is unknown")]
    Profile(#[from] ProfileError),
}

impl NamespaceFormat {
    /// The format in use. Controllers without the second structure have the 16b guard alone.
    pub(super) fn of(
        namespace: &IdentifyNamespace,
        nvm: Option<&IdentifyNvmNamespace>,
    ) -> Result<Self, UnusableFormat> {
        let block_size = 1_u32.checked_shl(namespace.block_exponent().into()).unwrap_or(0);
        let size = namespace.metadata_size();
        let extended = namespace.is_extended();
        let pi_type = match namespace.pi_type() {
            1 => PiType::Type1,
            2 => PiType::Type2,
            3 => PiType::Type3,
            _ if size == 0 => return Err(UnusableFormat::NoMetadata),
            _ => {
                let profile = profile_in(size, block_size)?;
                return Ok(Self {
                    block_size: profile.interval_size(),
                    profile,
                    rule: TupleRule::Own,
                    extended,
                });
            }
        };
        let metadata_size = u8::try_from(size).map_err(|_| UnusableFormat::MetadataSize(size))?;
        let guard = guard(nvm, namespace.format_index())?;
        let place = if namespace.is_tuple_first() { TuplePlace::First } else { TuplePlace::Last };
        let tuple = IntegrityProfile::new(guard, pi_type, block_size)?;
        let profile = tuple.with_metadata(metadata_size, place)?;
        Ok(Self { block_size: profile.interval_size(), profile, rule: TupleRule::Standard, extended })
    }
}

fn guard(nvm: Option<&IdentifyNvmNamespace>, format_index: usize) -> Result<Guard, UnusableFormat> {
    let Some(nvm) = nvm else { return Ok(Guard::Crc16T10Dif) };
    match (nvm.guard_format(format_index), nvm.storage_tag_size(format_index)) {
        (0, 0) => Ok(Guard::Crc16T10Dif),
        (2, 0) => Ok(Guard::Crc64Nvme),
        (guard_format, storage_tag_size) => Err(UnusableFormat::Guard { guard_format, storage_tag_size }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Format 17 of a namespace: `ms` bytes beside 4096, type and place of the tuple as `dps` says.
    fn namespace(ms: u8, extended: bool, dps: u8) -> IdentifyNamespace {
        let mut bytes = Box::new([0; 4096]);
        bytes[26] = 0x21 | u8::from(extended) << 4;
        bytes[29] = dps;
        bytes[128 + 4 * 17..][..3].copy_from_slice(&[ms, 0, 12]);
        IdentifyNamespace(bytes)
    }

    fn nvm(format: u32) -> IdentifyNvmNamespace {
        let mut bytes = Box::new([0; 4096]);
        bytes[12 + 4 * 17..][..4].copy_from_slice(&format.to_le_bytes());
        IdentifyNvmNamespace(bytes)
    }

    #[test]
    fn the_format_in_use_is_read() {
        let format = NamespaceFormat::of(&namespace(64, true, 0x3), Some(&nvm(2 << 7))).unwrap();
        let profile = format.profile;
        assert!(format.extended);
        assert_eq!((profile.guard(), profile.pi_type()), (Guard::Crc64Nvme, PiType::Type3));
        assert_eq!((format.block_size, profile.metadata_size(), profile.tuple_offset()), (4096, 64, 48));
        let first = NamespaceFormat::of(&namespace(16, false, 0x9), None).unwrap();
        assert_eq!((first.extended, first.profile.tuple_offset()), (false, 0));
    }

    #[test]
    fn metadata_without_protection_information_is_for_tuples_of_our_own() {
        let format = NamespaceFormat::of(&namespace(16, true, 0), None).unwrap();
        assert_eq!(
            (format.rule, format.profile.guard(), format.extended),
            (TupleRule::Own, Guard::Crc64Nvme, true)
        );
    }

    #[test]
    fn unsupported_formats_are_refused() {
        let of = |ms, dps, format| NamespaceFormat::of(&namespace(ms, false, dps), Some(&nvm(format)));
        assert!(matches!(of(0, 0, 0), Err(UnusableFormat::NoMetadata)));
        assert!(matches!(of(4, 0, 0), Err(UnusableFormat::Opaque(_))));
        assert!(matches!(
            of(16, 1, 1 << 7 | 16),
            Err(UnusableFormat::Guard { guard_format: 1, storage_tag_size: 16 })
        ));
        assert!(matches!(of(8, 1, 8), Err(UnusableFormat::Guard { storage_tag_size: 8, .. })));
        assert!(matches!(of(8, 1, 2 << 7), Err(UnusableFormat::Profile(_))));
    }
}
