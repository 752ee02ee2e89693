//! The first 4096 bytes of a sidecar file.
//!
//! Multi-byte fields are big-endian, as in the tuples that follow the header.
//!
//! | offset | bytes | field |
//! |-------:|------:|-------|
//! |      0 |     8 | magic, `STABLEPI` |
//! |      8 |     4 | format version, 1 |
//! |     12 |     4 | state: 0 clean, 1 dirty |
//! |     16 |    16 | UUID that the image carries too |
//! |     32 |     8 | image size in bytes |
//! |     40 |     4 | interval size in bytes |
//! |     44 |     1 | guard, as NVMe's PIF: 0 16b CRC-16/T10-DIF, 1 32b CRC-32C, 2 64b CRC-64/NVME |
//! |     45 |     1 | PI type, 1 |
//! |     46 |     1 | tuple size in bytes: 8 or 16, as the guard has it |
//! |     47 |  4041 | zero |
//! |   4088 |     8 | CRC-64/NVME of bytes 0 to 4087 |

use crate::{Guard, IntegrityProfile, PiType};

/// Size of the header in bytes, and so the offset of tuple 0.
pub const HEADER_SIZE: usize = 4096;

/// The format version that this crate reads and writes.
pub const VERSION: u32 = 1;

/// Image sizes are file offsets, and those are signed.
const IMAGE_SIZE_MAX: u64 = i64::MAX as u64;

/// The only PI type of version 1, as its byte in the header.
const TYPE_1: u8 = 1;

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
const CRC_AT: usize = 4088;

/// Whether every write that was begun has also been finished.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// Nobody has the image open for writing, and the last who had closed it.
    Clean,
    /// Somebody has the image open for writing, or had it and was cut off.
    Dirty,
}

/// What a sidecar says of itself and of its image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header {
    uuid: [u8; 16],
    profile: IntegrityProfile,
    image_size: u64,
    state: State,
}

/// Why bytes are not a header, or values cannot make one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HeaderError {
    /// The magic is not there.
    #[error("not a sidecar: it does not begin with STABLEPI")]
    NotASidecar,
    /// There are fewer bytes than a header has.
    #[error("only {len} bytes long, shorter than the {HEADER_SIZE}-byte header")]
    TooShort {
        /// Bytes there are.
        len: usize,
    },
    /// A later program wrote it.
    #[error("format version {0} is unknown; this program reads version {VERSION}")]
    UnknownVersion(u32),
    /// The header's own CRC does not match its bytes.
    #[error("damaged header: CRC-64 is {actual:#018x}, should be {expected:#018x}")]
    Damaged {
        /// Computed over the bytes.
        expected: u64,
        /// Found in the header.
        actual: u64,
    },
    /// A field has a value that this version does not define.
    #[error("unsupported {field} {value}")]
    Unsupported {
        /// Which field.
        field: &'static str,
        /// What it says.
        value: u64,
    },
    /// The profile is not type 1 with a CRC guard and bare tuples.
    #[error("unsupported profile: not PI type 1 with a CRC guard and bare tuples")]
    UnsupportedProfile,
    /// The image does not consist of whole intervals.
    #[error("image size {image_size} is not a positive multiple of the {interval_size}-byte interval")]
    UnevenImageSize {
        /// In bytes.
        image_size: u64,
        /// In bytes.
        interval_size: u32,
    },
}

impl Header {
    /// A clean header for an image of `image_size` bytes.
    ///
    /// Fails with [`HeaderError::UnsupportedProfile`] for a profile other than type 1 with a CRC guard and nothing
    /// but the tuple in its metadata, and with [`HeaderError::UnevenImageSize`] for an image that is empty or ends
    /// within an interval.
    pub fn new(uuid: [u8; 16], profile: IntegrityProfile, image_size: u64) -> Result<Self, HeaderError> {
        let interval_size = interval_size(&profile);
        let bare = IntegrityProfile::new(profile.guard(), PiType::Type1, interval_size);
        if bare != Ok(profile) || pif(profile.guard()).is_none() {
            return Err(HeaderError::UnsupportedProfile);
        }
        if image_size == 0 || !image_size.is_multiple_of(interval_size.into()) {
            return Err(HeaderError::UnevenImageSize { image_size, interval_size });
        }
        if image_size > IMAGE_SIZE_MAX {
            return Err(unsupported("image size", image_size));
        }
        Ok(Self { uuid, profile, image_size, state: State::Clean })
    }

    /// Reads a header back. The bytes may come from anywhere: every one of them is checked.
    pub fn decode(bytes: &[u8]) -> Result<Self, HeaderError> {
        if !bytes.starts_with(&MAGIC) {
            return Err(HeaderError::NotASidecar);
        }
        let bytes: &[u8; HEADER_SIZE] =
            bytes.first_chunk().ok_or(HeaderError::TooShort { len: bytes.len() })?;
        // before the CRC, which another version may keep elsewhere
        match u32::from_be_bytes(field(bytes, VERSION_AT)) {
            VERSION => {}
            version => return Err(HeaderError::UnknownVersion(version)),
        }
        let expected = covered_crc(bytes);
        let actual = u64::from_be_bytes(field(bytes, CRC_AT));
        if actual != expected {
            return Err(HeaderError::Damaged { expected, actual });
        }
        if let Some(at) = bytes[ZERO_AT..CRC_AT].iter().position(|&byte| byte != 0) {
            return Err(unsupported("field at byte", (ZERO_AT + at) as u64));
        }
        let profile = decode_profile(bytes)?;
        let image_size = u64::from_be_bytes(field(bytes, IMAGE_SIZE_AT));
        let state = match u32::from_be_bytes(field(bytes, STATE_AT)) {
            0 => State::Clean,
            1 => State::Dirty,
            code => return Err(unsupported("state", code.into())),
        };
        Ok(Self { state, ..Self::new(field(bytes, UUID_AT), profile, image_size)? })
    }

    /// The header as it lies on disk.
    #[must_use]
    #[expect(clippy::missing_panics_doc, reason = "`new` accepts no guard without a PIF")]
    pub fn encode(&self) -> [u8; HEADER_SIZE] {
        let mut bytes = [0; HEADER_SIZE];
        let state: u32 = match self.state {
            State::Clean => 0,
            State::Dirty => 1,
        };
        put(&mut bytes, 0, &MAGIC);
        put(&mut bytes, VERSION_AT, &VERSION.to_be_bytes());
        put(&mut bytes, STATE_AT, &state.to_be_bytes());
        put(&mut bytes, UUID_AT, &self.uuid);
        put(&mut bytes, IMAGE_SIZE_AT, &self.image_size.to_be_bytes());
        put(&mut bytes, INTERVAL_SIZE_AT, &interval_size(&self.profile).to_be_bytes());
        bytes[GUARD_AT] = pif(self.profile.guard()).expect("a guard with a PIF");
        bytes[PI_TYPE_AT] = TYPE_1;
        bytes[TUPLE_SIZE_AT] = tuple_size(&self.profile);
        let crc = covered_crc(&bytes);
        put(&mut bytes, CRC_AT, &crc.to_be_bytes());
        bytes
    }

    /// The UUID that image and sidecar share.
    #[must_use]
    pub fn uuid(&self) -> [u8; 16] {
        self.uuid
    }

    /// Guard, PI type and interval of the tuples.
    #[must_use]
    pub fn profile(&self) -> &IntegrityProfile {
        &self.profile
    }

    /// Size of the image in bytes; a positive multiple of the interval.
    #[must_use]
    pub fn image_size(&self) -> u64 {
        self.image_size
    }

    /// Whether the last writer closed the image.
    #[must_use]
    pub fn state(&self) -> State {
        self.state
    }

    /// The same header in another state.
    #[must_use]
    pub fn with_state(&self, state: State) -> Self {
        Self { state, ..self.clone() }
    }

    /// Number of intervals in the image, and so of tuples in the sidecar.
    #[must_use]
    pub fn intervals(&self) -> u64 {
        self.image_size / u64::from(interval_size(&self.profile))
    }

    /// Byte offset in the sidecar of the tuple of `interval`.
    #[must_use]
    pub fn tuple_offset(&self, interval: u64) -> u64 {
        HEADER_SIZE as u64 + interval * u64::from(tuple_size(&self.profile))
    }

    /// Size of the whole sidecar in bytes.
    #[must_use]
    pub fn sidecar_size(&self) -> u64 {
        self.tuple_offset(self.intervals())
    }
}

/// Everything that the tuples' layout depends on.
fn decode_profile(bytes: &[u8; HEADER_SIZE]) -> Result<IntegrityProfile, HeaderError> {
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

/// NVMe's protection information format, which names the guard on disk. The Internet checksum has none.
fn pif(guard: Guard) -> Option<u8> {
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

fn interval_size(profile: &IntegrityProfile) -> u32 {
    u32::try_from(profile.interval_size()).expect("an interval is 64 KiB at most")
}

fn tuple_size(profile: &IntegrityProfile) -> u8 {
    u8::try_from(profile.tuple_size()).expect("a tuple is 16 bytes at most")
}

fn covered_crc(bytes: &[u8; HEADER_SIZE]) -> u64 {
    Guard::Crc64Nvme.compute(&bytes[..CRC_AT])
}

fn field<const N: usize>(bytes: &[u8; HEADER_SIZE], at: usize) -> [u8; N] {
    *bytes[at..].first_chunk().expect("fields lie within the header")
}

fn put(bytes: &mut [u8; HEADER_SIZE], at: usize, value: &[u8]) {
    bytes[at..at + value.len()].copy_from_slice(value);
}

fn unsupported(field: &'static str, value: u64) -> HeaderError {
    HeaderError::Unsupported { field, value }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const CRC_GUARDS: [Guard; 3] = [Guard::Crc16T10Dif, Guard::Crc32c, Guard::Crc64Nvme];

    fn header() -> Header {
        let profile = IntegrityProfile::new(Guard::Crc64Nvme, PiType::Type1, 4096).unwrap();
        Header::new([7; 16], profile, 1 << 20).unwrap()
    }

    /// The header with `bytes` at `at`, its CRC made good again.
    fn forged(at: usize, value: &[u8]) -> [u8; HEADER_SIZE] {
        let mut bytes = header().encode();
        put(&mut bytes, at, value);
        let crc = covered_crc(&bytes);
        put(&mut bytes, CRC_AT, &crc.to_be_bytes());
        bytes
    }

    #[test]
    fn lies_on_disk_as_documented() {
        let bytes = header().with_state(State::Dirty).encode();
        assert_eq!(&bytes[..16], b"STABLEPI\0\0\0\x01\0\0\0\x01");
        assert_eq!(bytes[16..32], [7; 16]);
        assert_eq!(&bytes[32..47], b"\0\0\0\0\0\x10\0\0\0\0\x10\0\x02\x01\x10");
        assert!(bytes[47..4088].iter().all(|&byte| byte == 0));
        assert_eq!(
            bytes[4088..],
            crc::Crc::<u64>::new(&crc::CRC_64_NVME).checksum(&bytes[..4088]).to_be_bytes()
        );
    }

    #[test]
    fn sizes_follow_the_tuples() {
        let header = header();
        assert_eq!(header.intervals(), 256);
        assert_eq!(header.tuple_offset(3), 4096 + 48);
        assert_eq!(header.sidecar_size(), 4096 + 256 * 16);
    }

    #[test]
    fn largest_image_does_not_overflow() {
        let profile = IntegrityProfile::new(Guard::Crc64Nvme, PiType::Type1, 512).unwrap();
        let header = Header::new([0; 16], profile, IMAGE_SIZE_MAX / 512 * 512).unwrap();
        assert_eq!(header.sidecar_size(), 4096 + (IMAGE_SIZE_MAX / 512) * 16);
        let beyond = Header::new([0; 16], profile, 1 << 63);
        assert_eq!(beyond, Err(HeaderError::Unsupported { field: "image size", value: 1 << 63 }));
    }

    #[test]
    fn refuses_what_is_no_sidecar() {
        assert_eq!(Header::decode(b""), Err(HeaderError::NotASidecar));
        assert_eq!(Header::decode(&[0; HEADER_SIZE]), Err(HeaderError::NotASidecar));
        assert_eq!(Header::decode(b"STABLEPI\0\0\0\x01"), Err(HeaderError::TooShort { len: 12 }));
    }

    #[test]
    fn refuses_another_version_by_its_number() {
        let mut bytes = header().encode();
        bytes[VERSION_AT + 3] = 2;
        assert_eq!(Header::decode(&bytes), Err(HeaderError::UnknownVersion(2)));
    }

    #[test]
    fn refuses_fields_it_does_not_know() {
        for (at, value, field, reported) in [
            (STATE_AT, &[0, 0, 0, 2][..], "state", 2),
            (GUARD_AT, &[3], "guard", 3),
            (PI_TYPE_AT, &[3], "PI type", 3),
            (TUPLE_SIZE_AT, &[8], "tuple size", 8),
            (INTERVAL_SIZE_AT, &[0, 0, 0, 1], "interval size", 1),
            (INTERVAL_SIZE_AT, &[0, 0, 0, 0], "interval size", 0),
            (IMAGE_SIZE_AT, &[0x80], "image size", (1 << 63) + (1 << 20)),
            (1000, &[1], "field at byte", 1000),
        ] {
            let error = Header::decode(&forged(at, value));
            assert_eq!(error, Err(HeaderError::Unsupported { field, value: reported }));
        }
    }

    #[test]
    fn refuses_an_image_that_ends_within_an_interval() {
        for image_size in [0, 4095, 4097] {
            let bytes = forged(IMAGE_SIZE_AT, &u64::to_be_bytes(image_size));
            let error = HeaderError::UnevenImageSize { image_size, interval_size: 4096 };
            assert_eq!(Header::decode(&bytes), Err(error));
        }
    }

    #[test]
    fn refuses_profiles_that_version_1_cannot_name() {
        let profile = |guard, pi_type| IntegrityProfile::new(guard, pi_type, 4096).unwrap();
        for profile in [
            profile(Guard::IpChecksum, PiType::Type1),
            profile(Guard::Crc64Nvme, PiType::Type2),
            profile(Guard::Crc64Nvme, PiType::Type3),
            profile(Guard::Crc64Nvme, PiType::Type1).with_storage_tag_size(8).unwrap(),
        ] {
            assert_eq!(Header::new([0; 16], profile, 4096), Err(HeaderError::UnsupportedProfile));
        }
    }

    proptest! {
        #[test]
        fn decodes_what_it_encodes(
            uuid: [u8; 16],
            guard in prop::sample::select(&CRC_GUARDS[..]),
            interval_shift in 9_u32..=16,
            intervals in 1_u64..1 << 40,
            dirty: bool,
        ) {
            let profile = IntegrityProfile::new(guard, PiType::Type1, 1 << interval_shift).unwrap();
            let state = if dirty { State::Dirty } else { State::Clean };
            let header = Header::new(uuid, profile, intervals << interval_shift).unwrap().with_state(state);
            prop_assert_eq!(Header::decode(&header.encode()), Ok(header));
        }

        #[test]
        fn finds_any_flipped_bit(at in 0..HEADER_SIZE, bit in 0_u8..8) {
            let mut bytes = header().encode();
            bytes[at] ^= 1 << bit;
            prop_assert!(Header::decode(&bytes).is_err());
        }

        #[test]
        fn never_panics_on_hostile_fields(at in 8_usize..64, value: [u8; 8]) {
            let _ = Header::decode(&forged(at, &value));
        }
    }
}
