//! Lengths that do not fit are typed errors, and nothing is written.

use stableblk_integrity::{
    Checks, Guard, IntegrityProfile, LengthError, PiType, Tags, TuplePlace, VerifyError,
};

use crate::profiles::t10_dif_512;

const TAGS: Tags = Tags::at_lba(9);

#[test]
fn data_is_whole_intervals() {
    let profile = t10_dif_512();
    for data_len in [1, 511, 513, 1023] {
        let (data, mut metadata) = (vec![0; data_len], [0xAA; 64]);
        let error = LengthError::Data { data_len, interval_size: 512 };
        assert_eq!(profile.generate(&TAGS, &data, &mut metadata), Err(error));
        assert_eq!(metadata, [0xAA; 64]);
        assert_eq!(profile.verify(&TAGS, Checks::empty(), &data, &metadata), Err(VerifyError::Length(error)));
    }
    assert_eq!(
        LengthError::Data { data_len: 513, interval_size: 512 }.to_string(),
        "data of 513 bytes is not a multiple of the interval of 512"
    );
}

#[test]
fn metadata_is_long_enough() {
    let profile = t10_dif_512().with_metadata(16, TuplePlace::Last).unwrap();
    let data = [3; 1536];
    for metadata_len in [0, 8, 47] {
        let mut metadata = vec![0xAA; metadata_len];
        let error = LengthError::Metadata { metadata_len, needed: 48 };
        assert_eq!(profile.generate(&TAGS, &data, &mut metadata), Err(error));
        assert!(metadata.iter().all(|byte| *byte == 0xAA));
        assert_eq!(profile.verify(&TAGS, Checks::empty(), &data, &metadata), Err(VerifyError::Length(error)));
    }
    let error = VerifyError::Length(LengthError::Metadata { metadata_len: 47, needed: 48 });
    assert_eq!(error.to_string(), "metadata of 47 bytes is shorter than the 48 needed");
}

/// As the kernel takes it, and what is too much is not touched.
#[test]
fn metadata_may_be_longer() {
    let profile = t10_dif_512();
    let data = [3; 1024];
    let mut metadata = [0xAA; 27];
    profile.generate(&TAGS, &data, &mut metadata).unwrap();
    assert_eq!(metadata[16..], [0xAA; 11]);
    profile.verify(&TAGS, Checks::all(), &data, &metadata).unwrap();
}

#[test]
fn interleaved_blocks_are_whole() {
    let profile = t10_dif_512();
    for blocks_len in [8, 512, 519, 521, 1024] {
        let mut blocks = vec![0xAA; blocks_len];
        let error = LengthError::Blocks { blocks_len, block_size: 520 };
        assert_eq!(profile.generate_interleaved(&TAGS, &mut blocks), Err(error));
        assert_eq!(profile.remap_interleaved(1, 2, &mut blocks), Err(error));
        assert!(blocks.iter().all(|byte| *byte == 0xAA));
        let verdict = profile.verify_interleaved(&TAGS, Checks::empty(), &blocks);
        assert_eq!(verdict, Err(VerifyError::Length(error)));
    }
    assert_eq!(
        LengthError::Blocks { blocks_len: 512, block_size: 520 }.to_string(),
        "blocks of 512 bytes are not a multiple of the block of 520, metadata included"
    );
}

#[test]
fn remapped_metadata_is_whole() {
    let profile = IntegrityProfile::new(Guard::Crc64Nvme, PiType::Type1, 4096).unwrap();
    let error = LengthError::PartialMetadata { metadata_len: 24, metadata_size: 16 };
    assert_eq!(profile.remap(0, 1, &mut [0; 24]), Err(error));
    assert_eq!(error.to_string(), "metadata of 24 bytes is not a multiple of the 16 per interval");
}

/// No interval, nothing to check: as a loop over none.
#[test]
fn no_data_is_good() {
    let profile = t10_dif_512();
    profile.generate(&TAGS, &[], &mut []).unwrap();
    profile.verify(&TAGS, Checks::all(), &[], &[]).unwrap();
    profile.verify_vectored(&TAGS, Checks::all(), &[&[][..]; 3], &[]).unwrap();
    profile.verify_interleaved(&TAGS, Checks::all(), &[]).unwrap();
    profile.remap(1, 2, &mut []).unwrap();
}
