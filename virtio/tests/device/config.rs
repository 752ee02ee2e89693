//! The configuration space, byte by byte (virtio 1.2, 5.2.4).

use stableblk_virtio::{CONFIG_SPACE_SIZE, ConfigError, ConfigSpace, Features, Topology};

const CONFIG: ConfigSpace = ConfigSpace {
    capacity_sectors: 0x0102_0304_0506_0708,
    seg_max: 0x1112_1314,
    block_size: 0x2122_2324,
    topology: Topology {
        physical_block_exp: 0x31,
        alignment_offset: 0x32,
        min_io_size: 0x4142,
        opt_io_size: 0x5152_5354,
    },
    writeback: true,
    num_queues: 0x6162,
    max_discard_sectors: 0x7172_7374,
    max_discard_seg: 0x8182_8384,
    discard_sector_alignment: 0x9192_9394,
    max_write_zeroes_sectors: 0xa1a2_a3a4,
    max_write_zeroes_seg: 0xb1b2_b3b4,
    write_zeroes_may_unmap: true,
};

#[rustfmt::skip]
const BYTES: [u8; CONFIG_SPACE_SIZE] = [
    0x08, 0x07, 0x06, 0x05, 0x04, 0x03, 0x02, 0x01, // capacity
    0, 0, 0, 0,                                     // size_max
    0x14, 0x13, 0x12, 0x11,                         // seg_max
    0, 0, 0, 0,                                     // geometry
    0x24, 0x23, 0x22, 0x21,                         // blk_size
    0x31, 0x32, 0x42, 0x41, 0x54, 0x53, 0x52, 0x51, // topology
    1, 0,                                           // writeback, unused
    0x62, 0x61,                                     // num_queues
    0x74, 0x73, 0x72, 0x71,                         // max_discard_sectors
    0x84, 0x83, 0x82, 0x81,                         // max_discard_seg
    0x94, 0x93, 0x92, 0x91,                         // discard_sector_alignment
    0xa4, 0xa3, 0xa2, 0xa1,                         // max_write_zeroes_sectors
    0xb4, 0xb3, 0xb2, 0xb1,                         // max_write_zeroes_seg
    1, 0, 0, 0,                                     // write_zeroes_may_unmap, unused
];

#[test]
fn layout_is_the_specifications() {
    assert_eq!(CONFIG.read(0, 60).unwrap(), BYTES);
}

#[test]
fn any_offset_and_length_is_exact() {
    for offset in 0..=60_u32 {
        for size in 0..=70_u32 {
            let (start, end) = (offset as usize, (offset + size) as usize);
            let expected = BYTES
                .get(start..end)
                .map(<[u8]>::to_vec)
                .ok_or(ConfigError::OutOfBounds { offset, len: size as usize });
            assert_eq!(CONFIG.read(offset, size), expected);
        }
    }
}

#[test]
fn reads_outside_are_refused() {
    for (offset, size) in [(61, 0), (0x100, 60), (u32::MAX, 1), (u32::MAX, u32::MAX), (0, 256)] {
        let len = size as usize;
        assert_eq!(CONFIG.read(offset, size), Err(ConfigError::OutOfBounds { offset, len }));
    }
}

#[test]
fn driver_switches_the_write_cache() {
    let mut config = CONFIG;
    config.write(32, &[0]).unwrap();
    assert_eq!(config, ConfigSpace { writeback: false, ..CONFIG });
    assert_eq!(config.read(32, 1).unwrap(), [0]);
    config.write(32, &[1]).unwrap();
    assert_eq!(config, CONFIG);
    assert_eq!(config.write(32, &[2]), Err(ConfigError::Writeback { value: 2 }));
    assert_eq!(config, CONFIG);
}

#[test]
fn driver_writes_nothing_else() {
    let mut config = CONFIG;
    for offset in (0..=64).chain([u32::MAX]) {
        for len in 0..=60 {
            if (offset, len) != (32, 1) {
                let result = config.write(offset, &vec![0; len]);
                assert_eq!(result, Err(ConfigError::ReadOnly { offset, len }));
            }
        }
    }
    assert_eq!(config, CONFIG);
}

#[test]
fn features_have_the_specifications_bits() {
    for (feature, bit) in [
        (Features::SIZE_MAX, 1),
        (Features::SEG_MAX, 2),
        (Features::RO, 5),
        (Features::BLK_SIZE, 6),
        (Features::FLUSH, 9),
        (Features::TOPOLOGY, 10),
        (Features::CONFIG_WCE, 11),
        (Features::MQ, 12),
        (Features::DISCARD, 13),
        (Features::WRITE_ZEROES, 14),
        (Features::INDIRECT_DESC, 28),
        (Features::EVENT_IDX, 29),
        (Features::VERSION_1, 32),
    ] {
        assert_eq!(feature.bits(), 1 << bit);
    }
}
