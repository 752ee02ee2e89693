//! Damaged blocks are accepted, restored from a backup, or explained; an image that has lost its
//! UUID gets it back.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::json;

use crate::harness::{Backend, Finished, IOERR, Image, OK, PROGRAM, Setup, finish, pattern};

const BLOCK: usize = 4096;
const SECTORS: u64 = 8;
const BLOCKS: u64 = 64;

fn written_image() -> Image {
    let mut vm = Setup::disk(4 << 20).start();
    vm.queue.write(0, &pattern(1, usize::try_from(BLOCKS).unwrap() * BLOCK));
    drop(vm.frontend);
    vm.backend.stop();
    vm.image
}

/// Reads `blocks`, which fail.
fn find(image: &Image, blocks: &[u64]) {
    let mut vm = Setup::of(image).start();
    for block in blocks {
        assert_eq!(vm.queue.try_read(block * SECTORS, BLOCK).0.status, IOERR);
    }
    drop(vm.frontend);
    vm.backend.stop();
}

fn run(image: &Image, subcommand: &str, args: &[&str]) -> Finished {
    finish(image.command(subcommand).args(args))
}

fn damaged(image: &Image) -> u64 {
    image.json("info")["damage"]["blocks"].as_u64().unwrap()
}

#[test]
fn blocks_are_accepted_while_nothing_is_served() {
    let image = written_image();
    for block in [3, 4, 9, 100] {
        image.flip_bit(block * 4096 + 5);
    }
    find(&image, &[3, 4, 9, 100]);
    let outside = run(&image, "accept", &["--lba", "3,1024"]);
    assert_eq!(outside.code, Some(1));
    assert!(
        outside.stderr.contains("has no block 1024: its 1024 blocks are 0 to 1023"),
        "{}",
        outside.stderr
    );
    assert_eq!(run(&image, "accept", &["--lba", "4-3"]).code, Some(2));
    let accepted = run(&image, "accept", &["--lba", "2-5,100"]);
    assert_eq!(accepted.code, Some(0), "{}", accepted.stderr);
    for part in ["LBA 3-4: accepted as it is", "LBA 100: accepted as it is", "3 blocks accepted, 2 matched"] {
        assert!(accepted.stdout.contains(part), "{}", accepted.stdout);
    }
    assert_eq!(image.bad_blocks(), [(9, "guard_tag".to_owned())]);
    assert_eq!(damaged(&image), 1);
    let mut vm = Setup::of(&image).start();
    assert!(vm.queue.read(3 * SECTORS, BLOCK) == image.read(3 * 4096, BLOCK));
}

#[test]
fn blocks_are_accepted_while_the_guest_runs() {
    let image = written_image();
    for block in [3, 4, 9, 100] {
        image.flip_bit(block * 4096 + 5);
    }
    let mut vm = Setup::of(&image).start();
    assert_eq!(vm.queue.try_read(0, 16 * BLOCK).0.status, IOERR);
    assert_eq!(vm.queue.try_read(100 * SECTORS, BLOCK).0.status, IOERR);
    assert_eq!(vm.backend.ctl(&["accept", "--lba", "1000-1024"]).code, Some(1));
    let accepted = vm.backend.ask(&["accept", "--lba", "2-5"]);
    assert_eq!(accepted, json!({"accepted": [3, 4], "matching": 2}));
    let shown = vm.backend.ctl(&["accept", "--lba", "100"]).stdout;
    assert!(shown.contains("LBA 100: accepted as it is\n1 blocks accepted, 0 matched before"), "{shown}");
    assert!(vm.queue.read(3 * SECTORS, BLOCK) == image.read(3 * 4096, BLOCK));
    assert!(vm.queue.read(100 * SECTORS, BLOCK) == image.read(100 * 4096, BLOCK));
    assert_eq!(vm.backend.ask(&["damage"])["blocks"], 1);
    // durable at once: only damage that was not accepted is adopted after a crash
    vm.backend.kill();
    let check = image.check(&[]);
    assert_eq!((check.adopted_blocks(), check.bad_blocks()), ([9].into(), Vec::new()));
}

/// Direct I/O writes whole sectors of the host, in which there are others.
#[test]
fn a_block_beside_one_that_is_accepted_stays_damaged() {
    let image = Image::create_with(1 << 20, &["--interval", "512"]);
    let mut vm = Setup::of(&image).start();
    vm.queue.write(0, &pattern(1, 16 * 512));
    drop(vm.frontend);
    vm.backend.stop();
    (2..5).for_each(|block| image.flip_bit(block * 512));
    let mut vm = Setup::of(&image).start();
    assert_eq!(vm.queue.try_read(0, 8 * 512).0.status, IOERR);
    assert_eq!(vm.backend.ask(&["accept", "--lba", "3"])["accepted"], json!([3]));
    assert_eq!(vm.backend.ask(&["damage"])["blocks"], 2);
    assert_eq!([2, 3, 4].map(|sector| vm.queue.try_read(sector, 512).0.status), [IOERR, OK, IOERR]);
    drop(vm.frontend);
    vm.backend.stop();
    assert_eq!(image.bad_blocks().len(), 2);
}

#[test]
fn a_disk_that_may_not_be_written_accepts_nothing() {
    let image = written_image();
    let backend = Backend::serve(&image, &["--read-only"]);
    let refused = backend.ctl(&["accept", "--lba", "3"]);
    assert_eq!(refused.code, Some(1));
    assert!(refused.stderr.contains("read-only"), "{}", refused.stderr);
    backend.stop();
}

#[test]
fn blocks_are_restored_from_a_backup_if_they_have_not_changed_since() {
    let image = written_image();
    let backup = image.directory().join("backup");
    fs::copy(image.path(), &backup).unwrap();
    let backup = backup.to_str().unwrap();
    let mut vm = Setup::of(&image).start();
    vm.queue.write(7 * SECTORS, &pattern(2, BLOCK));
    drop(vm.frontend);
    vm.backend.stop();
    for block in [3, 7, 900] {
        image.flip_bit(block * 4096 + 5);
    }
    find(&image, &[3, 7, 900]);
    let itself = run(&image, "restore", &["--from", image.path().to_str().unwrap()]);
    assert!(itself.stderr.contains("is the image itself"), "{}", itself.stderr);
    // those in the damage list
    let restored = run(&image, "restore", &["--from", backup]);
    assert_eq!(restored.code, Some(1), "{}", restored.stderr);
    for part in [
        "LBA 3: restored from the backup",
        "LBA 900: restored from the backup",
        "LBA 7: left as it is",
        "2 blocks restored, 0 matched before, 1 left; accept those with `stableblk accept --lba`",
    ] {
        assert!(restored.stdout.contains(part), "{part}: {}", restored.stdout);
    }
    assert_eq!(image.bad_blocks(), [(7, "guard_tag".to_owned())]);
    assert_eq!(damaged(&image), 1);
    assert!(image.read(3 * 4096, BLOCK) == pattern(1, 4 * BLOCK)[3 * BLOCK..]);
    // named by a person; a backup that is too short has no such block
    image.flip_bit(5 * 4096);
    fs::OpenOptions::new().write(true).open(backup).unwrap().set_len(5 * 4096 + 100).unwrap();
    assert_eq!(run(&image, "restore", &["--from", backup, "--lba", "4-5"]).code, Some(1));
    let matching = run(&image, "restore", &["--from", backup, "--lba", "3-4"]);
    assert_eq!(matching.code, Some(0), "{}", matching.stdout);
    assert_eq!(image.bad_blocks().len(), 2);
    assert_eq!(run(&image, "accept", &["--lba", "5,7"]).code, Some(0));
    let mut vm = Setup::of(&image).start();
    assert!(vm.queue.read(4 * SECTORS, BLOCK) == pattern(1, 5 * BLOCK)[4 * BLOCK..]);
    let log = vm.stop_clean();
    assert!(!log.contains("was written after its sidecar was closed"), "{log}");
}

/// A copy of `image` without its extended attributes, beside `sidecar`.
fn copied(image: &Image, sidecar: &Path, name: &str) -> PathBuf {
    let copy = image.directory().join(name);
    fs::write(&copy, fs::read(image.path()).unwrap()).unwrap();
    fs::copy(sidecar, image.directory().join(format!("{name}.pi"))).unwrap();
    copy
}

fn rebind(image: &Path) -> Finished {
    finish(Command::new(PROGRAM).arg("rebind").arg(image))
}

#[test]
fn an_image_that_has_lost_its_uuid_gets_it_back_when_all_blocks_match() {
    let image = written_image();
    let copy = copied(&image, &image.sidecar_path(), "copy.img");
    let check = || finish(Command::new(PROGRAM).arg("check").arg(&copy));
    assert!(check().stderr.contains("carries no UUID"), "{}", check().stderr);
    let done = rebind(&copy);
    assert_eq!(done.code, Some(0), "{}{}", done.stdout, done.stderr);
    assert!(done.stdout.contains("all 1024 blocks match"), "{}", done.stdout);
    assert_eq!((check().code, check().stderr.as_str()), (Some(0), ""));
    assert!(rebind(&copy).stdout.contains("already"));

    // with the sidecar of another image, or with damage, it stays without
    let other = written_image();
    image.flip_bit(77 * 4096);
    for (sidecar, name) in [(other.sidecar_path(), "other.img"), (image.sidecar_path(), "damaged.img")] {
        let copy = copied(&image, &sidecar, name);
        let refused = rebind(&copy);
        assert_eq!(refused.code, Some(1), "{}{}", refused.stdout, refused.stderr);
        assert!(refused.stdout.contains("LBA 77 (byte 315392)"), "{}", refused.stdout);
        let check = finish(Command::new(PROGRAM).arg("check").arg(&copy));
        assert!(check.stderr.contains("carries no UUID"), "{}", check.stderr);
    }
}

#[test]
fn a_write_of_a_part_of_a_damaged_block_is_explained() {
    let image = written_image();
    image.flip_bit(5 * 4096);
    let mut vm = Setup::of(&image).start();
    for _ in 0..8 {
        assert_eq!(vm.queue.try_write(5 * SECTORS + 1, &pattern(2, 512)).status, IOERR);
    }
    vm.queue.write(5 * SECTORS, &pattern(3, BLOCK));
    vm.queue.write(5 * SECTORS + 1, &pattern(4, 512));
    let log = vm.stop_clean();
    let explained = "a write of a part of LBA 5 fails, since the rest of that block does not match its tuple";
    assert_eq!(log.matches(explained).count(), 4, "the 1st, 2nd, 4th and 8th: {log}");
    assert!(log.contains("`stableblk restore --lba 5`") && log.contains("accept --lba 5`"), "{log}");
}
