//! Random profiles, seeds and checks.

use proptest::prelude::*;
use stableblk_integrity::{Checks, Guard, IntegrityProfile, PiType, Tags, TuplePlace};

pub(crate) fn guards() -> impl Strategy<Value = Guard> {
    prop::sample::select(Guard::ALL.to_vec())
}

/// Every guard, type, size and place of the metadata and storage tag size, with intervals that are
/// quick to guard.
pub(crate) fn profiles() -> impl Strategy<Value = IntegrityProfile> {
    let pi_types = prop::sample::select(vec![PiType::Type1, PiType::Type2, PiType::Type3]);
    let places = prop::sample::select(vec![TuplePlace::First, TuplePlace::Last]);
    let intervals = prop::sample::select(vec![512, 512, 512, 1024, 2048, 4096]);
    (guards(), pi_types, places, intervals).prop_flat_map(|(guard, pi_type, place, interval_size)| {
        let (tuple_size, storage_tag_sizes) = match guard {
            Guard::Crc16T10Dif => (8, 0..=32_u8),
            Guard::IpChecksum => (8, 0..=0),
            Guard::Crc32c => (16, 16..=64),
            Guard::Crc64Nvme => (16, 0..=48),
        };
        let metadata_sizes = prop_oneof![Just(tuple_size), Just(64), tuple_size..=64];
        (metadata_sizes, storage_tag_sizes).prop_map(move |(metadata_size, storage_tag_size)| {
            IntegrityProfile::new(guard, pi_type, interval_size)
                .unwrap()
                .with_metadata(metadata_size, place)
                .unwrap()
                .with_storage_tag_size(storage_tag_size)
                .unwrap()
        })
    })
}

/// Seeds anywhere, also where tags wrap and where they are escapes.
pub(crate) fn seeds() -> impl Strategy<Value = Tags> {
    let edges = prop_oneof![any::<u64>(), 0..4_u64, (0..4_u64).prop_map(|n| u64::MAX - n), Just(0xFFFF_FFFE)];
    let application = prop_oneof![4 => any::<u16>(), 1 => Just(u16::MAX)];
    let application_mask = prop_oneof![Just(u16::MAX), any::<u16>()];
    (any::<u64>(), edges, application, application_mask, any::<u64>()).prop_map(
        |(lba, reference, application, application_mask, storage)| Tags {
            lba,
            reference,
            application,
            application_mask,
            storage,
        },
    )
}

pub(crate) fn checks() -> impl Strategy<Value = Checks> {
    prop_oneof![Just(Checks::all()), (0..16_u8).prop_map(Checks::from_bits_truncate)]
}

/// Data and metadata of one to three intervals.
pub(crate) fn bytes_of(profile: IntegrityProfile) -> impl Strategy<Value = (Vec<u8>, Vec<u8>)> {
    (1..=3_usize).prop_flat_map(move |intervals| {
        let bytes = |len| prop::collection::vec(any::<u8>(), len);
        (bytes(intervals * profile.interval_size()), bytes(intervals * profile.metadata_size()))
    })
}

/// A profile with data and metadata of its lengths.
pub(crate) fn requests() -> impl Strategy<Value = (IntegrityProfile, Vec<u8>, Vec<u8>)> {
    profiles().prop_flat_map(|profile| {
        bytes_of(profile).prop_map(move |(data, metadata)| (profile, data, metadata))
    })
}

/// `bytes` cut into slices at `cuts`, some of them empty.
pub(crate) fn cut<'a>(mut bytes: &'a [u8], cuts: &[prop::sample::Index]) -> Vec<&'a [u8]> {
    let mut slices: Vec<&[u8]> = Vec::new();
    for cut in cuts {
        let (head, tail) = bytes.split_at(cut.index(bytes.len() + 1));
        slices.push(head);
        bytes = tail;
    }
    slices.push(bytes);
    slices
}

/// `bytes` cut into mutable slices at `cuts`.
pub(crate) fn cut_mut<'a>(mut bytes: &'a mut [u8], cuts: &[prop::sample::Index]) -> Vec<&'a mut [u8]> {
    let mut slices: Vec<&mut [u8]> = Vec::new();
    for cut in cuts {
        let (head, tail) = bytes.split_at_mut(cut.index(bytes.len() + 1));
        slices.push(head);
        bytes = tail;
    }
    slices.push(bytes);
    slices
}

pub(crate) fn cuts() -> impl Strategy<Value = Vec<prop::sample::Index>> {
    prop::collection::vec(any::<prop::sample::Index>(), 0..8)
}

/// Separate data and metadata as interleaved blocks.
pub(crate) fn interleave(profile: &IntegrityProfile, data: &[u8], metadata: &[u8]) -> Vec<u8> {
    let intervals = data.chunks(profile.interval_size());
    intervals
        .zip(metadata.chunks(profile.metadata_size()))
        .flat_map(|(data, metadata)| [data, metadata].concat())
        .collect()
}
