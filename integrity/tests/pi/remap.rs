//! Reference tags moved between a partition's numbers and its disk's.

use proptest::prelude::*;
use stableblk_integrity::{Checks, Guard, IntegrityProfile, PiType, Tags};

use crate::profiles::t10_dif_512;
use crate::strategies::{requests, seeds};

proptest! {
    #[test]
    fn is_generation_with_the_other_seed((profile, data, metadata) in requests(), from in seeds(), reference: u64) {
        // a reference tag of type 3 is the caller's and stays
        let to = if profile.pi_type() == PiType::Type3 { from } else { Tags { reference, ..from } };
        let (mut remapped, mut generated) = (metadata.clone(), metadata);
        profile.generate(&from, &data, &mut remapped).unwrap();
        let original = remapped.clone();
        profile.generate(&to, &data, &mut generated).unwrap();

        profile.remap(from.reference, reference, &mut remapped).unwrap();
        prop_assert_eq!(&remapped, &generated);
        prop_assert_eq!(profile.verify(&to, Checks::all(), &data, &remapped), Ok(()));
        profile.remap(reference, from.reference, &mut remapped).unwrap();
        prop_assert_eq!(&remapped, &original);
    }
}

fn references(profile: &IntegrityProfile, metadata: &[u8]) -> Vec<u64> {
    metadata.chunks(profile.metadata_size()).map(|one| profile.tuple(one).unwrap().reference).collect()
}

#[test]
fn leaves_wrong_tags_wrong() {
    let profile = t10_dif_512();
    let mut metadata = [0; 24];
    profile.generate(&Tags::at_lba(10), &[0; 1536], &mut metadata).unwrap();
    metadata[15] = 99;
    profile.remap(10, 2058, &mut metadata).unwrap();
    assert_eq!(references(&profile, &metadata), [2058, 99, 2060]);
}

/// A never-written block's tuple would otherwise stop being the one the device answered.
#[test]
fn leaves_escapes_as_they_are() {
    let mut metadata = [0xFF; 16];
    t10_dif_512().remap(10, 2058, &mut metadata).unwrap();
    assert_eq!(metadata, [0xFF; 16]);
}

#[test]
fn leaves_type_3_as_it_is() {
    let profile = IntegrityProfile::new(Guard::Crc64Nvme, PiType::Type3, 512).unwrap();
    let mut metadata = [0; 32];
    profile.generate(&Tags::at_lba(10), &[0; 1024], &mut metadata).unwrap();
    profile.remap(10, 2058, &mut metadata).unwrap();
    assert_eq!(references(&profile, &metadata), [10, 10]);
}
