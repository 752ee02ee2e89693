//! `check`: each kind of mismatch is found and reported with its place.

use std::process::Command;

use crate::directory::{BLOCK, Directory, MIB, PROGRAM, Run, noise, open};
use crate::sidecar_bytes::{superblock, tuple_offset};

#[test]
fn every_guard_and_interval_finds_a_flipped_bit() {
    for guard in ["crc64", "crc32c", "t10"] {
        for interval in [512, 4096] {
            let directory = Directory::protected(&format!("--guard {guard} --interval {interval}"));
            directory.stableblk("check disk").succeeds();
            let offset = 2 * MIB + 123_457;
            directory.flip_bit("disk", offset as u64);
            let check = directory.stableblk("check disk --json");
            assert_eq!(check.code, 1);
            let report = check.json();
            assert_eq!(report["mismatched_blocks"], 1, "{guard} {interval}");
            assert_eq!(report["ranges"][0]["first_lba"], offset / interval);
            assert_eq!(report["ranges"][0]["last_lba"], offset / interval);
            assert_eq!(report["ranges"][0]["check"], "guard_tag");
        }
    }
}

#[test]
fn check_reports_ranges_with_tag_expected_and_actual() {
    let directory = Directory::protected("");
    directory.write_at("disk", 700 * BLOCK as u64, &[0xAA; 3 * BLOCK]); // data of three blocks
    directory.forge_tuple(20, |tuple| tuple[15] ^= 1); // reference tag
    directory.forge_tuple(24, |tuple| tuple[9] ^= 2); // application tag
    directory.forge_tuple(26, |tuple| tuple[8..10].fill(0xFF)); // escape
    directory.forge_tuple(28, |tuple| tuple.fill(0)); // of a block that was never written
    directory.write_at("disk", 40 * BLOCK as u64, b"stray write"); // data in a hole
    let check = directory.stableblk("check disk");
    assert_eq!(check.code, 1);
    let lines: Vec<_> = check.stdout.lines().collect();
    assert_eq!(
        lines[..5],
        [
            "LBA 20 (byte 81920): reference tag error, expected 000000000014, actual 000000000015",
            "LBA 24 (byte 98304): application tag error, expected 5342, actual 5340",
            "LBA 26 (byte 106496): application tag error, expected 5342, actual ffff",
            "LBA 28 (byte 114688): unwritten block not zero",
            "LBA 40 (byte 163840): unwritten block not zero",
        ]
    );
    assert!(
        lines[5]
            .starts_with("LBA 700-702 (3 blocks from byte 2867200): guard tag error, in the first expected "),
        "{}",
        lines[5]
    );
    assert_eq!(lines[6..], ["disk: 1024 blocks of 4096 bytes, 8 do not match"]);
}

#[test]
fn check_names_the_blocks_whose_tuples_have_rotted() {
    let directory = Directory::protected("");
    let superblock = superblock(&directory.path("disk.pi"));
    let layout = superblock.layout();
    directory.flip_bit("disk.pi", tuple_offset(layout, 600) + 3);
    let report = directory.stableblk("check disk --json").json();
    // a sector has one checksum for all its tuples
    let sector = layout.tuples_per_sector() as u64;
    let first = 600 / sector * sector;
    assert_eq!(report["mismatched_blocks"], sector);
    assert_eq!(report["ranges"][0]["first_lba"], first);
    assert_eq!(report["ranges"][0]["last_lba"], first + sector - 1);
    assert_eq!(report["ranges"][0]["check"], "tuple_lost");
    assert_eq!(directory.stableblk("info disk --json").json()["lost_blocks"], sector);
    let info = directory.stableblk("info disk");
    assert!(info.stdout.contains(", 31 with their tuples lost"), "{}", info.stdout);
}

#[test]
fn check_joins_a_range_that_several_threads_found() {
    let directory = Directory::new();
    directory.stableblk("create disk --size 64M").succeeds();
    directory.write_at("disk", 0, &noise(64 * MIB));
    let report = directory.stableblk("check disk --json").json();
    assert_eq!(report["mismatched_blocks"], 16384);
    assert_eq!(report["ranges"].as_array().unwrap().len(), 1);
    assert_eq!(report["ranges"][0]["last_lba"], 16383);
}

#[test]
fn check_finds_a_hole_that_took_the_place_of_data() {
    let directory = Directory::protected("");
    let image = open(&directory.path("disk"));
    image.set_len(2 * MIB as u64).unwrap();
    image.set_len(4 * MIB as u64).unwrap();
    let report = directory.stableblk("check disk --json").json();
    assert_eq!(report["ranges"][0]["first_lba"], 512);
    assert_eq!(report["ranges"][0]["last_lba"], 767);
    assert_eq!(report["ranges"][0]["check"], "guard_tag");
}

/// Reading it all, or the 32 GiB of its tuples, takes far more time of a processor than this
/// leaves.
#[test]
fn holes_cost_no_time() {
    let directory = Directory::new();
    let stableblk = |arguments: &str| {
        let mut command = Command::new("sh");
        command.args(["-c", r#"ulimit -t 10; exec "$0" "$@""#, PROGRAM]).args(arguments.split_whitespace());
        command.current_dir(directory.0.path()).env_remove("RUST_LOG");
        Run::of(command)
    };
    stableblk("create disk --size 8T").succeeds();
    directory.write_at("disk", 5 << 40, &noise(BLOCK));
    stableblk("protect disk --force").succeeds();
    stableblk("check disk").succeeds();
    assert_eq!(stableblk("info disk --json").json()["written_blocks"], 1);
}
