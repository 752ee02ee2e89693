//! The sidecar file: its place, its image, and the checks of its content.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::process::Command;

use integrity::sidecar::{self, IntentMode, Opened, Rules, SUPERBLOCK_SIZE};
use rustix::fs::{FlockOperation, flock};
use serde_json::Value;
use stableblk::storage::image::{Access, DirectIo, Image};
use stableblk::storage::sidecar_file::SidecarFile;

use crate::directory::{Directory, MIB, open};
use crate::sidecar_bytes::superblock;

#[test]
fn one_copy_of_the_superblock_is_enough() {
    for copy in [0, 1] {
        let directory = Directory::protected("");
        directory.flip_bit("disk.pi", copy * SUPERBLOCK_SIZE + 35);
        let words = format!("superblock {copy} of disk.pi is damaged");
        directory.stableblk("check disk").succeeds_with_warning(&words);
        let info = directory.stableblk("info disk --json");
        info.succeeds_with_warning(&words);
        assert_eq!(info.json()["damaged_superblock"]["copy"], copy);
        let info = directory.stableblk("info disk");
        assert!(info.stdout.contains(&format!("damaged    superblock {copy}: damaged superblock: CRC-64")));
    }
}

#[test]
fn sidecar_can_be_elsewhere() {
    let directory = Directory::new();
    directory.image("disk");
    fs::create_dir(directory.path("pi")).unwrap();
    directory.stableblk("protect disk --integrity pi/a").succeeds();
    assert_eq!(directory.file_names(), ["disk", "pi"]);
    directory.stableblk("check disk --integrity pi/a").succeeds();
    directory.stableblk("info disk --integrity pi/a").succeeds();
    directory
        .stableblk("check disk --integrity pi/b")
        .fails(2, &["disk has no sidecar pi/b", "was protected before", "--integrity PATH"]);
}

fn in_both_copies(spoil: impl Fn(u64)) {
    [0, SUPERBLOCK_SIZE].into_iter().for_each(spoil);
}

/// Each way to spoil the sidecar of `disk`, and what `check` has to say then.
#[test]
fn check_refuses_a_sidecar_that_cannot_be_right() {
    type Spoil = fn(&Directory);
    let cases: [(Spoil, &[&str]); 9] = [
        (
            |it| fs::remove_file(it.path("disk.pi")).unwrap(),
            &["disk has no sidecar disk.pi", "stableblk protect --force disk"],
        ),
        (
            |it| open(&it.path("disk.pi")).set_len(9000).unwrap(),
            &["disk.pi is truncated", "9000", "protect --force"],
        ),
        (|it| open(&it.path("disk.pi")).set_len(100).unwrap(), &["disk.pi", "100 bytes long"]),
        (
            |it| in_both_copies(|copy| it.write_at("disk.pi", copy + 8, &[0, 0, 0, 1])),
            &["disk.pi", "format version 1 is unknown", "version 2"],
        ),
        (
            |it| in_both_copies(|copy| it.flip_bit("disk.pi", copy + 35)),
            &["disk.pi", "damaged superblock", "stableblk protect --force"],
        ),
        (
            |it| in_both_copies(|copy| it.write_at("disk.pi", copy, b"#!/bin/sh")),
            &["disk.pi", "not a sidecar"],
        ),
        (
            |it| {
                it.image("other");
                it.stableblk("protect other").succeeds();
                fs::copy(it.path("other.pi"), it.path("disk.pi")).unwrap();
            },
            &["disk.pi is the sidecar of another image, not of disk", "UUID", "--integrity PATH"],
        ),
        (
            |it| open(&it.path("disk")).set_len(3 * MIB as u64).unwrap(),
            &["disk is truncated: it has 3145728 bytes", "disk.pi covers 4194304; restore the image"],
        ),
        (
            |it| {
                fs::remove_file(it.path("disk.pi")).unwrap();
                fs::create_dir(it.path("disk.pi")).unwrap();
            },
            &["disk.pi is a directory"],
        ),
    ];
    for (spoil, words) in cases {
        let directory = Directory::protected("");
        spoil(&directory);
        let before =
            directory.path("disk.pi").metadata().ok().map(|sidecar| (sidecar.len(), sidecar.mtime_nsec()));
        directory.stableblk("check disk").fails(2, words);
        directory.stableblk("info disk").fails(1, words);
        let after =
            directory.path("disk.pi").metadata().ok().map(|sidecar| (sidecar.len(), sidecar.mtime_nsec()));
        assert_eq!(after, before);
    }
}

#[test]
fn image_without_its_uuid_is_taken_with_a_warning() {
    let directory = Directory::protected("");
    rustix::fs::removexattr(directory.path("disk"), "user.stableblk.uuid").unwrap();
    directory.stableblk("check disk").succeeds_with_warning("carries no UUID");
    assert_eq!(directory.stableblk("info disk --json").json()["image_has_uuid"], false);
}

/// Waits for a lock that this process has let go: for a moment what another test starts has open
/// what we have.
fn until_unlocked(directory: &Directory, name: &str) {
    let file = open(&directory.path(name));
    flock(&file, FlockOperation::LockExclusive).unwrap();
    flock(&file, FlockOperation::Unlock).unwrap();
}

/// `protect --force` announces the UUID of the new sidecar before it takes the old one's place, and
/// may be killed then.
#[test]
fn either_sidecar_is_the_images_own_while_one_replaces_the_other() {
    let directory = Directory::protected("");
    let uuid = |sidecar| uuid::Uuid::from_bytes(superblock(&directory.path(sidecar)).uuid());
    fs::copy(directory.path("disk.pi"), directory.path("old.pi")).unwrap();
    directory.stableblk("protect disk --force").succeeds();
    directory
        .stableblk("check disk --integrity old.pi")
        .fails(2, &["old.pi is the sidecar of another image"]);

    let image = Image::open(&directory.path("disk"), Access::ReadWrite, DirectIo::Never).unwrap();
    image.set_uuid(uuid("old.pi")).unwrap();
    image.announce_uuid(uuid("disk.pi")).unwrap();
    drop(image);
    until_unlocked(&directory, "disk");
    for sidecar in ["old.pi", "disk.pi"] {
        directory.stableblk(&format!("check disk --integrity {sidecar}")).succeeds();
    }
    // it fails where a killed run would have ended
    fs::create_dir(directory.path("taken")).unwrap();
    directory.stableblk("protect disk --force --integrity taken").fails(1, &["taken"]);
    let image = Image::open(&directory.path("disk"), Access::Inspect, DirectIo::Never).unwrap();
    assert_eq!(image.uuids().unwrap().len(), 2);
    directory.stableblk("check disk --integrity old.pi").succeeds();

    // and another run leaves one
    directory.stableblk("protect disk --force").succeeds();
    directory.stableblk("check disk").succeeds();
    directory
        .stableblk("check disk --integrity old.pi")
        .fails(2, &["old.pi is the sidecar of another image"]);
}

#[test]
fn copy_with_attributes_keeps_its_sidecar() {
    let directory = Directory::protected("");
    let copy = |name: &str, to: &str| {
        let mut cp = Command::new("cp");
        assert!(cp.arg("-a").args([directory.path(name), directory.path(to)]).status().unwrap().success());
    };
    copy("disk", "copy");
    copy("disk.pi", "copy.pi");
    directory.stableblk("check copy").succeeds();
}

#[test]
fn sidecar_is_dirty_while_open_for_writing_and_after_a_crash() {
    let directory = Directory::protected("");
    let state = || {
        let info = directory.stableblk("info disk --json").json();
        (info["state"].clone(), info["intent"].clone())
    };
    let path = directory.path("disk");
    let open = || {
        let image = Image::open(&path, Access::ReadWrite, DirectIo::Never).unwrap();
        let sidecar = SidecarFile::open(&directory.path("disk.pi"), &image, Access::ReadWrite).unwrap();
        (image, sidecar)
    };
    let serve =
        |sidecar: &SidecarFile, mode| sidecar::open(sidecar.media(), mode, MIB, Rules::all()).unwrap();
    let (image, sidecar) = open();
    let Opened { mut journal, .. } = serve(&sidecar, IntentMode::Region);
    assert_eq!(state(), ("dirty".into(), "region".into()));
    sidecar::close(&mut journal, sidecar.media()).unwrap();
    assert_eq!(state(), ("clean".into(), Value::Null));
    serve(&sidecar, IntentMode::Block);
    drop((image, sidecar));
    until_unlocked(&directory, "disk");
    until_unlocked(&directory, "disk.pi");
    assert_eq!(state(), ("dirty".into(), "block".into()));
    directory.stableblk("check disk").succeeds();
    assert_eq!(state().0, "dirty", "a reader changes nothing");
}
