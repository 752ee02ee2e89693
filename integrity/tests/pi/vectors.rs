//! Published values, with where they were published.

use stableblk_integrity::{Checks, Guard, IntegrityProfile, PiType, Tags};

fn check(guard: Guard, data: &[u8], expected: u64) {
    assert_eq!(guard.compute(data), expected, "{guard} of {} bytes", data.len());
}

fn repeated(text: &str, times: usize) -> String {
    text.repeat(times) + "123456789"
}

/// 00, 01, to FF, repeated.
fn rising(len: usize) -> Vec<u8> {
    (0..=u8::MAX).cycle().take(len).collect()
}

/// FF, FE, to 00, repeated.
fn falling(len: usize) -> Vec<u8> {
    (0..=u8::MAX).rev().cycle().take(len).collect()
}

/// The CRC catalogue of Greg Cook (reveng): CRC-16/T10-DIF, CRC-32/ISCSI and CRC-64/NVME. SPDK's
/// `crc16_ut.c` has the first.
#[test]
fn check_values_of_the_crc_catalogue() {
    check(Guard::Crc16T10Dif, b"123456789", 0xD0DB);
    check(Guard::Crc32c, b"123456789", 0xE306_9283);
    check(Guard::Crc64Nvme, b"123456789", 0xAE8B_1486_0A79_9888);
}

/// Linux up to 6.14, crypto/testmgr.h, `crct10dif_tv_template`.
#[test]
fn t10_dif_of_the_linux_test_manager() {
    check(Guard::Crc16T10Dif, b"abc", 0x443B);
    check(Guard::Crc16T10Dif, repeated("1234567890", 7).as_bytes(), 0x4B70);
    check(Guard::Crc16T10Dif, ("abc".to_owned() + &"d".repeat(53)).as_bytes(), 0x9CE3);
    check(Guard::Crc16T10Dif, repeated("1234567890", 31).as_bytes(), 0x44C6);
}

/// RFC 3720, appendix B.4.
#[test]
fn crc32c_of_rfc_3720() {
    check(Guard::Crc32c, &[0; 32], 0x8A91_36AA);
    check(Guard::Crc32c, &[0xFF; 32], 0x62A8_AB43);
    check(Guard::Crc32c, &rising(32), 0x46DD_794E);
    check(Guard::Crc32c, &falling(256)[224..], 0x113F_DB5C);
}

/// The tests of AWS's checksums and of the crates crc64fast and crc64fast-nvme.
#[test]
fn crc64_nvme_of_aws_checksums() {
    check(Guard::Crc64Nvme, &[0; 32], 0xCF34_7343_4D4E_CF3B);
    check(Guard::Crc64Nvme, &[0xFF; 32], 0xA0A0_6974_C34D_63C4);
    check(Guard::Crc64Nvme, &rising(32), 0xB9D9_D4A8_492C_BD7F);
}

/// NVM Command Set specification 1.0c, §5.2.1.3.5; also SPDK's `crc32_ut.c` and `crc64_ut.c`.
#[test]
fn logical_blocks_of_the_nvm_command_set() {
    for (data, crc32c, crc64) in [
        (vec![0; 4096], 0x98F9_4189, 0x6482_D367_EB22_B64E),
        (vec![0xFF; 4096], 0x25C1_FE13, 0xC0DD_BA73_02EC_A3AC),
        (rising(4096), 0x9C71_FE32, 0x3E72_9F5F_6750_449C),
        (falling(4096), 0x2149_41A8, 0x9A2D_F64B_8E9E_517E),
    ] {
        check(Guard::Crc32c, &data, crc32c);
        check(Guard::Crc64Nvme, &data, crc64);
    }
}

/// Not published: three implementations agree on them (`crc`, crc-fast, a bitwise one).
#[test]
fn logical_blocks_of_512_bytes() {
    for (data, t10_dif, ip, crc32c, crc64) in [
        (vec![0; 512], 0x0000, 0xFFFF, 0x30FC_EDC0, 0x1DE6_0E28_68A7_82E9),
        (vec![0xFF; 512], 0xE6A1, 0x0000, 0x5BD9_9297, 0x5277_682D_DAEB_44B6),
        (rising(512), 0x4F10, 0x7F80, 0xAE10_EE5A, 0x65F4_8632_094A_1B07),
    ] {
        check(Guard::Crc16T10Dif, &data, t10_dif);
        check(Guard::IpChecksum, &data, ip);
        check(Guard::Crc32c, &data, crc32c);
        check(Guard::Crc64Nvme, &data, crc64);
    }
}

/// Not published: agreed as above, the 16b guard of the NVM Command Set's four blocks.
#[test]
fn t10_dif_of_the_blocks_of_the_nvm_command_set() {
    for (data, expected) in
        [(vec![0; 4096], 0x0000), (vec![0xFF; 4096], 0x8B5D), (rising(4096), 0x8F6D), (falling(4096), 0x0430)]
    {
        check(Guard::Crc16T10Dif, &data, expected);
    }
}

/// RFC 1071 §3: the sum of these bytes is `DDF2`, and the checksum its complement.
#[test]
fn internet_checksum_of_rfc_1071() {
    check(Guard::IpChecksum, &[0x00, 0x01, 0xF2, 0x03, 0xF4, 0xF5, 0xF6, 0xF7], !0xDDF2 & 0xFFFF);
}

/// Read from an emulated NVMe drive after a write by Linux 7.2.13 through its PI attribute.
#[test]
fn tuples_of_a_live_kernel() {
    let data: Vec<u8> = (0..4096_u32).map(|i| ((7 * i + 3) & 255) as u8).collect();
    let tags = Tags { application: 0x1234, ..Tags::at_lba(64) };
    let mut metadata = [0; 16];
    for (guard, interval_size, expected) in [
        (Guard::Crc16T10Dif, 512, &[0xF9, 0x58, 0x12, 0x34, 0, 0, 0, 0x40][..]),
        (Guard::Crc16T10Dif, 4096, &[0x3C, 0xE1, 0x12, 0x34, 0, 0, 0, 0x40]),
        (
            Guard::Crc64Nvme,
            4096,
            &[0xEE, 0xD9, 0x6E, 0xC7, 0x91, 0xF1, 0x40, 0xCB, 0x12, 0x34, 0, 0, 0, 0, 0, 0x40],
        ),
    ] {
        let profile = IntegrityProfile::new(guard, PiType::Type1, interval_size).unwrap();
        let data = &data[..profile.interval_size()];
        profile.generate(&tags, data, &mut metadata).unwrap();
        assert_eq!(&metadata[..expected.len()], expected);
        profile.verify(&tags, Checks::all(), data, &metadata).unwrap();
    }
}
