//! The damage list and the scrub's record as they lie on disk: 16 pages of sectors, each of which
//! stands for itself.
//!
//! The first sector has the record of the scrub; the rest of its page is zero. Each other sector
//! has up to nine ranges. A sector of zeros has none. Multi-byte fields are big-endian.
//!
//! | offset | bytes | field |
//! |-------:|------:|-------|
//! |      0 |     8 | magic, `STABLESC` (scrub) or `STABLEDM` (damage) |
//! |      8 |    16 | UUID of the sidecar |
//! |     24 |     4 | state of the scrub: 0 done, 1 under way, 2 stopped; or the number of ranges |
//! |     28 |     4 | zero |
//! |     32 |     8 | blocks without room: in the first sector of ranges |
//! |     40 |   464 | the fields of the scrub, or ranges of 48 bytes, then zeros |
//! |    504 |     8 | CRC-64/NVME of bytes 0 to 503 |

use super::{DamageList, DamagedRange, FailedCheck, ScrubRecord, ScrubState, TagValues};
use crate::Tag;
use crate::sidecar::{PAGE_SIZE, SECTOR_SIZE, crc_of, field, is_zero, put};

/// Length of the area, in bytes.
pub(in crate::sidecar) const AREA_LEN: u64 = (PAGES * PAGE_SIZE) as u64;

const PAGES: usize = 16;
const SECTORS: usize = (PAGES - 1) * (PAGE_SIZE / SECTOR_SIZE);
const PER_SECTOR: usize = 9;
/// Ranges for which there is room.
pub(super) const RANGES_MAX: usize = SECTORS * PER_SECTOR;

const SCRUB_MAGIC: [u8; 8] = *b"STABLESC";
const DAMAGE_MAGIC: [u8; 8] = *b"STABLEDM";
const UUID_AT: usize = 8;
const COUNT_AT: usize = 24;
const ZERO_AT: usize = 28;
const UNLISTED_AT: usize = 32;
const CONTENT_AT: usize = 40;
const CRC_AT: usize = SECTOR_SIZE - 8;
const RANGE_LEN: usize = 48;
/// The fields of a scrub's record.
const SCRUB_FIELDS: usize = 6;

const BY_GUEST: u8 = 1;
const BY_SCRUB: u8 = 2;

type Sector = [u8; SECTOR_SIZE];

/// The bytes of the area, up to the last page that is not zero.
pub(super) fn encode(uuid: [u8; 16], list: &DamageList, scrub: &ScrubRecord) -> Vec<u8> {
    let mut bytes = vec![0; PAGE_SIZE];
    if *scrub != ScrubRecord::default() {
        put(&mut bytes, 0, &encode_scrub(uuid, scrub));
    }
    let ranges: Vec<_> = list.ranges().collect();
    let mut sectors: Vec<_> = ranges.chunks(PER_SECTOR).collect();
    if sectors.is_empty() && list.unlisted() > 0 {
        sectors.push(&[]);
    }
    for (index, ranges) in sectors.into_iter().enumerate() {
        let unlisted = if index == 0 { list.unlisted() } else { 0 };
        bytes.extend_from_slice(&encode_ranges(uuid, ranges, unlisted));
    }
    bytes.resize(bytes.len().next_multiple_of(PAGE_SIZE), 0);
    let used = bytes.chunks(PAGE_SIZE).rposition(|page| !is_zero(page)).map_or(0, |last| last + 1);
    bytes.truncate(used * PAGE_SIZE);
    bytes
}

/// Reads the area back. The bytes may come from anywhere: each sector that is not whole, or not of
/// an image with `intervals` intervals, is left out, and counted.
pub(super) fn decode(uuid: [u8; 16], intervals: u64, bytes: &[u8]) -> (DamageList, ScrubRecord, usize) {
    let (mut list, mut scrub, mut damaged) = (DamageList::default(), ScrubRecord::default(), 0);
    let (sectors, _) = bytes.as_chunks::<SECTOR_SIZE>();
    for (index, sector) in sectors.iter().enumerate().filter(|(_, sector)| !is_zero(*sector)) {
        if index < PAGE_SIZE / SECTOR_SIZE {
            match decode_scrub(uuid, sector).filter(|_| index == 0) {
                Some(decoded) => scrub = decoded,
                None => damaged += 1,
            }
            continue;
        }
        let Some((ranges, unlisted)) = decode_ranges(uuid, intervals, sector) else {
            damaged += 1;
            continue;
        };
        for range in ranges {
            list.insert(range);
        }
        list.unlisted = list.unlisted.saturating_add(unlisted);
    }
    (list, scrub, damaged)
}

fn encode_scrub(uuid: [u8; 16], scrub: &ScrubRecord) -> Sector {
    let ScrubRecord { state, position, rate, begun, found, last_done, last_found } = *scrub;
    let state = match state {
        ScrubState::Done => 0,
        ScrubState::Running => 1,
        ScrubState::Stopped => 2,
    };
    let mut sector = header(SCRUB_MAGIC, uuid, state);
    let fields = [position, rate, begun, found, last_done, last_found];
    for (at, value) in (CONTENT_AT..).step_by(8).zip(fields) {
        put(&mut sector, at, &value.to_be_bytes());
    }
    sealed(sector)
}

fn decode_scrub(uuid: [u8; 16], sector: &Sector) -> Option<ScrubRecord> {
    let state = match checked(SCRUB_MAGIC, uuid, sector)? {
        0 => ScrubState::Done,
        1 => ScrubState::Running,
        2 => ScrubState::Stopped,
        _ => return None,
    };
    let [position, rate, begun, found, last_done, last_found] =
        std::array::from_fn::<u64, SCRUB_FIELDS, _>(|index| number(sector, CONTENT_AT + 8 * index));
    let rest = &sector[CONTENT_AT + 8 * SCRUB_FIELDS..CRC_AT];
    (is_zero(rest) && number(sector, UNLISTED_AT) == 0).then_some(ScrubRecord {
        state,
        position,
        rate,
        begun,
        found,
        last_done,
        last_found,
    })
}

fn encode_ranges(uuid: [u8; 16], ranges: &[&DamagedRange], unlisted: u64) -> Sector {
    let count = u32::try_from(ranges.len()).expect("few ranges");
    let mut sector = header(DAMAGE_MAGIC, uuid, count);
    put(&mut sector, UNLISTED_AT, &unlisted.to_be_bytes());
    for (at, range) in (CONTENT_AT..).step_by(RANGE_LEN).zip(ranges) {
        put(&mut sector, at, &encode_range(range));
    }
    sealed(sector)
}

fn decode_ranges(uuid: [u8; 16], intervals: u64, sector: &Sector) -> Option<(Vec<DamagedRange>, u64)> {
    let count = usize::try_from(checked(DAMAGE_MAGIC, uuid, sector)?).ok()?;
    if count > PER_SECTOR || !is_zero(&sector[CONTENT_AT + count * RANGE_LEN..CRC_AT]) {
        return None;
    }
    let (ranges, _) = sector[CONTENT_AT..].as_chunks::<RANGE_LEN>();
    let ranges: Option<Vec<_>> = ranges[..count].iter().map(decode_range).collect();
    let ranges = ranges?;
    let fits = |range: &DamagedRange| {
        range.blocks > 0 && range.first.checked_add(range.blocks.into()).is_some_and(|end| end <= intervals)
    };
    ranges.iter().all(fits).then(|| (ranges, number(sector, UNLISTED_AT)))
}

/// | offset | bytes | field |
/// |-------:|------:|-------|
/// |      0 |     8 | first block |
/// |      8 |     4 | number of blocks |
/// |     12 |     1 | check that failed |
/// |     13 |     1 | found by: 1 the guest, 2 a scrub, 3 both |
/// |     14 |     1 | bits of the tag; 0: its values are unknown |
/// |     15 |     1 | zero |
/// |     16 |     8 | expected value |
/// |     24 |     8 | actual value |
/// |     32 |     8 | first seen, in seconds since 1970 |
/// |     40 |     8 | last seen |
fn encode_range(range: &DamagedRange) -> [u8; RANGE_LEN] {
    let mut bytes = [0; RANGE_LEN];
    put(&mut bytes, 0, &range.first.to_be_bytes());
    put(&mut bytes, 8, &range.blocks.to_be_bytes());
    bytes[12] = code(range.check);
    bytes[13] = if range.by_guest { BY_GUEST } else { 0 } | if range.by_scrub { BY_SCRUB } else { 0 };
    if let Some(TagValues { expected, actual, bits }) = range.tag {
        bytes[14] = bits;
        put(&mut bytes, 16, &expected.to_be_bytes());
        put(&mut bytes, 24, &actual.to_be_bytes());
    }
    put(&mut bytes, 32, &range.first_seen.to_be_bytes());
    put(&mut bytes, 40, &range.last_seen.to_be_bytes());
    bytes
}

fn decode_range(bytes: &[u8; RANGE_LEN]) -> Option<DamagedRange> {
    let (found_by, bits) = (bytes[13], bytes[14]);
    if found_by == 0 || found_by & !(BY_GUEST | BY_SCRUB) != 0 || bits > 64 || bytes[15] != 0 {
        return None;
    }
    let (expected, actual) = (number(bytes, 16), number(bytes, 24));
    Some(DamagedRange {
        first: number(bytes, 0),
        blocks: u32::from_be_bytes(field(bytes, 8)),
        check: check(bytes[12])?,
        tag: (bits > 0).then_some(TagValues { expected, actual, bits }),
        by_guest: found_by & BY_GUEST != 0,
        by_scrub: found_by & BY_SCRUB != 0,
        first_seen: number(bytes, 32),
        last_seen: number(bytes, 40),
    })
}

fn code(check: FailedCheck) -> u8 {
    match check {
        FailedCheck::Tag(Tag::Guard) => 1,
        FailedCheck::Tag(Tag::Application) => 2,
        FailedCheck::Tag(Tag::Reference) => 3,
        FailedCheck::Tag(Tag::Storage) => 4,
        FailedCheck::UnwrittenNotZero => 5,
        FailedCheck::TupleLost => 6,
        FailedCheck::Unreadable => 7,
        FailedCheck::Device => 8,
    }
}

fn check(code: u8) -> Option<FailedCheck> {
    Some(match code {
        1 => FailedCheck::Tag(Tag::Guard),
        2 => FailedCheck::Tag(Tag::Application),
        3 => FailedCheck::Tag(Tag::Reference),
        4 => FailedCheck::Tag(Tag::Storage),
        5 => FailedCheck::UnwrittenNotZero,
        6 => FailedCheck::TupleLost,
        7 => FailedCheck::Unreadable,
        8 => FailedCheck::Device,
        _ => return None,
    })
}

fn header(magic: [u8; 8], uuid: [u8; 16], count: u32) -> Sector {
    let mut sector = [0; SECTOR_SIZE];
    put(&mut sector, 0, &magic);
    put(&mut sector, UUID_AT, &uuid);
    put(&mut sector, COUNT_AT, &count.to_be_bytes());
    sector
}

fn sealed(mut sector: Sector) -> Sector {
    let crc = crc_of(&sector[..CRC_AT]);
    put(&mut sector, CRC_AT, &crc.to_be_bytes());
    sector
}

/// The count of a sector that is whole and of this sidecar.
fn checked(magic: [u8; 8], uuid: [u8; 16], sector: &Sector) -> Option<u32> {
    let is_whole = number(sector, CRC_AT) == crc_of(&sector[..CRC_AT]);
    let is_ours = sector.starts_with(&magic) && field::<16>(sector, UUID_AT) == uuid;
    let is_known = is_whole && is_ours && is_zero(&sector[ZERO_AT..UNLISTED_AT]);
    is_known.then(|| u32::from_be_bytes(field(sector, COUNT_AT)))
}

fn number(bytes: &[u8], at: usize) -> u64 {
    u64::from_be_bytes(field(bytes, at))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::{Finding, FoundBy};
    use super::*;

    const UUID: [u8; 16] = [7; 16];
    const INTERVALS: u64 = 1 << 20;

    fn scrub() -> ScrubRecord {
        ScrubRecord {
            state: ScrubState::Running,
            position: 1,
            rate: 2,
            begun: 3,
            found: 4,
            last_done: 5,
            last_found: 6,
        }
    }

    fn list(blocks: &[(u64, u8, bool)]) -> DamageList {
        let mut list = DamageList::default();
        for &(lba, code, by_guest) in blocks {
            let tag = (code <= 4).then_some(TagValues { expected: lba, actual: !lba, bits: 64 });
            let finding = Finding { lba, check: check(code).unwrap(), tag };
            list.add(&finding, if by_guest { FoundBy::Guest } else { FoundBy::Scrub }, lba);
        }
        list
    }

    fn blocks() -> impl Strategy<Value = Vec<(u64, u8, bool)>> {
        prop::collection::vec((0..INTERVALS, 1u8..9, any::<bool>()), 0..60)
    }

    proptest! {
        #[test]
        fn it_is_read_back_as_it_was_written(blocks in blocks(), scrubs in any::<bool>(), unlisted in 0u64..3) {
            let mut list = list(&blocks);
            list.unlisted = unlisted;
            let scrub = if scrubs { scrub() } else { ScrubRecord::default() };
            let bytes = encode(UUID, &list, &scrub);
            prop_assert!(bytes.len().is_multiple_of(PAGE_SIZE));
            prop_assert_eq!(decode(UUID, INTERVALS, &bytes), (list, scrub, 0));
        }

        #[test]
        fn each_sector_stands_for_itself(blocks in blocks(), bad in any::<prop::sample::Index>(), bit in 0..4096_usize) {
            let list = list(&blocks);
            let mut bytes = encode(UUID, &list, &scrub());
            let written = 8 + list.ranges().count().div_ceil(PER_SECTOR);
            let bad = [0].into_iter().chain(8..written).nth(bad.index(written - 7)).unwrap();
            bytes[bad * SECTOR_SIZE + bit / 8] ^= 1 << (bit % 8);
            let (found, record, damaged) = decode(UUID, INTERVALS, &bytes);
            prop_assert_eq!(damaged, 1);
            prop_assert_eq!(record == scrub(), bad != 0);
            let lost = if bad == 0 { 0 } else { (list.ranges().count() - (bad - 8) * PER_SECTOR).min(PER_SECTOR) };
            prop_assert_eq!(found.ranges().count() + lost, list.ranges().count());
        }

        #[test]
        fn any_bytes_are_bounded_and_valid(
            mut bytes in prop::collection::vec(any::<u8>(), 8 * PAGE_SIZE),
            forged in prop::collection::vec((any::<u32>(), 0u32..12, any::<[u8; 48]>()), 0..24),
        ) {
            for (index, (fields, count, range)) in forged.into_iter().enumerate() {
                let magic = if index == 0 { SCRUB_MAGIC } else { DAMAGE_MAGIC };
                let mut sector = header(magic, UUID, count);
                for place in 0..count.min(9) as usize {
                    put(&mut sector, CONTENT_AT + place * RANGE_LEN, &range);
                }
                // half of them with fields that may pass
                if fields.is_multiple_of(2) {
                    for at in (CONTENT_AT..CRC_AT - RANGE_LEN).step_by(RANGE_LEN).take(count as usize) {
                        sector[at..at + 8].copy_from_slice(&u64::from(fields % (2 << 20)).to_be_bytes());
                        sector[at + 8..at + 16].copy_from_slice(&[0, 0, 0, 3, 1, 1, 64, 0]);
                    }
                }
                put(&mut bytes, (index + if index == 0 { 0 } else { 7 }) * SECTOR_SIZE, &sealed(sector));
            }
            let (list, _, _) = decode(UUID, INTERVALS, &bytes);
            prop_assert!(list.ranges().count() <= RANGES_MAX);
            let mut end = 0;
            for range in list.ranges() {
                prop_assert!(range.first >= end && range.lbas().end <= INTERVALS && range.blocks > 0);
                end = range.lbas().end;
            }
            prop_assert_eq!(list.blocks(), list.ranges().map(|range| u64::from(range.blocks)).sum::<u64>());
        }
    }

    #[test]
    fn the_longest_list_fits_its_area() {
        let blocks: Vec<_> = (0..RANGES_MAX as u64).map(|index| (2 * index, 1, true)).collect();
        assert_eq!(encode(UUID, &list(&blocks), &scrub()).len() as u64, AREA_LEN);
    }

    #[test]
    fn a_list_of_another_sidecar_says_nothing() {
        let bytes = encode([8; 16], &list(&[(1, 1, true)]), &scrub());
        assert_eq!(decode(UUID, INTERVALS, &bytes), (DamageList::default(), ScrubRecord::default(), 2));
    }
}
