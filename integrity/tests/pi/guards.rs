//! Guards against other implementations, on any length, alignment and cut.

use crc::{CRC_16_T10_DIF, CRC_32_ISCSI, CRC_64_NVME, Crc};
use proptest::prelude::*;
use stableblk_integrity::{Guard, ProfileError};

use crate::reference;
use crate::strategies::{cut, cuts, guards};

/// The guard by the table-driven `crc` crate, which has no Internet checksum.
fn by_table(guard: Guard, data: &[u8]) -> Option<u64> {
    match guard {
        Guard::Crc16T10Dif => Some(Crc::<u16>::new(&CRC_16_T10_DIF).checksum(data).into()),
        Guard::IpChecksum => None,
        Guard::Crc32c => Some(Crc::<u32>::new(&CRC_32_ISCSI).checksum(data).into()),
        Guard::Crc64Nvme => Some(Crc::<u64>::new(&CRC_64_NVME).checksum(data)),
    }
}

proptest! {
    #[test]
    fn agree_with_others(guard in guards(), data in prop::collection::vec(any::<u8>(), 0..5000), offset in 0..64_usize) {
        let data = data.get(offset..).unwrap_or_default();
        let ours = guard.compute(data);
        prop_assert_eq!(ours, reference::guard(guard, data));
        if let Some(theirs) = by_table(guard, data) {
            prop_assert_eq!(ours, theirs);
        }
        if guard == Guard::Crc64Nvme {
            let mut digest = crc64fast_nvme::Digest::new();
            digest.write(data);
            prop_assert_eq!(ours, digest.sum64());
        }
    }

    #[test]
    fn digests_do_not_see_cuts(guard in guards(), data in prop::collection::vec(any::<u8>(), 0..5000), cuts in cuts()) {
        let mut digest = guard.digest();
        for piece in cut(&data, &cuts) {
            digest.update(piece);
        }
        prop_assert_eq!(digest.finalize(), guard.compute(&data));
    }
}

/// The lengths of intervals take a way of their own when they are not aligned.
#[test]
fn agree_with_tables_at_each_alignment_of_an_interval() {
    let bytes: Vec<u8> = (0..=250).cycle().take(8192 + 16).collect();
    for guard in Guard::ALL {
        for len in [512, 1024, 2048, 4096, 8192] {
            for offset in 0..16 {
                let data = &bytes[offset..][..len];
                let expected = by_table(guard, data).unwrap_or_else(|| reference::guard(guard, data));
                assert_eq!(guard.compute(data), expected, "{guard}, {len} bytes at {offset}");
            }
        }
    }
}

/// Long enough that the carries of the Internet checksum must be folded on the way.
#[test]
fn agree_with_the_bitwise_ones_on_long_data() {
    let data = vec![0xFF; 3 * 65536 + 5];
    for guard in Guard::ALL {
        assert_eq!(guard.compute(&data), reference::guard(guard, &data), "{guard}");
    }
}

#[test]
fn have_names() {
    for (guard, name) in [
        (Guard::Crc16T10Dif, "crc16-t10dif"),
        (Guard::IpChecksum, "ip-checksum"),
        (Guard::Crc32c, "crc32c"),
        (Guard::Crc64Nvme, "crc64-nvme"),
    ] {
        assert_eq!(guard.to_string(), name);
        assert_eq!(name.parse(), Ok(guard));
    }
    assert_eq!("crc64".parse::<Guard>(), Err(ProfileError::GuardName));
    assert_eq!(format!("{:>8}|", Guard::Crc32c), "  crc32c|");
}

#[test]
fn have_sizes_in_bits() {
    assert_eq!(Guard::ALL.map(Guard::size), [16, 16, 32, 64]);
}
