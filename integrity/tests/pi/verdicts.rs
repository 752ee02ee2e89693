//! The rules of each tag, type and escape, and the words of an error.

use stableblk_integrity::{Checks, Guard, IntegrityProfile, PiError, PiType, Tag, Tags, Tuple, VerifyError};

use crate::profiles::t10_dif_512;

fn profile(guard: Guard, pi_type: PiType) -> IntegrityProfile {
    IntegrityProfile::new(guard, pi_type, 512).unwrap()
}

/// Two intervals written with `tags`, the second's tuple changed by `change`.
fn changed(
    profile: &IntegrityProfile,
    tags: &Tags,
    change: impl FnOnce(&mut Tuple),
) -> ([u8; 1024], Vec<u8>) {
    let data = std::array::from_fn(|i| i.to_le_bytes()[0]);
    let mut metadata = vec![0; profile.metadata_len(data.len())];
    profile.generate(tags, &data, &mut metadata).unwrap();
    let second = &mut metadata[profile.metadata_size()..];
    let mut tuple = profile.tuple(second).unwrap();
    change(&mut tuple);
    profile.set_tuple(&tuple, second).unwrap();
    (data, metadata)
}

fn error(
    profile: &IntegrityProfile,
    tags: &Tags,
    checks: Checks,
    change: impl FnOnce(&mut Tuple),
) -> Option<PiError> {
    let (data, metadata) = changed(profile, tags, change);
    match profile.verify(tags, checks, &data, &metadata) {
        Ok(()) => None,
        Err(VerifyError::Pi(error)) => Some(error),
        Err(VerifyError::Length(error)) => panic!("{error}"),
    }
}

fn failed_tag(pi_type: PiType, checks: Checks, change: impl FnOnce(&mut Tuple)) -> Option<Tag> {
    let profile = profile(Guard::Crc64Nvme, pi_type).with_storage_tag_size(16).unwrap();
    let tags = Tags { application: 0x1234, storage: 0x5678, ..Tags::at_lba(100) };
    error(&profile, &tags, checks, change).map(|error| error.tag)
}

#[test]
fn an_error_says_what_where_and_why() {
    let tags = Tags { application: 0x1234, ..Tags::at_lba(63) };
    let error = error(&t10_dif_512(), &tags, Checks::all(), |tuple| tuple.reference = 65).unwrap();
    let expected =
        PiError { tag: Tag::Reference, interval: 1, lba: 64, expected: 64, actual: 65, tag_size: 32 };
    assert_eq!(error, expected);
}

#[test]
fn messages_read_as_the_kernel_s() {
    let t10_dif = t10_dif_512();
    let crc64 = profile(Guard::Crc64Nvme, PiType::Type1).with_storage_tag_size(12).unwrap();
    let tags = Tags { application: 0x0234, storage: 0x56, ..Tags::at_lba(63) };
    let message = |profile: &IntegrityProfile, change: fn(&mut Tuple)| {
        VerifyError::Pi(error(profile, &tags, Checks::all(), change).unwrap()).to_string()
    };
    let guard = t10_dif.tuple(&changed(&t10_dif, &tags, |_| ()).1[8..]).unwrap().guard;
    assert_eq!(
        message(&t10_dif, |tuple| tuple.guard = 0x00AB),
        format!("guard tag error at LBA 64 (rcvd 00ab, want {guard:04x})")
    );
    let guard = crc64.tuple(&changed(&crc64, &tags, |_| ()).1[16..]).unwrap().guard;
    assert_eq!(
        message(&crc64, |tuple| tuple.guard = 1),
        format!("guard tag error at LBA 64 (rcvd 0000000000000001, want {guard:016x})")
    );
    assert_eq!(
        message(&t10_dif, |tuple| tuple.application = 0xBEEF),
        "app tag error at LBA 64 (rcvd beef, want 0234)"
    );
    assert_eq!(
        message(&t10_dif, |tuple| tuple.reference = 65),
        "ref tag error at location 64 (rcvd 65, want 64)"
    );
    assert_eq!(
        message(&crc64, |tuple| tuple.storage = 0xA),
        "storage tag error at LBA 64 (rcvd 00a, want 056)"
    );
    assert_eq!(format!("{:>8}|", Tag::Guard), "   guard|");
}

#[test]
fn each_check_is_of_its_tag_alone() {
    type Change = fn(&mut Tuple);
    let changes: [(Tag, Checks, Change); 4] = [
        (Tag::Guard, Checks::GUARD, |tuple| tuple.guard ^= 1),
        (Tag::Application, Checks::APPLICATION, |tuple| tuple.application ^= 1),
        (Tag::Reference, Checks::REFERENCE, |tuple| tuple.reference ^= 1),
        (Tag::Storage, Checks::STORAGE, |tuple| tuple.storage ^= 1),
    ];
    for pi_type in [PiType::Type1, PiType::Type2] {
        for (tag, check, change) in changes {
            assert_eq!(failed_tag(pi_type, check, change), Some(tag));
            assert_eq!(failed_tag(pi_type, Checks::all(), change), Some(tag));
            assert_eq!(failed_tag(pi_type, Checks::all() - check, change), None);
        }
    }
}

#[test]
fn the_first_wrong_tag_is_named_in_nvme_s_order() {
    let all = Checks::all();
    let wrong = |tuple: &mut Tuple| *tuple = Tuple { guard: 0, application: 0, reference: 0, storage: 0 };
    assert_eq!(failed_tag(PiType::Type1, all, wrong), Some(Tag::Guard));
    assert_eq!(failed_tag(PiType::Type1, all - Checks::GUARD, wrong), Some(Tag::Application));
    assert_eq!(failed_tag(PiType::Type1, Checks::REFERENCE | Checks::STORAGE, wrong), Some(Tag::Reference));
    assert_eq!(failed_tag(PiType::Type1, Checks::STORAGE, wrong), Some(Tag::Storage));
    assert_eq!(failed_tag(PiType::Type1, Checks::empty(), wrong), None);
}

#[test]
fn an_application_tag_of_all_ones_escapes_types_1_and_2() {
    for pi_type in [PiType::Type1, PiType::Type2] {
        let escape =
            |tuple: &mut Tuple| *tuple = Tuple { guard: 0, application: 0xFFFF, reference: 0, storage: 0 };
        assert_eq!(failed_tag(pi_type, Checks::all(), escape), None);
        let near =
            |tuple: &mut Tuple| *tuple = Tuple { guard: 0, application: 0xFFFE, reference: 0, storage: 0 };
        assert_eq!(failed_tag(pi_type, Checks::all(), near), Some(Tag::Guard));
    }
}

#[test]
fn type_3_escapes_with_the_reference_tag_too() {
    let escape =
        |tuple: &mut Tuple| (tuple.guard, tuple.application, tuple.reference) = (0, 0xFFFF, u64::MAX);
    assert_eq!(failed_tag(PiType::Type3, Checks::all(), escape), None);
    let application_alone = |tuple: &mut Tuple| (tuple.guard, tuple.application) = (0, 0xFFFF);
    assert_eq!(failed_tag(PiType::Type3, Checks::all(), application_alone), Some(Tag::Guard));
    let reference_alone = |tuple: &mut Tuple| (tuple.guard, tuple.reference) = (0, u64::MAX);
    assert_eq!(failed_tag(PiType::Type3, Checks::all(), reference_alone), Some(Tag::Guard));
    let near =
        |tuple: &mut Tuple| (tuple.guard, tuple.application, tuple.reference) = (0, 0xFFFF, u64::MAX - 1);
    assert_eq!(failed_tag(PiType::Type3, Checks::all(), near), Some(Tag::Guard));
}

/// The tuples that an NVMe device returns for blocks that were never written.
#[test]
fn tuples_of_all_ones_are_escapes_in_each_format() {
    for guard in Guard::ALL {
        for pi_type in [PiType::Type1, PiType::Type2, PiType::Type3] {
            let profile = profile(guard, pi_type);
            let metadata = vec![0xFF; profile.metadata_size()];
            assert_eq!(profile.verify(&Tags::at_lba(5), Checks::all(), &[0; 512], &metadata), Ok(()));
        }
    }
}

/// Later intervals are still checked.
#[test]
fn an_escape_covers_its_interval_alone() {
    let profile = t10_dif_512();
    let tags = Tags::at_lba(5);
    let (data, mut metadata) = changed(&profile, &tags, |tuple| tuple.guard ^= 1);
    metadata[..8].fill(0xFF);
    let Err(VerifyError::Pi(error)) = profile.verify(&tags, Checks::all(), &data, &metadata) else {
        panic!("the second interval has a wrong guard");
    };
    assert_eq!((error.tag, error.interval, error.lba), (Tag::Guard, 1, 6));
}

#[test]
fn type_3_s_reference_tag_is_opaque() {
    let change = |tuple: &mut Tuple| tuple.reference ^= 0xFFF;
    assert_eq!(failed_tag(PiType::Type3, Checks::all(), change), None);
}

#[test]
fn reference_tags_follow_the_type() {
    for (pi_type, expected) in
        [(PiType::Type1, [7, 8, 9]), (PiType::Type2, [7, 8, 9]), (PiType::Type3, [7, 7, 7])]
    {
        let profile = profile(Guard::Crc16T10Dif, pi_type);
        let mut metadata = [0; 24];
        profile.generate(&Tags { lba: 1000, ..Tags::at_lba(7) }, &[0; 1536], &mut metadata).unwrap();
        let references = metadata.chunks(8).map(|metadata| profile.tuple(metadata).unwrap().reference);
        assert!(references.eq(expected), "{pi_type:?}");
    }
}

/// Type 1 keeps the low bits of an LBA that does not fit, and an error still names the LBA in full.
#[test]
fn reference_tags_wrap_with_their_field() {
    let tags = Tags::at_lba(0x1_FFFF_FFFF);
    let (_, metadata) = changed(&t10_dif_512(), &tags, |_| ());
    assert_eq!(metadata[4..8], [0xFF; 4]);
    assert_eq!(metadata[12..16], [0; 4]);
    let error = error(&t10_dif_512(), &tags, Checks::all(), |tuple| tuple.reference = 1).unwrap();
    assert_eq!((error.lba, error.expected, error.actual), (0x2_0000_0000, 0, 1));
}

#[test]
fn masked_application_bits_are_not_compared() {
    let tags = Tags { application: 0x12FF, application_mask: 0xFF00, ..Tags::at_lba(0) };
    let failed = |value| error(&t10_dif_512(), &tags, Checks::all(), |tuple| tuple.application = value);
    assert_eq!(failed(0x1200), None);
    let error = failed(0x13FF).unwrap();
    assert_eq!((error.expected, error.actual), (0x1200, 0x1300));
}

#[test]
fn a_seed_at_an_lba_compares_application_tag_0_in_full() {
    let tags = Tags { lba: 42, reference: 42, application: 0, application_mask: 0xFFFF, storage: 0 };
    assert_eq!(Tags::at_lba(42), tags);
}
