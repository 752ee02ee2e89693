//! Pages of the tag intent log, and the records in them.
//!
//! | offset | bytes | field |
//! |-------:|------:|-------|
//! |      0 |     8 | magic, `STABLELG` |
//! |      8 |    16 | UUID of the sidecar |
//! |     24 |     8 | epoch |
//! |     32 |     8 | sequence number, which also gives the page's place in the ring |
//! |     40 |     8 | committed: all records in pages up to this one had their data durable |
//! |     48 |     4 | bytes of records |
//! |     52 |     4 | zero |
//! |     56 |  4032 | records, then zeros |
//! |   4088 |     8 | CRC-64/NVME of bytes 0 to 4087 |
//!
//! A record says what becomes of the tuples of some intervals:
//!
//! | offset | bytes | field |
//! |-------:|------:|-------|
//! |      0 |     8 | first interval |
//! |      8 |     4 | number of intervals |
//! |     12 |     4 | kind: 0 they become unwritten, 1 the tuples follow |
//!
//! A page is written once: what was durable in it is never at stake again until the ring comes
//! round.

use std::ops::Range;

use super::array::Change;
use super::layout::Layout;
use super::{PAGE_SIZE, crc_of, field, is_zero, put};

const MAGIC: [u8; 8] = *b"STABLELG";
const UUID_AT: usize = 8;
const EPOCH_AT: usize = 24;
const SEQ_AT: usize = 32;
const COMMITTED_AT: usize = 40;
const USED_AT: usize = 48;
const ZERO_AT: usize = 52;
const RECORDS_AT: usize = 56;
const CRC_AT: usize = PAGE_SIZE - 8;

/// Bytes of a record without its tuples.
const RECORD_HEADER: usize = 16;
/// Intervals that one record can count.
const COUNT_MAX: u64 = u32::MAX as u64;

const UNWRITTEN: u32 = 0;
const WRITTEN: u32 = 1;

/// A page as it lies on disk.
pub(super) type LogPage = Box<[u8; PAGE_SIZE]>;

/// The fields that all pages of one log have in common.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct LogId {
    pub(super) uuid: [u8; 16],
    pub(super) epoch: u64,
}

/// A page that takes records.
#[derive(Debug)]
pub(super) struct OpenPage {
    bytes: LogPage,
    used: usize,
}

impl OpenPage {
    pub(super) fn new() -> Self {
        Self { bytes: Box::new([0; PAGE_SIZE]), used: 0 }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.used == 0
    }

    /// Takes a record of as many of the first of `intervals` as there is room for, and returns
    /// their number.
    pub(super) fn append(&mut self, intervals: &Range<u64>, change: Change<'_>, tuple_size: usize) -> u64 {
        let room = (CRC_AT - RECORDS_AT - self.used).saturating_sub(RECORD_HEADER);
        let wanted = intervals.end - intervals.start;
        let (kind, count) = match change {
            Change::Written(_) => (WRITTEN, wanted.min((room / tuple_size) as u64)),
            Change::Unwritten if room > 0 => (UNWRITTEN, wanted.min(COUNT_MAX)),
            Change::Unwritten => (UNWRITTEN, 0),
        };
        if count == 0 {
            return 0;
        }
        let record = &mut self.bytes[RECORDS_AT + self.used..CRC_AT];
        put(record, 0, &intervals.start.to_be_bytes());
        put(record, 8, &u32::try_from(count).expect("a record's count").to_be_bytes());
        put(record, 12, &kind.to_be_bytes());
        self.used += RECORD_HEADER;
        let part = intervals.start..intervals.start + count;
        if let Change::Written(tuples) = change.part(intervals, &part, tuple_size) {
            put(record, RECORD_HEADER, tuples);
            self.used += tuples.len();
        }
        count
    }

    /// The page for the disk, as number `seq` of the log.
    pub(super) fn seal(mut self, id: LogId, seq: u64, committed: u64) -> LogPage {
        let bytes = &mut self.bytes[..];
        put(bytes, 0, &MAGIC);
        put(bytes, UUID_AT, &id.uuid);
        put(bytes, EPOCH_AT, &id.epoch.to_be_bytes());
        put(bytes, SEQ_AT, &seq.to_be_bytes());
        put(bytes, COMMITTED_AT, &committed.to_be_bytes());
        put(bytes, USED_AT, &u32::try_from(self.used).expect("bytes of a page").to_be_bytes());
        let crc = crc_of(&bytes[..CRC_AT]);
        put(bytes, CRC_AT, &crc.to_be_bytes());
        self.bytes
    }
}

/// Pages that the records of a change take at most, besides the page that is open.
pub(super) fn pages_for(intervals: u64, change: Change<'_>, tuple_size: usize) -> u64 {
    match change {
        Change::Unwritten => 1 + intervals / COUNT_MAX,
        Change::Written(_) => {
            let per_page = (CRC_AT - RECORDS_AT - RECORD_HEADER) / tuple_size;
            1 + intervals / per_page as u64
        }
    }
}

/// A page that was read back and found to be what it claims.
#[derive(Debug)]
pub(super) struct SealedPage<'a> {
    pub(super) committed: u64,
    records: &'a [u8],
    tuple_size: usize,
    intervals: u64,
}

impl<'a> SealedPage<'a> {
    /// `None` unless the bytes are page `seq` of the log `id`.
    pub(super) fn decode(bytes: &'a [u8; PAGE_SIZE], layout: &Layout, id: LogId, seq: u64) -> Option<Self> {
        let number = |at| u64::from_be_bytes(field(bytes, at));
        let used = usize::try_from(u32::from_be_bytes(field(bytes, USED_AT))).ok()?;
        let ours = bytes.starts_with(&MAGIC)
            && field(bytes, UUID_AT) == id.uuid
            && number(EPOCH_AT) == id.epoch
            && number(SEQ_AT) == seq
            && is_zero(&bytes[ZERO_AT..RECORDS_AT])
            && used <= CRC_AT - RECORDS_AT
            && number(CRC_AT) == crc_of(&bytes[..CRC_AT]);
        ours.then(|| Self {
            committed: number(COMMITTED_AT),
            records: &bytes[RECORDS_AT..RECORDS_AT + used],
            tuple_size: layout.profile().tuple_size(),
            intervals: layout.intervals(),
        })
    }

    /// The records in the order in which they were made. Ends at one that cannot be, which a good
    /// checksum rules out.
    pub(super) fn records(&self) -> impl Iterator<Item = (Range<u64>, Change<'a>)> + use<'a> {
        let (mut rest, tuple_size, intervals) = (self.records, self.tuple_size, self.intervals);
        std::iter::from_fn(move || {
            let (header, tail) = rest.split_first_chunk::<RECORD_HEADER>()?;
            let first = u64::from_be_bytes(field(header, 0));
            let count = u32::from_be_bytes(field(header, 8));
            let end = first.checked_add(count.into()).filter(|&end| end <= intervals && count > 0)?;
            if u32::from_be_bytes(field(header, 12)) == UNWRITTEN {
                rest = tail;
                return Some((first..end, Change::Unwritten));
            }
            let (tuples, tail) =
                tail.split_at_checked(usize::try_from(count).ok()?.checked_mul(tuple_size)?)?;
            rest = tail;
            Some((first..end, Change::Written(tuples)))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sidecar::Superblock;
    use crate::{Guard, IntegrityProfile, PiType};

    const ID: LogId = LogId { uuid: [3; 16], epoch: 4 };

    fn layout() -> Layout {
        let profile = IntegrityProfile::new(Guard::Crc64Nvme, PiType::Type1, 4096).unwrap();
        Superblock::new(ID.uuid, profile, 1 << 30).unwrap().layout().clone()
    }

    fn page() -> LogPage {
        let mut page = OpenPage::new();
        assert_eq!(page.append(&(7..9), Change::Written(&[8; 32]), 16), 2);
        assert_eq!(page.append(&(100..200), Change::Unwritten, 16), 100);
        page.seal(ID, 5, 3)
    }

    #[test]
    fn lies_on_disk_as_documented() {
        let bytes = page();
        assert_eq!(&bytes[..8], b"STABLELG");
        assert_eq!(bytes[8..24], ID.uuid);
        let number = |at| u64::from_be_bytes(field(&bytes[..], at));
        assert_eq!([24, 32, 40].map(number), [4, 5, 3]);
        assert_eq!(bytes[48..56], [0, 0, 0, 64, 0, 0, 0, 0]);
        assert_eq!(&bytes[56..72], b"\0\0\0\0\0\0\0\x07\0\0\0\x02\0\0\0\x01");
        assert_eq!(bytes[72..104], [8; 32]);
        assert_eq!(&bytes[104..120], b"\0\0\0\0\0\0\0\x64\0\0\0\x64\0\0\0\0");
        assert!(is_zero(&bytes[120..4088]));
        let crc = crc::Crc::<u64>::new(&crc::CRC_64_NVME).checksum(&bytes[..4088]);
        assert_eq!(bytes[4088..], crc.to_be_bytes());
    }

    #[test]
    fn gives_its_records_back_and_belongs_to_one_place() {
        let (bytes, layout) = (page(), layout());
        let sealed = SealedPage::decode(&bytes, &layout, ID, 5).unwrap();
        assert_eq!(sealed.committed, 3);
        let records: Vec<_> = sealed.records().collect();
        assert_eq!(records, [(7..9, Change::Written(&[8; 32][..])), (100..200, Change::Unwritten)]);
        assert!(SealedPage::decode(&bytes, &layout, ID, 5 + layout.log_pages()).is_none());
        assert!(SealedPage::decode(&bytes, &layout, LogId { epoch: 5, ..ID }, 5).is_none());
        assert!(SealedPage::decode(&bytes, &layout, LogId { uuid: [0; 16], ..ID }, 5).is_none());
    }

    #[test]
    fn any_wrong_bit_makes_it_none_of_ours() {
        for at in 0..PAGE_SIZE {
            let mut bytes = page();
            bytes[at] ^= 1;
            assert!(SealedPage::decode(&bytes, &layout(), ID, 5).is_none(), "byte {at}");
        }
    }

    #[test]
    fn a_long_record_continues_in_the_next_page() {
        let tuples = vec![1; 300 * 16];
        let (mut rest, mut pages) = (0..300, 0);
        while !rest.is_empty() {
            let from = usize::try_from(rest.start).unwrap() * 16;
            rest.start += OpenPage::new().append(&rest, Change::Written(&tuples[from..]), 16);
            pages += 1;
        }
        assert_eq!(pages, 2);
        assert!(pages <= pages_for(300, Change::Written(&tuples), 16));
    }
}
