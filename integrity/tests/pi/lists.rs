//! Data and blocks in lists of slices, cut anywhere.

use std::io::IoSlice;

use proptest::prelude::*;
use stableblk_integrity::{Checks, LengthError, Tags, VerifyError};

use crate::strategies::{checks, cut, cut_mut, cuts, interleave, requests, seeds};

proptest! {
    #[test]
    fn generate_does_not_see_cuts((profile, data, metadata) in requests(), tags in seeds(), cuts in cuts()) {
        let (mut whole, mut in_pieces) = (metadata.clone(), metadata);
        profile.generate(&tags, &data, &mut whole).unwrap();
        profile.generate_vectored(&tags, &cut(&data, &cuts), &mut in_pieces).unwrap();
        prop_assert_eq!(&whole, &in_pieces);

        let mut blocks = interleave(&profile, &data, &in_pieces);
        let expected = blocks.clone();
        profile.generate_interleaved_vectored(&tags, &mut cut_mut(&mut blocks, &cuts)).unwrap();
        prop_assert_eq!(blocks, expected);
    }

    #[test]
    fn verify_does_not_see_cuts(
        (profile, mut data, mut metadata) in requests(),
        tags in seeds(),
        checks in checks(),
        cuts in cuts(),
        flip: Option<prop::sample::Index>,
    ) {
        profile.generate(&tags, &data, &mut metadata).unwrap();
        if let Some(position) = flip {
            *position.get_mut(&mut data) ^= 1;
        }
        let verdict = profile.verify(&tags, checks, &data, &metadata);
        prop_assert_eq!(profile.verify_vectored(&tags, checks, &cut(&data, &cuts), &metadata), verdict);
        let blocks = interleave(&profile, &data, &metadata);
        prop_assert_eq!(profile.verify_interleaved_vectored(&tags, checks, &cut(&blocks, &cuts)), verdict);
    }

    #[test]
    fn remap_does_not_see_cuts(
        (profile, data, mut metadata) in requests(),
        tags in seeds(),
        to: u64,
        cuts in cuts(),
    ) {
        profile.generate(&tags, &data, &mut metadata).unwrap();
        let mut blocks = interleave(&profile, &data, &metadata);
        let mut in_pieces = blocks.clone();
        profile.remap(tags.reference, to, &mut metadata).unwrap();
        profile.remap_interleaved(tags.reference, to, &mut blocks).unwrap();
        profile.remap_interleaved_vectored(tags.reference, to, &mut cut_mut(&mut in_pieces, &cuts)).unwrap();
        prop_assert_eq!(&blocks, &interleave(&profile, &data, &metadata));
        prop_assert_eq!(&blocks, &in_pieces);
    }

    #[test]
    fn lengths_are_those_of_the_whole_list((profile, data, metadata) in requests(), tags in seeds(), cuts in cuts()) {
        let short = &data[1..];
        let error = LengthError::Data { data_len: short.len(), interval_size: profile.interval_size() };
        let slices = cut(short, &cuts);
        let mut scratch = metadata.clone();
        prop_assert_eq!(profile.generate_vectored(&tags, &slices, &mut scratch), Err(error));
        prop_assert_eq!(&scratch, &metadata);
        let verdict = profile.verify_vectored(&tags, Checks::all(), &slices, &metadata);
        prop_assert_eq!(verdict, Err(VerifyError::Length(error)));
    }
}

/// The lists that system calls take.
#[test]
fn io_slices_are_lists() {
    let profile = crate::profiles::t10_dif_512();
    let tags = Tags::at_lba(7);
    let (head, tail) = ([1; 200], [2; 824]);
    let mut metadata = [0; 16];
    let data = [IoSlice::new(&head), IoSlice::new(&tail)];
    profile.generate_vectored(&tags, &data, &mut metadata).unwrap();
    profile.verify_vectored(&tags, Checks::all(), &data, &metadata).unwrap();
    profile.verify(&tags, Checks::all(), &[&head[..], &tail].concat(), &metadata).unwrap();
}
