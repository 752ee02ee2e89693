//! Published values: the source stands beside each.

use stableblk_integrity::{Checks, Guard, IntegrityProfile, PiType, Tags};

#[test]
fn generates_the_tuple_seen_on_a_live_kernel() {
    let data: Vec<u8> = (0..4096_u32).map(|i| ((7 * i + 3) & 255) as u8).collect();
    let tags = Tags { application: 0x1234, ..Tags::at_lba(64) };
    let mut metadata = [0; 16];
    for (guard, interval, expected) in [
        (Guard::Crc16T10Dif, 512, &[0xF9, 0x58, 0x12, 0x34, 0, 0, 0, 0x40][..]),
        (Guard::Crc16T10Dif, 4096, &[0x3C, 0xE1, 0x12, 0x34, 0, 0, 0, 0x40][..]),
        (
            Guard::Crc64Nvme,
            4096,
            &[0xEE, 0xD9, 0x6E, 0xC7, 0x91, 0xF1, 0x40, 0xCB, 0x12, 0x34, 0, 0, 0, 0, 0, 0x40],
        ),
    ] {
        let profile = IntegrityProfile::new(guard, PiType::Type1, interval).unwrap();
        let data = &data[..interval as usize];
        profile.generate(&tags, data, &mut metadata).unwrap();
        assert_eq!(&metadata[..expected.len()], expected);
        profile.verify(&tags, Checks::all(), data, &metadata).unwrap();
    }
}
