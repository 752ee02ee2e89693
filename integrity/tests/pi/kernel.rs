//! The kernel's names and capabilities.

use stableblk_integrity::{
    Guard, IntegrityProfile, LogicalBlockMetadataCap, PiType, ProfileError, TuplePlace,
};

const NAMES: [(&str, Guard, PiType); 6] = [
    ("T10-DIF-TYPE1-CRC", Guard::Crc16T10Dif, PiType::Type1),
    ("T10-DIF-TYPE3-CRC", Guard::Crc16T10Dif, PiType::Type3),
    ("T10-DIF-TYPE1-IP", Guard::IpChecksum, PiType::Type1),
    ("T10-DIF-TYPE3-IP", Guard::IpChecksum, PiType::Type3),
    ("EXT-DIF-TYPE1-CRC64", Guard::Crc64Nvme, PiType::Type1),
    ("EXT-DIF-TYPE3-CRC64", Guard::Crc64Nvme, PiType::Type3),
];

#[test]
fn names_go_both_ways() {
    for (name, guard, pi_type) in NAMES {
        let profile = IntegrityProfile::new(guard, pi_type, 4096).unwrap();
        assert_eq!(IntegrityProfile::from_kernel_name(name, 4096), Ok(profile));
        assert_eq!(profile.kernel_name(), Some(name));
        assert_eq!(profile.with_metadata(64, TuplePlace::Last).unwrap().kernel_name(), Some(name));
    }
}

#[test]
fn other_names_are_refused() {
    for name in ["", "none", "nop", "T10-DIF-TYPE2-CRC", "t10-dif-type1-crc", "EXT-DIF-TYPE1-CRC64\n"] {
        assert_eq!(IntegrityProfile::from_kernel_name(name, 4096), Err(ProfileError::KernelName), "{name}");
    }
    assert_eq!(
        IntegrityProfile::from_kernel_name("T10-DIF-TYPE1-CRC", 520),
        Err(ProfileError::IntervalSize(520))
    );
}

#[test]
fn what_the_kernel_lacks_has_no_name() {
    let name = |guard, pi_type| IntegrityProfile::new(guard, pi_type, 4096).unwrap().kernel_name();
    assert_eq!(name(Guard::Crc16T10Dif, PiType::Type2), None);
    assert_eq!(name(Guard::Crc32c, PiType::Type1), None);
    let split =
        IntegrityProfile::new(Guard::Crc64Nvme, PiType::Type1, 4096).unwrap().with_storage_tag_size(1);
    assert_eq!(split.unwrap().kernel_name(), None);
}

/// The capability of an NVMe drive of 4096 + 64 bytes, 64b guard, Type 1, tuple last.
const CAP: LogicalBlockMetadataCap = LogicalBlockMetadataCap {
    flags: 3,
    interval: 4096,
    size: 64,
    opaque_size: 48,
    opaque_offset: 0,
    pi_size: 16,
    pi_offset: 48,
    guard_tag_type: 4,
    app_tag_size: 2,
    ref_tag_size: 6,
    storage_tag_size: 0,
};

#[test]
fn capabilities_have_their_bytes_in_order() {
    let mut bytes = [0, 0, 0, 0, 0, 0, 64, 48, 0, 16, 48, 4, 2, 6, 0, 0xEE];
    bytes[..4].copy_from_slice(&3_u32.to_ne_bytes());
    bytes[4..6].copy_from_slice(&4096_u16.to_ne_bytes());
    assert_eq!(LogicalBlockMetadataCap::from_bytes(bytes), CAP);
    let numbered = LogicalBlockMetadataCap::from_bytes([1, 1, 1, 1, 2, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12]);
    let expected = LogicalBlockMetadataCap {
        flags: 0x0101_0101,
        interval: 0x0202,
        size: 3,
        opaque_size: 4,
        opaque_offset: 5,
        pi_size: 6,
        pi_offset: 7,
        guard_tag_type: 8,
        app_tag_size: 9,
        ref_tag_size: 10,
        storage_tag_size: 11,
    };
    assert_eq!(numbered, expected);
}

#[test]
fn capabilities_become_profiles() {
    let profile =
        |guard, pi_type, interval_size| IntegrityProfile::new(guard, pi_type, interval_size).unwrap();
    let last = profile(Guard::Crc64Nvme, PiType::Type1, 4096).with_metadata(64, TuplePlace::Last);
    assert_eq!(IntegrityProfile::try_from(CAP), last);
    let first = profile(Guard::Crc64Nvme, PiType::Type3, 4096).with_metadata(64, TuplePlace::First);
    let cap = LogicalBlockMetadataCap { flags: 1, pi_offset: 0, opaque_offset: 16, ..CAP };
    assert_eq!(IntegrityProfile::try_from(cap), first);

    let bare = LogicalBlockMetadataCap { interval: 512, size: 8, pi_size: 8, pi_offset: 0, ..CAP };
    for (guard_tag_type, guard) in [(1, Guard::IpChecksum), (2, Guard::Crc16T10Dif)] {
        let cap = LogicalBlockMetadataCap { guard_tag_type, ..bare };
        assert_eq!(IntegrityProfile::try_from(cap), Ok(profile(guard, PiType::Type1, 512)));
    }
}

/// Linux takes any offset, and the guard covers what comes before the tuple.
#[test]
fn the_tuple_may_stand_between_opaque_bytes() {
    let between = IntegrityProfile::try_from(LogicalBlockMetadataCap { pi_offset: 20, ..CAP }).unwrap();
    assert_eq!((between.tuple_offset(), between.metadata_size()), (20, 64));
    let tags = stableblk_integrity::Tags::at_lba(1);
    let (data, mut metadata) = ([1; 4096], [2; 64]);
    between.generate(&tags, &data, &mut metadata).unwrap();
    let covered = [&data[..], &[2; 20]].concat();
    assert_eq!(between.tuple(&metadata).unwrap().guard, Guard::Crc64Nvme.compute(&covered));
}

#[test]
fn capabilities_without_a_profile_are_refused() {
    let refused = |cap, error| assert_eq!(IntegrityProfile::try_from(cap), Err(error));
    refused(LogicalBlockMetadataCap::default(), ProfileError::NoProtectionInformation);
    refused(LogicalBlockMetadataCap { guard_tag_type: 0, ..CAP }, ProfileError::NoProtectionInformation);
    let unknown = |guard_tag_type, pi_size, storage_tag_size| ProfileError::Capability {
        guard_tag_type,
        pi_size,
        storage_tag_size,
    };
    refused(LogicalBlockMetadataCap { guard_tag_type: 3, ..CAP }, unknown(3, 16, 0));
    refused(LogicalBlockMetadataCap { pi_size: 8, ..CAP }, unknown(4, 8, 0));
    refused(LogicalBlockMetadataCap { storage_tag_size: 2, ..CAP }, unknown(4, 16, 2));
    refused(LogicalBlockMetadataCap { interval: 0, ..CAP }, ProfileError::IntervalSize(0));
    refused(
        LogicalBlockMetadataCap { pi_offset: 49, ..CAP },
        ProfileError::TupleOffset { tuple_offset: 49, metadata_size: 64 },
    );
    refused(
        LogicalBlockMetadataCap { size: 15, ..CAP },
        ProfileError::MetadataSize { metadata_size: 15, tuple_size: 16 },
    );
}
