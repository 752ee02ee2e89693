//! The superblock as it lies on disk.
//!
//! It lies twice in the file, at bytes 0 and 4096, each copy alone in its page and whole in the
//! page's first 512-byte sector. Pages are written whole, which mends one that could not be read.
//! Multi-byte fields are big-endian, as in the tuples.
//!
//! | offset | bytes | field |
//! |-------:|------:|-------|
//! |      0 |     8 | magic, `STABLEPI` |
//! |      8 |     4 | format version, 2 |
//! |     12 |     4 | state: 0 clean, 1 open with intents by region, 2 open with intents by block |
//! |     16 |    16 | UUID that the image carries too |
//! |     32 |     8 | image size in bytes |
//! |     40 |     4 | interval size in bytes |
//! |     44 |     1 | guard, as NVMe's PIF: 0 CRC-16/T10-DIF, 1 CRC-32C, 2 CRC-64/NVME |
//! |     45 |     1 | PI type, 1 |
//! |     46 |     1 | tuple size in bytes: 8 or 16, as the guard has it |
//! |     47 |     1 | zero |
//! |     48 |     8 | generation: of two good copies the one with the higher counts |
//! |     56 |     8 | epoch of the log: pages of another are not of this session |
//! |     64 |     8 | tail of the log: the sequence number of the first page that still counts |
//! |     72 |     8 | bytes of the dirty map |
//! |     80 |     8 | pages of the log |
//! |     88 |     8 | most intervals in doubt, see [`Superblock::doubt_max`]; 0: unknown |
//! |     96 |     4 | flags: bit 0 durability was lost, see [`Superblock::durability_lost`] |
//! |    100 |     4 | zero |
//! |    104 |     8 | last write of the image at the close, in ns since 1970; 0: unknown |
//! |    112 |   392 | zero |
//! |    504 |     8 | CRC-64/NVME of bytes 0 to 503 |

use std::ops::Range;

use super::{IntentMode, State, Superblock, SuperblockError};
use crate::sidecar::layout::Layout;
use crate::sidecar::{SECTOR_SIZE, crc_of, field, put};
use crate::{Guard, IntegrityProfile, PiType};

/// The format version that this crate reads and writes.
pub const VERSION: u32 = 2;

/// The only PI type of a sidecar, as its byte on disk.
const TYPE_1: u8 = 1;

/// Generations, epochs and sequence numbers below this can count up for longer than any medium
/// lasts.
const COUNT_MAX: u64 = 1 << 62;

const MAGIC: [u8; 8] = *b"STABLEPI";
const VERSION_AT: usize = 8;
const STATE_AT: usize = 12;
const UUID_AT: usize = 16;
const IMAGE_SIZE_AT: usize = 32;
const INTERVAL_SIZE_AT: usize = 40;
const GUARD_AT: usize = 44;
const PI_TYPE_AT: usize = 45;
const TUPLE_SIZE_AT: usize = 46;
const ZERO_AT: usize = 47;
const GENERATION_AT: usize = 48;
const EPOCH_AT: usize = 56;
const TAIL_AT: usize = 64;
const MAP_LEN_AT: usize = 72;
const LOG_PAGES_AT: usize = 80;
const DOUBT_MAX_AT: usize = 88;
const FLAGS_AT: usize = 96;
const FLAGS_END: usize = 100;
const IMAGE_MODIFIED_AT: usize = 104;
/// Bytes that are zero.
const RESERVED: [Range<usize>; 3] = [ZERO_AT..GENERATION_AT, FLAGS_END..IMAGE_MODIFIED_AT, 112..CRC_AT];
const CRC_AT: usize = SECTOR_SIZE - 8;

/// The flag of [`Superblock::durability_lost`]. There is no other.
const DURABILITY_LOST: u32 = 1 << 0;

impl Superblock {
    /// The UUID in a copy that may be damaged, or of another version; none when the bytes do not
    /// begin as a copy does.
    #[must_use]
    pub fn claimed_uuid(bytes: &[u8]) -> Option<[u8; 16]> {
        let bytes: &[u8; SECTOR_SIZE] = bytes.first_chunk().filter(|it| it.starts_with(&MAGIC))?;
        Some(field(bytes, UUID_AT))
    }

    /// Reads one copy back. The bytes may come from anywhere: every one of them is checked.
    pub fn decode(bytes: &[u8]) -> Result<Self, SuperblockError> {
        if !bytes.starts_with(&MAGIC) {
            return Err(SuperblockError::NotASidecar);
        }
        let bytes: &[u8; SECTOR_SIZE] =
            bytes.first_chunk().ok_or(SuperblockError::TooShort { len: bytes.len() })?;
        // before the CRC, which another version may keep elsewhere
        match u32::from_be_bytes(field(bytes, VERSION_AT)) {
            VERSION => {}
            version => return Err(SuperblockError::UnknownVersion(version)),
        }
        let (expected, actual) = (crc_of(&bytes[..CRC_AT]), u64::from_be_bytes(field(bytes, CRC_AT)));
        if actual != expected {
            return Err(SuperblockError::Damaged { expected, actual });
        }
        if let Some(at) = RESERVED.into_iter().flatten().find(|&at| bytes[at] != 0) {
            return Err(unsupported("field at byte", at as u64));
        }
        let number = |at| u64::from_be_bytes(field(bytes, at));
        let profile = decode_profile(bytes)?;
        let layout =
            Layout::of_areas(profile, number(IMAGE_SIZE_AT), number(MAP_LEN_AT), number(LOG_PAGES_AT))?;
        let state = match u32::from_be_bytes(field(bytes, STATE_AT)) {
            0 => State::Clean,
            1 => State::Open(IntentMode::Region),
            2 => State::Open(IntentMode::Block),
            code => return Err(unsupported("state", code.into())),
        };
        let flags = u32::from_be_bytes(field(bytes, FLAGS_AT));
        if flags & !DURABILITY_LOST != 0 {
            return Err(unsupported("flags", flags.into()));
        }
        let counted = |field, at| match number(at) {
            value @ 1..COUNT_MAX => Ok(value),
            value => Err(unsupported(field, value)),
        };
        Ok(Self {
            uuid: field(bytes, UUID_AT),
            layout,
            state,
            epoch: counted("epoch", EPOCH_AT)?,
            tail: counted("tail", TAIL_AT)?,
            generation: counted("generation", GENERATION_AT)?,
            durability_lost: flags & DURABILITY_LOST != 0,
            doubt_max: number(DOUBT_MAX_AT),
            image_modified: number(IMAGE_MODIFIED_AT),
        })
    }

    /// The bytes of one copy, as it lies on disk.
    #[must_use]
    #[expect(clippy::missing_panics_doc, reason = "no superblock has a guard without a PIF")]
    pub fn encode(&self) -> [u8; SECTOR_SIZE] {
        let mut bytes = [0; SECTOR_SIZE];
        let state: u32 = match self.state {
            State::Clean => 0,
            State::Open(IntentMode::Region) => 1,
            State::Open(IntentMode::Block) => 2,
        };
        let profile = self.layout.profile();
        put(&mut bytes, 0, &MAGIC);
        put(&mut bytes, VERSION_AT, &VERSION.to_be_bytes());
        put(&mut bytes, STATE_AT, &state.to_be_bytes());
        put(&mut bytes, UUID_AT, &self.uuid);
        put(&mut bytes, IMAGE_SIZE_AT, &self.layout.image_size().to_be_bytes());
        put(&mut bytes, INTERVAL_SIZE_AT, &interval_size(profile).to_be_bytes());
        bytes[GUARD_AT] = pif(profile.guard()).expect("a guard with a PIF");
        bytes[PI_TYPE_AT] = TYPE_1;
        bytes[TUPLE_SIZE_AT] = tuple_size(profile);
        put(&mut bytes, GENERATION_AT, &self.generation.to_be_bytes());
        put(&mut bytes, EPOCH_AT, &self.epoch.to_be_bytes());
        put(&mut bytes, TAIL_AT, &self.tail.to_be_bytes());
        put(&mut bytes, MAP_LEN_AT, &self.layout.map_len().to_be_bytes());
        put(&mut bytes, LOG_PAGES_AT, &self.layout.log_pages().to_be_bytes());
        let flags = if self.durability_lost { DURABILITY_LOST } else { 0 };
        put(&mut bytes, FLAGS_AT, &flags.to_be_bytes());
        put(&mut bytes, DOUBT_MAX_AT, &self.doubt_max.to_be_bytes());
        put(&mut bytes, IMAGE_MODIFIED_AT, &self.image_modified.to_be_bytes());
        let crc = crc_of(&bytes[..CRC_AT]);
        put(&mut bytes, CRC_AT, &crc.to_be_bytes());
        bytes
    }
}

/// Everything that the tuples' layout depends on.
fn decode_profile(bytes: &[u8; SECTOR_SIZE]) -> Result<IntegrityProfile, SuperblockError> {
    let guard = guard(bytes[GUARD_AT]).ok_or_else(|| unsupported("guard", bytes[GUARD_AT].into()))?;
    if bytes[PI_TYPE_AT] != TYPE_1 {
        return Err(unsupported("PI type", bytes[PI_TYPE_AT].into()));
    }
    let interval_size = u32::from_be_bytes(field(bytes, INTERVAL_SIZE_AT));
    let profile = IntegrityProfile::new(guard, PiType::Type1, interval_size)
        .map_err(|_| unsupported("interval size", interval_size.into()))?;
    if bytes[TUPLE_SIZE_AT] != tuple_size(&profile) {
        return Err(unsupported("tuple size", bytes[TUPLE_SIZE_AT].into()));
    }
    Ok(profile)
}

/// NVMe's protection information format, which names the guard on disk. The Internet checksum has
/// none.
pub(super) fn pif(guard: Guard) -> Option<u8> {
    match guard {
        Guard::Crc16T10Dif => Some(0),
        Guard::Crc32c => Some(1),
        Guard::Crc64Nvme => Some(2),
        Guard::IpChecksum => None,
    }
}

fn guard(code: u8) -> Option<Guard> {
    Guard::ALL.into_iter().find(|&guard| pif(guard) == Some(code))
}

pub(super) fn interval_size(profile: &IntegrityProfile) -> u32 {
    u32::try_from(profile.interval_size()).expect("an interval is 64 KiB at most")
}

fn tuple_size(profile: &IntegrityProfile) -> u8 {
    u8::try_from(profile.tuple_size()).expect("a tuple is 16 bytes at most")
}

fn unsupported(field: &'static str, value: u64) -> SuperblockError {
    SuperblockError::Unsupported { field, value }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::sidecar::LayoutError;

    const CRC_GUARDS: [Guard; 3] = [Guard::Crc16T10Dif, Guard::Crc32c, Guard::Crc64Nvme];
    const STATES: [State; 3] =
        [State::Clean, State::Open(IntentMode::Region), State::Open(IntentMode::Block)];

    fn superblock() -> Superblock {
        let profile = IntegrityProfile::new(Guard::Crc64Nvme, PiType::Type1, 4096).unwrap();
        Superblock::new([7; 16], profile, 1 << 20).unwrap()
    }

    /// A copy with `value` at `at`, its CRC made good again.
    fn forged(at: usize, value: &[u8]) -> [u8; SECTOR_SIZE] {
        let mut bytes = superblock().encode();
        put(&mut bytes, at, value);
        let crc = crc_of(&bytes[..CRC_AT]);
        put(&mut bytes, CRC_AT, &crc.to_be_bytes());
        bytes
    }

    #[test]
    fn lies_on_disk_as_documented() {
        let mut superblock = superblock();
        (superblock.state, superblock.epoch, superblock.tail) = (State::Open(IntentMode::Block), 5, 6);
        superblock.image_modified = 9;
        let bytes = superblock.encode();
        assert_eq!(&bytes[..16], b"STABLEPI\0\0\0\x02\0\0\0\x02");
        assert_eq!(bytes[16..32], [7; 16]);
        assert_eq!(&bytes[32..48], b"\0\0\0\0\0\x10\0\0\0\0\x10\0\x02\x01\x10\0");
        let number = |at| u64::from_be_bytes(field(&bytes, at));
        let layout = superblock.layout();
        assert_eq!([48, 56, 64, 72, 80].map(number), [1, 5, 6, layout.map_len(), layout.log_pages()]);
        assert_eq!([88, 96, 104].map(number), [1024, 0, 9]);
        assert!(bytes[112..504].iter().all(|&byte| byte == 0));
        superblock.durability_lost = true;
        assert_eq!(superblock.encode()[96..100], [0, 0, 0, 1]);
        let crc = crc::Crc::<u64>::new(&crc::CRC_64_NVME).checksum(&bytes[..504]);
        assert_eq!(bytes[504..], crc.to_be_bytes());
    }

    #[test]
    fn a_damaged_copy_still_claims_its_uuid() {
        let mut bytes = superblock().encode();
        assert_eq!(Superblock::claimed_uuid(&bytes), Some([7; 16]));
        bytes[VERSION_AT] ^= 1;
        bytes[CRC_AT] ^= 1;
        assert_eq!(Superblock::claimed_uuid(&bytes), Some([7; 16]));
        assert_eq!(Superblock::claimed_uuid(&bytes[..40]), None, "it is too short");
        bytes[0] ^= 1;
        assert_eq!(Superblock::claimed_uuid(&bytes), None);
    }

    #[test]
    fn refuses_what_is_no_sidecar() {
        assert_eq!(Superblock::decode(b""), Err(SuperblockError::NotASidecar));
        assert_eq!(Superblock::decode(&[0; SECTOR_SIZE]), Err(SuperblockError::NotASidecar));
        assert_eq!(Superblock::decode(b"STABLEPI\0\0\0\x02"), Err(SuperblockError::TooShort { len: 12 }));
    }

    #[test]
    fn refuses_another_version_by_its_number() {
        let mut bytes = superblock().encode();
        bytes[VERSION_AT + 3] = 1;
        assert_eq!(Superblock::decode(&bytes), Err(SuperblockError::UnknownVersion(1)));
    }

    #[test]
    fn refuses_fields_it_does_not_know() {
        for (at, value, field, reported) in [
            (STATE_AT, &[0, 0, 0, 3][..], "state", 3),
            (GUARD_AT, &[3], "guard", 3),
            (PI_TYPE_AT, &[3], "PI type", 3),
            (TUPLE_SIZE_AT, &[8], "tuple size", 8),
            (INTERVAL_SIZE_AT, &[0, 0, 0, 1], "interval size", 1),
            (INTERVAL_SIZE_AT, &[0, 0, 0, 0], "interval size", 0),
            (ZERO_AT, &[1], "field at byte", 47),
            (FLAGS_AT, &[0, 0, 0, 2], "flags", 2),
            (FLAGS_AT, &[0x80, 0, 0, 1], "flags", 0x8000_0001),
            (FLAGS_END, &[1], "field at byte", 100),
            (103, &[1], "field at byte", 103),
            (300, &[1], "field at byte", 300),
            (GENERATION_AT, &[0x40], "generation", (1 << 62) + 1),
            (EPOCH_AT, &[0; 8], "epoch", 0),
            (TAIL_AT, &[0xFF; 8], "tail", u64::MAX),
        ] {
            let error = Superblock::decode(&forged(at, value));
            assert_eq!(error, Err(SuperblockError::Unsupported { field, value: reported }));
        }
    }

    #[test]
    fn refuses_areas_that_cannot_be() {
        for (at, value) in
            [(IMAGE_SIZE_AT, 4097_u64), (IMAGE_SIZE_AT, 1 << 63), (MAP_LEN_AT, 1), (LOG_PAGES_AT, 0)]
        {
            let decoded = Superblock::decode(&forged(at, &value.to_be_bytes()));
            assert!(matches!(decoded, Err(SuperblockError::Layout(_))), "{decoded:?}");
        }
    }

    #[test]
    fn refuses_a_log_that_is_longer_than_any_that_is_made() {
        let profile = IntegrityProfile::new(Guard::Crc64Nvme, PiType::Type1, 4096).unwrap();
        let longest = Superblock::new([7; 16], profile, 1 << 46).unwrap().layout().log_pages();
        let decoded = |pages: u64| Superblock::decode(&forged(LOG_PAGES_AT, &pages.to_be_bytes()));
        assert_eq!(decoded(longest).unwrap().layout().log_pages(), longest);
        let pages = longest + 1;
        assert_eq!(decoded(pages), Err(SuperblockError::Layout(LayoutError::Log(pages))));
    }

    #[test]
    fn refuses_profiles_that_it_cannot_name() {
        let profile = |guard, pi_type| IntegrityProfile::new(guard, pi_type, 4096).unwrap();
        for profile in [
            profile(Guard::IpChecksum, PiType::Type1),
            profile(Guard::Crc64Nvme, PiType::Type2),
            profile(Guard::Crc64Nvme, PiType::Type3),
            profile(Guard::Crc64Nvme, PiType::Type1).with_storage_tag_size(8).unwrap(),
        ] {
            assert_eq!(Superblock::new([0; 16], profile, 4096), Err(SuperblockError::UnsupportedProfile));
        }
    }

    proptest! {
        #[test]
        fn decodes_what_it_encodes(
            uuid: [u8; 16],
            guard in prop::sample::select(&CRC_GUARDS[..]),
            interval_shift in 9_u32..=16,
            intervals in 1_u64..1 << 34,
            state in prop::sample::select(&STATES[..]),
            epoch in 1_u64..1 << 40,
            durability_lost: bool,
        ) {
            let profile = IntegrityProfile::new(guard, PiType::Type1, 1 << interval_shift).unwrap();
            let mut superblock = Superblock::new(uuid, profile, intervals << interval_shift).unwrap();
            (superblock.epoch, superblock.state, superblock.durability_lost) = (epoch, state, durability_lost);
            prop_assert_eq!(Superblock::decode(&superblock.encode()), Ok(superblock));
        }

        #[test]
        fn one_wrong_bit_is_noticed(at in 0..SECTOR_SIZE, bit in 0_u8..8) {
            let mut bytes = superblock().encode();
            bytes[at] ^= 1 << bit;
            prop_assert!(Superblock::decode(&bytes).is_err());
        }

        #[test]
        fn arbitrary_bytes_never_panic(at in 0..CRC_AT - 8, value: [u8; 8]) {
            let _ = Superblock::decode(&forged(at, &value));
        }
    }
}
