//! The formats once more, as plainly as the standards print them: CRCs bit by bit, tuples as
//! strings of bits.

use stableblk_integrity::{Checks, Guard, IntegrityProfile, PiType, Tag, Tags};

/// A CRC by the parameters of the Rocksoft model: width, polynomial, initial value, reflection,
/// final XOR.
fn crc(width: u32, polynomial: u64, ones_at_both_ends: bool, reflected: bool, data: &[u8]) -> u64 {
    let all = u64::MAX >> (64 - width);
    let ends = if ones_at_both_ends { all } else { 0 };
    let mut remainder = ends;
    for byte in data {
        let byte = if reflected { byte.reverse_bits() } else { *byte };
        for bit in (0..8).rev() {
            let carry = remainder >> (width - 1) & 1 ^ u64::from(byte >> bit & 1);
            remainder = (remainder << 1 & all) ^ (polynomial * carry);
        }
    }
    let remainder = if reflected { remainder.reverse_bits() >> (64 - width) } else { remainder };
    remainder ^ ends
}

fn internet_checksum(data: &[u8]) -> u64 {
    let mut sum = 0;
    for word in data.chunks(2) {
        sum += u64::from(word[0]) << 8 | u64::from(*word.get(1).unwrap_or(&0));
        sum = (sum & 0xFFFF) + (sum >> 16);
    }
    !sum & 0xFFFF
}

pub(crate) fn guard(guard: Guard, data: &[u8]) -> u64 {
    match guard {
        Guard::Crc16T10Dif => crc(16, 0x8BB7, false, false, data),
        Guard::IpChecksum => internet_checksum(data),
        Guard::Crc32c => crc(32, 0x1EDC_6F41, true, true, data),
        Guard::Crc64Nvme => crc(64, 0xAD93_D235_94C9_3659, true, true, data),
    }
}

/// The widths in bits of guard, application, storage and reference tag, in the order of the tuple.
pub(crate) fn fields(profile: &IntegrityProfile) -> [(Tag, usize); 4] {
    let (guard, space) = match profile.guard() {
        Guard::Crc16T10Dif | Guard::IpChecksum => (16, 32),
        Guard::Crc32c => (32, 80),
        Guard::Crc64Nvme => (64, 48),
    };
    let storage = profile.storage_tag_size() as usize;
    [(Tag::Guard, guard), (Tag::Application, 16), (Tag::Storage, storage), (Tag::Reference, space - storage)]
}

/// The tags of a tuple's bytes, in the order of [`fields`].
pub(crate) fn split(profile: &IntegrityProfile, tuple: &[u8]) -> [u64; 4] {
    let mut bits = tuple.iter().flat_map(|byte| (0..8).rev().map(move |bit| byte >> bit & 1));
    fields(profile)
        .map(|(_, width)| (0..width).fold(0, |value, _| value << 1 | u64::from(bits.next().unwrap())))
}

/// A tuple's bytes from its tags, in the order of [`fields`].
pub(crate) fn join(profile: &IntegrityProfile, tags: [u64; 4]) -> Vec<u8> {
    let bits: Vec<u8> = fields(profile)
        .into_iter()
        .zip(tags)
        .flat_map(|((_, width), value)| (0..width).rev().map(move |bit| (value >> bit & 1) as u8))
        .collect();
    bits.chunks(8).map(|byte| byte.iter().fold(0, |value, bit| value << 1 | bit)).collect()
}

/// The value of the low `width` bits.
fn low(value: u64, width: usize) -> u64 {
    (0..width).map(|bit| value & 1 << bit).sum()
}

/// The tags that interval `index` is to have.
fn expected(profile: &IntegrityProfile, tags: &Tags, index: u64, guard: u64) -> [u64; 4] {
    let reference = match profile.pi_type() {
        PiType::Type1 | PiType::Type2 => tags.reference.wrapping_add(index),
        PiType::Type3 => tags.reference,
    };
    let [.., (_, storage_size), (_, reference_size)] = fields(profile);
    [guard, tags.application.into(), low(tags.storage, storage_size), low(reference, reference_size)]
}

fn covered(profile: &IntegrityProfile, interval: &[u8], metadata: &[u8]) -> Vec<u8> {
    [interval, &metadata[..profile.tuple_offset()]].concat()
}

pub(crate) fn generate(profile: &IntegrityProfile, tags: &Tags, data: &[u8], metadata: &mut [u8]) {
    let intervals = data.chunks(profile.interval_size());
    for ((index, interval), metadata) in
        (0..).zip(intervals).zip(metadata.chunks_mut(profile.metadata_size()))
    {
        let guard = guard(profile.guard(), &covered(profile, interval, metadata));
        let tuple = join(profile, expected(profile, tags, index, guard));
        metadata[profile.tuple_offset()..][..tuple.len()].copy_from_slice(&tuple);
    }
}

pub(crate) fn is_escape(profile: &IntegrityProfile, [_, application, _, reference]: [u64; 4]) -> bool {
    let [.., (_, reference_size)] = fields(profile);
    application == 0xFFFF
        && (profile.pi_type() != PiType::Type3 || reference == low(u64::MAX, reference_size))
}

/// The first tag that fails, and the index of its interval.
pub(crate) fn verify(
    profile: &IntegrityProfile,
    tags: &Tags,
    checks: Checks,
    data: &[u8],
    metadata: &[u8],
) -> Result<(), (Tag, u64)> {
    let intervals = data.chunks(profile.interval_size());
    for ((index, interval), metadata) in (0..).zip(intervals).zip(metadata.chunks(profile.metadata_size())) {
        let actual = split(profile, &metadata[profile.tuple_offset()..][..profile.tuple_size()]);
        if is_escape(profile, actual) {
            continue;
        }
        let guard = guard(profile.guard(), &covered(profile, interval, metadata));
        let expected = expected(profile, tags, index, guard);
        let mask = u64::from(tags.application_mask);
        if checks.contains(Checks::GUARD) && actual[0] != expected[0] {
            return Err((Tag::Guard, index));
        }
        if checks.contains(Checks::APPLICATION) && actual[1] & mask != expected[1] & mask {
            return Err((Tag::Application, index));
        }
        let reference_checked = checks.contains(Checks::REFERENCE) && profile.pi_type() != PiType::Type3;
        if reference_checked && actual[3] != expected[3] {
            return Err((Tag::Reference, index));
        }
        if checks.contains(Checks::STORAGE) && actual[2] != expected[2] {
            return Err((Tag::Storage, index));
        }
    }
    Ok(())
}
