//! The use of a fuzzer's input. The crate's own tests replay the corpus through these
//! functions.

use stableblk_integrity::{
    Checks, Guard, IntegrityProfile, LogicalBlockMetadataCap, PiType, Tags, TuplePlace, VerifyError,
};

use crate::input::Input;
use crate::reference;

impl Input<'_> {
    fn tags(&mut self) -> Tags {
        Tags {
            lba: self.u64(),
            reference: self.u64(),
            application: self.u16(),
            application_mask: self.u16(),
            storage: self.u64(),
        }
    }

    /// A profile of any kind, or none when its parts do not fit.
    fn profile(&mut self) -> Option<IntegrityProfile> {
        let guard = Guard::ALL[usize::from(self.u8() % 4)];
        let pi_type = [PiType::Type1, PiType::Type2, PiType::Type3][usize::from(self.u8() % 3)];
        let place = [TuplePlace::First, TuplePlace::Last][usize::from(self.u8() % 2)];
        // larger intervals only make the bitwise reference slow
        let profile = IntegrityProfile::new(guard, pi_type, 512 << (self.u8() % 3)).ok()?;
        profile.with_metadata(self.u8(), place).ok()?.with_storage_tag_size(self.u8()).ok()
    }
}

/// Everything that reads bytes or text of other programs, and `verify` over lengths that need not
/// fit.
pub fn parse(input: &[u8]) {
    if let Ok(name) = std::str::from_utf8(input) {
        if let Ok(guard) = name.parse::<Guard>() {
            assert_eq!(guard.name(), name);
        }
        if let Ok(profile) = IntegrityProfile::from_kernel_name(name, 512) {
            assert_eq!(profile.kernel_name(), Some(name));
        }
    }
    let mut input = Input(input);
    let cap = LogicalBlockMetadataCap::from_bytes(input.bytes());
    let Ok(profile) = IntegrityProfile::try_from(cap) else { return };
    assert_eq!(profile.interval_size(), usize::from(cap.interval));
    assert_eq!(profile.metadata_size(), usize::from(cap.size));
    assert!(profile.tuple_offset() + profile.tuple_size() <= profile.metadata_size());

    let tags = input.tags();
    let checks = Checks::from_bits_truncate(input.u8());
    let border = usize::from(input.u16()).min(input.0.len());
    let (data, metadata) = input.0.split_at(border);
    let fits = data.len().is_multiple_of(profile.interval_size())
        && metadata.len() >= profile.metadata_len(data.len());
    let verdict = profile.verify(&tags, checks, data, metadata);
    assert_eq!(matches!(verdict, Err(VerifyError::Length(_))), !fits);

    if let Ok(tuple) = profile.tuple(metadata) {
        let mut copy = metadata.to_vec();
        profile.set_tuple(&tuple, &mut copy).expect("it is as long as what was read");
        assert_eq!(copy, metadata);
    }
}

/// Blocks that were written, then changed at random, against the plain implementation.
pub fn verify(input: &[u8]) {
    let mut input = Input(input);
    let Some(profile) = input.profile() else { return };
    let (written, expected) = (input.tags(), input.tags());
    let checks = Checks::from_bits_truncate(input.u8());
    let same_seed = input.u8() % 4 > 0;
    let expected = if same_seed { written } else { expected };

    let mut blocks = vec![input.u8(); profile.block_size() * usize::from(1 + input.u8() % 3)];
    let (data, mut metadata) = split(&profile, &blocks);
    reference::generate(&profile, &written, &data, &mut metadata);
    profile.generate_interleaved(&written, &mut blocks).expect("whole blocks");
    assert_eq!(split(&profile, &blocks), (data, metadata));

    let cuts = [input.u16(), input.u16()].map(usize::from);
    while !input.0.is_empty() {
        let at = usize::from(input.u16()) % blocks.len();
        blocks[at] ^= input.u8();
    }

    let (data, metadata) = split(&profile, &blocks);
    let verdict = profile.verify(&expected, checks, &data, &metadata);
    assert_eq!(profile.verify_interleaved(&expected, checks, &blocks), verdict);
    assert_eq!(profile.verify_vectored(&expected, checks, &cut(&data, cuts), &metadata), verdict);
    assert_eq!(profile.verify_interleaved_vectored(&expected, checks, &cut(&blocks, cuts)), verdict);
    let failed = verdict.map_err(|error| match error {
        VerifyError::Pi(error) => (error.tag, error.interval),
        VerifyError::Length(error) => panic!("the lengths fit: {error}"),
    });
    assert_eq!(failed, reference::verify(&profile, &expected, checks, &data, &metadata));
}

/// The data and the metadata of interleaved blocks.
fn split(profile: &IntegrityProfile, blocks: &[u8]) -> (Vec<u8>, Vec<u8>) {
    let blocks = blocks.chunks(profile.block_size()).map(|block| block.split_at(profile.interval_size()));
    let (data, metadata): (Vec<_>, Vec<_>) = blocks.unzip();
    (data.concat(), metadata.concat())
}

/// `bytes` in three slices.
fn cut(bytes: &[u8], [first, second]: [usize; 2]) -> [&[u8]; 3] {
    let (head, tail) = bytes.split_at(first % (bytes.len() + 1));
    let (middle, last) = tail.split_at(second % (tail.len() + 1));
    [head, middle, last]
}
