//! A sidecar that rots at rest: what is damaged is found and named, and the blocks that it does not
//! concern are served.

use serde_json::{Value, json};

use crate::harness::{IOERR, Image, OK, Queue, Setup, crash, finish, pattern, serve_command};
use crate::sidecar_bytes::{flip_bit, superblock, tuple_offset};

const BLOCK: usize = 4096;
const SECTORS: u64 = 8;
const BLOCKS: usize = 64;

/// An image whose first [`BLOCKS`] blocks were written.
fn written_image() -> (Image, Vec<u8>) {
    let image = Image::create(8 << 20);
    let data = pattern(1, BLOCKS * BLOCK);
    let mut vm = Setup::of(&image).start();
    vm.queue.write(0, &data);
    drop(vm.frontend);
    vm.backend.stop();
    (image, data)
}

/// Six blocks, each with a page of the log: 0, 10, and so on to 50.
fn write_six_pages(queue: &mut Queue, attempt: u64) {
    for block in 0..6 {
        queue.write(block * 10 * SECTORS, &block_of_six(attempt, block));
        queue.flush();
    }
}

fn block_of_six(attempt: u64, block: u64) -> Vec<u8> {
    pattern(attempt * 10 + block, BLOCK)
}

fn lbas(ranges: &Value) -> Vec<u64> {
    let number = |value: &Value| value.as_u64().unwrap();
    let ranges = ranges.as_array().unwrap().iter();
    ranges.flat_map(|range| number(&range["first_lba"])..=number(&range["last_lba"])).collect()
}

#[test]
fn damaged_tuples_fail_their_blocks_until_these_are_rewritten() {
    let (image, data) = written_image();
    image.flip_sidecar_bit(|superblock| tuple_offset(superblock.layout(), 40) + 5);
    // a sector has one checksum for all its tuples
    let lost = |block| (31..62).contains(&block);
    let bad: Vec<_> = (31..62).map(|lba| (lba, "tuple_lost".to_owned())).collect();
    assert_eq!(image.bad_blocks(), bad);
    assert_eq!(image.json("info")["lost_blocks"], 31);

    let mut vm = Setup::of(&image).start();
    for (block, expected) in (0..).zip(data.chunks(BLOCK)) {
        let (completion, read) = vm.queue.try_read(block * SECTORS, BLOCK);
        assert_eq!(completion.status, if lost(block) { IOERR } else { OK }, "block {block}");
        assert!(lost(block) || read == expected, "block {block}");
    }
    // a written block is sound again, and no other block
    vm.queue.write(40 * SECTORS, &pattern(2, BLOCK));
    assert!(vm.queue.read(40 * SECTORS, BLOCK) == pattern(2, BLOCK));
    assert_eq!(vm.queue.try_read(41 * SECTORS, BLOCK).0.status, IOERR);
    drop(vm.frontend);
    let log = vm.backend.stop();
    assert!(
        log.contains("the sidecar is damaged: LBA 31 to 61 cannot be read until they are written again"),
        "{log}"
    );
    let bad: Vec<_> = bad.into_iter().filter(|(lba, _)| *lba != 40).collect();
    assert_eq!(image.bad_blocks(), bad);

    let mut vm = Setup::of(&image).start();
    vm.queue.write(0, &data);
    drop(vm.frontend);
    vm.backend.stop();
    image.assert_clean();
}

#[test]
fn one_damaged_superblock_is_mended() {
    for copy in [0, 4096] {
        let (image, data) = written_image();
        flip_bit(&image.sidecar_path(), copy + 60);
        assert_eq!(image.json("info")["damaged_superblock"]["copy"], copy / 4096);
        let mut vm = Setup::of(&image).start();
        assert!(vm.queue.read(0, BLOCKS * BLOCK) == data);
        drop(vm.frontend);
        let log = vm.backend.stop();
        assert!(
            log.contains(&format!("superblock {} of", copy / 4096)) && log.contains("is damaged"),
            "{log}"
        );
        assert_eq!(image.json("info")["damaged_superblock"], Value::Null, "it was written again");
        image.assert_clean();
    }
}

#[test]
fn two_damaged_superblocks_are_refused_with_the_cure() {
    let (image, data) = written_image();
    for copy in [0, 4096] {
        flip_bit(&image.sidecar_path(), copy + 60);
    }
    let directory = tempfile::tempdir().unwrap();
    let serve = finish(&mut serve_command(&directory.path().join("socket"), &image, &[]));
    let commands = ["check", "info", "resize"].map(|command| finish(&mut image.command(command)));
    for refused in commands.into_iter().chain([serve]) {
        assert_ne!(refused.code, Some(0));
        for word in ["disk.img.pi", "damaged superblock", "stableblk protect --force"] {
            assert!(refused.stderr.contains(word), "{word:?} is not in: {}", refused.stderr);
        }
    }
    // the command it names is the way out
    assert_eq!(finish(image.command("protect").arg("--force")).code, Some(0));
    let mut vm = Setup::of(&image).start();
    assert!(vm.queue.read(0, BLOCKS * BLOCK) == data);
    drop(vm.frontend);
    vm.backend.stop();
    image.assert_clean();
}

/// Flips a bit in the third of six pages of the log of a crashed image.
fn image_with_a_rotten_log(intent: &str) -> (Image, u64) {
    let image = Image::create(8 << 20);
    let attempt = crash(&image, &["--intent", intent], 6, write_six_pages);
    let tail = superblock(&image.sidecar_path()).tail();
    image.flip_sidecar_bit(|superblock| superblock.layout().log_page_offset(tail + 2) + 100);
    let recovery = &image.json("check")["recovery"];
    assert_eq!((&recovery["log_pages"], &recovery["missing_log_page"]), (&2.into(), &(tail + 2).into()));
    (image, attempt)
}

/// The dirty bits show that there was more, so the blocks are looked at, and adopted.
#[test]
fn blocks_of_a_damaged_log_are_adopted_with_intents_by_region() {
    let (image, attempt) = image_with_a_rotten_log("region");
    assert_eq!(lbas(&image.json("check")["adopted_ranges"]), [20, 30, 40, 50]);
    let mut vm = Setup::of(&image).start();
    for block in 0..6 {
        assert!(vm.queue.read(block * 10 * SECTORS, BLOCK) == block_of_six(attempt, block));
    }
    drop(vm.frontend);
    let log = vm.backend.stop();
    assert!(log.contains("of the log is missing") && log.contains("adopted lba=20"), "{log}");
    assert_eq!(image.json("info")["adopted_blocks"], 4);
    image.assert_clean();
}

/// Only the log knows of these writes, so their blocks do not match what is known of them.
#[test]
fn blocks_of_a_damaged_log_fail_with_intents_by_block() {
    let (image, attempt) = image_with_a_rotten_log("block");
    let bad: Vec<_> = [20, 30, 40, 50].map(|lba| (lba, "unwritten_not_zero".to_owned())).into();
    assert_eq!(image.bad_blocks(), bad);
    let mut vm = Setup::of(&image).options(&["--intent", "block"]).start();
    for block in 0..6 {
        let (completion, read) = vm.queue.try_read(block * 10 * SECTORS, BLOCK);
        assert_eq!(completion.status, if block < 2 { OK } else { IOERR });
        assert!(block >= 2 || read == block_of_six(attempt, block));
        vm.queue.write(block * 10 * SECTORS, &pattern(7, BLOCK));
        assert!(vm.queue.read(block * 10 * SECTORS, BLOCK) == pattern(7, BLOCK));
    }
    drop(vm.frontend);
    let log = vm.backend.stop();
    assert!(log.contains("of the log is missing"), "{log}");
    image.assert_clean();
}

#[test]
fn a_damaged_dirty_map_makes_its_regions_dirty() {
    let image = Image::create(8 << 20);
    let attempt = crash(&image, &[], 6, write_six_pages);
    image.flip_sidecar_bit(|superblock| superblock.layout().map_offset() + 300);
    let check = image.json("check");
    assert_eq!(check["recovery"]["damaged_map_sectors"], 1);
    // all its regions may be dirty
    assert_eq!(check["recovery"]["dirty_regions"], 8);
    assert_eq!((&check["mismatched_blocks"], &check["adopted_blocks"]), (&0.into(), &0.into()));
    let found = finish(&mut image.command("check")).stdout;
    assert!(found.contains("1 sectors of the dirty map are damaged"), "{found}");
    let mut vm = Setup::of(&image).start();
    for block in 0..6 {
        assert!(vm.queue.read(block * 10 * SECTORS, BLOCK) == block_of_six(attempt, block));
    }
    drop(vm.frontend);
    let log = vm.backend.stop();
    assert!(log.contains("1 sectors of the dirty map are damaged"), "{log}");
    image.assert_clean();
}

/// In a region that was being written rot looks like a torn write, and is reported as one;
/// elsewhere it is an error.
#[test]
fn damaged_data_of_a_crashed_image_is_adopted_in_dirty_regions_alone() {
    const CLEAN: u64 = 3 * 256;
    let mut vm = Setup::disk(8 << 20).start();
    vm.queue.write(CLEAN * SECTORS, &pattern(1, 16 * BLOCK));
    drop(vm.frontend);
    vm.backend.stop();
    crash(&vm.image, &[], 6, write_six_pages);
    vm.image.flip_bit(10 * 4096 + 77);
    vm.image.flip_bit((CLEAN + 7) * 4096 + 77);
    let check = vm.image.json("check");
    assert_eq!(check["adopted_ranges"], json!([{ "first_lba": 10, "last_lba": 10 }]));
    assert_eq!(vm.image.bad_blocks(), [(CLEAN + 7, "guard_tag".to_owned())]);
    let mut vm = Setup::of(vm.image).start();
    for block in 0..16 {
        let status = vm.queue.try_read((CLEAN + block) * SECTORS, BLOCK).0.status;
        assert_eq!(status, if block == 7 { IOERR } else { OK });
    }
    assert_eq!(vm.queue.try_read(10 * SECTORS, BLOCK).0.status, OK);
    drop(vm.frontend);
    let log = vm.backend.stop();
    assert!(log.contains("adopted lba=10"), "{log}");
    assert_eq!(vm.image.bad_blocks(), [(CLEAN + 7, "guard_tag".to_owned())]);
}
