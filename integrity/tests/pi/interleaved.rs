//! Blocks with their metadata inside.

use proptest::prelude::*;
use stableblk_integrity::{Checks, Guard, IntegrityProfile, PiType, Tags, TuplePlace};

use crate::strategies::{interleave, requests, seeds};

proptest! {
    #[test]
    fn are_the_separate_ones_put_together((profile, data, mut metadata) in requests(), tags in seeds()) {
        let mut blocks = interleave(&profile, &data, &metadata);
        profile.generate_interleaved(&tags, &mut blocks).unwrap();
        profile.generate(&tags, &data, &mut metadata).unwrap();
        prop_assert_eq!(&blocks, &interleave(&profile, &data, &metadata));
        prop_assert_eq!(profile.verify_interleaved(&tags, Checks::all(), &blocks), Ok(()));
    }
}

#[test]
fn have_the_sizes_that_disks_have() {
    for (guard, interval_size, metadata_size, block_size) in [
        (Guard::Crc16T10Dif, 512, 8, 520),
        (Guard::Crc16T10Dif, 512, 16, 528),
        (Guard::Crc16T10Dif, 4096, 8, 4104),
        (Guard::Crc64Nvme, 4096, 64, 4160),
    ] {
        let profile = IntegrityProfile::new(guard, PiType::Type1, interval_size)
            .and_then(|profile| profile.with_metadata(metadata_size, TuplePlace::Last))
            .unwrap();
        assert_eq!(profile.block_size(), block_size);
        let mut blocks = vec![0x5A; 3 * block_size];
        let tags = Tags::at_lba(1 << 20);
        profile.generate_interleaved(&tags, &mut blocks).unwrap();
        profile.verify_interleaved(&tags, Checks::all(), &blocks).unwrap();
        let last_tuple = &blocks[3 * block_size - 4..];
        assert_eq!(last_tuple, [0, 0x10, 0, 2]);
    }
}
