//! One flipped bit: the tag that covers it fails, and no other; where nothing looks, nothing fails.

use proptest::prelude::*;
use stableblk_integrity::{Checks, IntegrityProfile, PiType, Tag, Tags, VerifyError};

use crate::reference;
use crate::strategies::{checks, interleave, requests, seeds};

/// The tag that notices a change of bit `bit` of the byte at `at` in a block of data and metadata.
fn noticed_by(profile: &IntegrityProfile, tags: &Tags, checks: Checks, at: usize, bit: usize) -> Option<Tag> {
    let tuple_at = profile.interval_size() + profile.tuple_offset();
    let guard = checks.contains(Checks::GUARD).then_some(Tag::Guard);
    if at < tuple_at {
        return guard;
    }
    if at >= tuple_at + profile.tuple_size() {
        return None;
    }
    // bits of a tuple count from the most significant bit of its first byte
    let mut bit_in_field = (at - tuple_at) * 8 + 7 - bit;
    let (tag, width) = reference::fields(profile).into_iter().find(|(_, width)| {
        let found = bit_in_field < *width;
        if !found {
            bit_in_field -= width;
        }
        found
    })?;
    let masked_in = tags.application_mask >> (width - 1 - bit_in_field).min(15) & 1 == 1;
    let checked = match tag {
        Tag::Guard => return guard,
        Tag::Application => checks.contains(Checks::APPLICATION) && masked_in,
        Tag::Reference => checks.contains(Checks::REFERENCE) && profile.pi_type() != PiType::Type3,
        Tag::Storage => checks.contains(Checks::STORAGE),
    };
    checked.then_some(tag)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn fails_its_tag_alone(
        (profile, data, mut metadata) in requests(),
        tags in seeds(),
        checks in checks(),
        position: prop::sample::Index,
        in_tuple: bool,
        bit in 0..8_usize,
    ) {
        profile.generate(&tags, &data, &mut metadata).unwrap();
        prop_assert_eq!(profile.verify(&tags, checks, &data, &metadata), Ok(()));

        let mut blocks = interleave(&profile, &data, &metadata);
        let block_size = profile.interval_size() + profile.metadata_size();
        // the tuple is small beside the data, so half the flips go there
        let at = if in_tuple {
            let tuple_at = profile.interval_size() + profile.tuple_offset();
            position.index(blocks.len() / block_size) * block_size + tuple_at + position.index(profile.tuple_size())
        } else {
            position.index(blocks.len())
        };
        blocks[at] ^= 1 << bit;
        let (index, at) = (at / block_size, at % block_size);
        let (data, metadata): (Vec<_>, Vec<_>) =
            blocks.chunks(block_size).map(|block| block.split_at(profile.interval_size())).unzip();
        let (data, metadata) = (data.concat(), metadata.concat());

        let verdict = profile.verify(&tags, checks, &data, &metadata);
        prop_assert_eq!(profile.verify_interleaved(&tags, checks, &blocks), verdict);

        let tuple = &metadata[index * profile.metadata_size() + profile.tuple_offset()..][..profile.tuple_size()];
        let escaped = reference::is_escape(&profile, reference::split(&profile, tuple));
        let expected = if escaped { None } else { noticed_by(&profile, &tags, checks, at, bit) };
        match (verdict, expected) {
            (Ok(()), None) => (),
            (Err(VerifyError::Pi(error)), Some(tag)) => {
                prop_assert_eq!(error.tag, tag);
                prop_assert_eq!(error.interval, index as u64);
                prop_assert_eq!(error.lba, tags.lba.wrapping_add(index as u64));
                prop_assert_ne!(error.expected, error.actual);
                if at >= profile.interval_size() + profile.tuple_offset() {
                    prop_assert_eq!((error.expected ^ error.actual).count_ones(), 1);
                }
            }
            (verdict, expected) => prop_assert!(false, "{verdict:?}, but {expected:?} was to fail"),
        }
    }

    #[test]
    fn verdicts_match_the_reference(
        (profile, data, metadata) in requests(),
        tags in seeds(),
        other in seeds(),
        checks in checks(),
        from_other: [bool; 4],
    ) {
        // any of the tags may be another's, so that several can be wrong at once
        let [reference, application, storage, generated] = from_other;
        let written = Tags {
            reference: if reference { other.reference } else { tags.reference },
            application: if application { other.application } else { tags.application },
            storage: if storage { other.storage } else { tags.storage },
            ..tags
        };
        let mut metadata = metadata;
        if generated {
            profile.generate(&written, &data, &mut metadata).unwrap();
        }
        let verdict = profile.verify(&tags, checks, &data, &metadata).map_err(|error| match error {
            VerifyError::Pi(error) => (error.tag, error.interval),
            VerifyError::Length(_) => unreachable!("the lengths fit"),
        });
        prop_assert_eq!(verdict, reference::verify(&profile, &tags, checks, &data, &metadata));
    }

    #[test]
    fn tuples_match_the_reference((profile, data, metadata) in requests(), tags in seeds()) {
        let (mut ours, mut theirs) = (metadata.clone(), metadata);
        profile.generate(&tags, &data, &mut ours).unwrap();
        reference::generate(&profile, &tags, &data, &mut theirs);
        prop_assert_eq!(ours, theirs);
    }
}
