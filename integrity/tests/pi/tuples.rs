//! Tuples, decoded and encoded.

use proptest::prelude::*;
use stableblk_integrity::{Guard, IntegrityProfile, LengthError, PiType, Tuple};

use crate::reference;
use crate::strategies::profiles;

proptest! {
    #[test]
    fn decode_as_the_reference_does(profile in profiles(), metadata in prop::collection::vec(any::<u8>(), 64)) {
        let bytes = &metadata[profile.tuple_offset()..][..profile.tuple_size()];
        let [guard, application, storage, reference] = reference::split(&profile, bytes);
        let Ok(application) = u16::try_from(application) else { panic!("an application tag has 16 bits") };
        prop_assert_eq!(profile.tuple(&metadata), Ok(Tuple { guard, application, reference, storage }));
    }

    #[test]
    fn encode_what_was_decoded(profile in profiles(), metadata in prop::collection::vec(any::<u8>(), 64), fill: u8) {
        let tuple = profile.tuple(&metadata).unwrap();
        let mut copy = [fill; 64];
        profile.set_tuple(&tuple, &mut copy).unwrap();
        let range = profile.tuple_offset()..profile.tuple_offset() + profile.tuple_size();
        prop_assert_eq!(&copy[range.clone()], &metadata[range.clone()]);
        prop_assert!(copy[..range.start].iter().chain(&copy[range.end..]).all(|byte| *byte == fill));
    }

    #[test]
    fn tags_are_cut_to_their_fields(profile in profiles(), guard: u64, application: u16, reference: u64, storage: u64) {
        let mut metadata = [0; 64];
        profile.set_tuple(&Tuple { guard, application, reference, storage }, &mut metadata).unwrap();
        let bytes = &metadata[profile.tuple_offset()..][..profile.tuple_size()];
        prop_assert_eq!(bytes, reference::join(&profile, [guard, application.into(), storage, reference]));
    }
}

#[test]
fn need_the_metadata_of_an_interval() {
    let profile = IntegrityProfile::new(Guard::Crc64Nvme, PiType::Type1, 4096).unwrap();
    let short = LengthError::Metadata { metadata_len: 15, needed: 16 };
    let tuple = profile.tuple(&[0; 16]).unwrap();
    assert_eq!(profile.tuple(&[0; 15]), Err(short));
    assert_eq!(profile.set_tuple(&tuple, &mut [0; 15]), Err(short));
}
