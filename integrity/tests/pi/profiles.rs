//! The profiles that are possible.

use stableblk_integrity::{Guard, IntegrityProfile, PiType, ProfileError, TuplePlace};

/// The format of most SCSI disks with protection information.
pub(crate) fn t10_dif_512() -> IntegrityProfile {
    IntegrityProfile::new(Guard::Crc16T10Dif, PiType::Type1, 512).unwrap()
}

#[test]
fn intervals_are_powers_of_two_from_512_to_65536() {
    for interval_size in [512, 1024, 2048, 4096, 8192, 16384, 32768, 65536] {
        let profile = IntegrityProfile::new(Guard::Crc64Nvme, PiType::Type1, interval_size).unwrap();
        assert_eq!(profile.interval_size(), interval_size as usize);
    }
    for interval_size in [0, 1, 256, 511, 513, 520, 4095, 65535, 65537, 131_072, u32::MAX] {
        let profile = IntegrityProfile::new(Guard::Crc64Nvme, PiType::Type1, interval_size);
        assert_eq!(profile, Err(ProfileError::IntervalSize(interval_size)));
    }
}

#[test]
fn metadata_holds_the_tuple_in_64_bytes() {
    for guard in Guard::ALL {
        let profile = IntegrityProfile::new(guard, PiType::Type1, 4096).unwrap();
        let tuple_size = match guard.size() {
            16 => 8,
            _ => 16,
        };
        assert_eq!((profile.metadata_size(), profile.tuple_size()), (tuple_size.into(), tuple_size.into()));
        for metadata_size in 0..=u8::MAX {
            for place in [TuplePlace::First, TuplePlace::Last] {
                let wider = profile.with_metadata(metadata_size, place);
                if (tuple_size..=64).contains(&metadata_size) {
                    let wider = wider.unwrap();
                    assert_eq!(wider.metadata_size(), metadata_size.into());
                    assert_eq!(wider.block_size(), 4096 + usize::from(metadata_size));
                    assert_eq!(wider.metadata_len(3 * 4096), 3 * usize::from(metadata_size));
                    let offset = if place == TuplePlace::First { 0 } else { metadata_size - tuple_size };
                    assert_eq!(wider.tuple_offset(), offset.into());
                } else {
                    assert_eq!(wider, Err(ProfileError::MetadataSize { metadata_size, tuple_size }));
                }
            }
        }
    }
}

#[test]
fn storage_tags_take_the_bits_their_guard_permits() {
    for (guard, min, max, space) in [
        (Guard::Crc16T10Dif, 0, 32, 32),
        (Guard::IpChecksum, 0, 0, 32),
        (Guard::Crc32c, 16, 64, 80),
        (Guard::Crc64Nvme, 0, 48, 48),
    ] {
        let profile = IntegrityProfile::new(guard, PiType::Type2, 4096).unwrap();
        assert_eq!(profile.storage_tag_size(), min.into(), "{guard}");
        for bits in 0..=u8::MAX {
            let split = profile.with_storage_tag_size(bits);
            if (min..=max).contains(&bits) {
                let split = split.unwrap();
                assert_eq!(split.storage_tag_size(), bits.into());
                assert_eq!(split.reference_tag_size(), space - u32::from(bits));
            } else {
                assert_eq!(split, Err(ProfileError::StorageTagSize { bits, min, max }));
            }
        }
    }
}

#[test]
fn bare_tuples_have_no_place() {
    let profile = t10_dif_512();
    for place in [TuplePlace::First, TuplePlace::Last] {
        assert_eq!(profile.with_metadata(8, place), Ok(profile));
    }
    assert_eq!((profile.guard(), profile.pi_type()), (Guard::Crc16T10Dif, PiType::Type1));
}

#[test]
fn errors_name_what_would_do() {
    let message = |error: ProfileError| error.to_string();
    assert_eq!(
        message(ProfileError::IntervalSize(520)),
        "protection interval of 520 bytes is not a power of two from 512 to 65536"
    );
    assert_eq!(
        message(ProfileError::MetadataSize { metadata_size: 8, tuple_size: 16 }),
        "metadata of 8 bytes per interval is not from 16 to 64"
    );
    assert_eq!(
        message(ProfileError::StorageTagSize { bits: 8, min: 16, max: 64 }),
        "storage tag size of 8 bits is not from 16 to 64"
    );
}
