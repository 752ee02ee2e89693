//! `protect`: the blocks it treats as written, the files it refuses, and the files it leaves
//! unchanged.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};

use crate::directory::{BLOCK, Directory, MIB, NOBODY, is_root, noise};
use crate::skip::skip;

#[test]
fn protect_tells_data_from_holes_and_leaves_the_image_as_it_is() {
    let directory = Directory::new();
    directory.image("disk");
    let before = fs::read(directory.path("disk")).unwrap();
    directory.stableblk("protect disk").succeeds();
    assert_eq!(fs::read(directory.path("disk")).unwrap(), before);
    assert_eq!(directory.file_names(), ["disk", "disk.pi"]);
    let info = directory.stableblk("info disk --json").succeeds().json();
    assert_eq!((&info["written_blocks"], &info["unwritten_blocks"]), (&272.into(), &752.into()));
    directory.stableblk("check disk").succeeds();
}

#[test]
fn protect_takes_written_zeros_for_unwritten() {
    let directory = Directory::new();
    fs::write(directory.path("disk"), [[0; BLOCK], [1; BLOCK]].concat()).unwrap();
    directory.stableblk("protect disk").succeeds();
    let info = directory.stableblk("info disk --json").json();
    assert_eq!((&info["written_blocks"], &info["unwritten_blocks"]), (&1.into(), &1.into()));
}

#[test]
fn last_interval_of_an_odd_size_is_protected_too() {
    let directory = Directory::new();
    let data = noise(3 * MIB + 512);
    fs::write(directory.path("disk"), &data).unwrap();
    directory.stableblk("protect disk --interval 512").succeeds();
    directory.stableblk("check disk").succeeds();
    directory.flip_bit("disk", data.len() as u64 - 1);
    let report = directory.stableblk("check disk --json").json();
    assert_eq!(report["ranges"][0]["first_lba"], 3 * MIB / 512);
    assert_eq!(report["mismatched_blocks"], 1);
}

#[test]
fn protect_refuses_an_image_that_ends_within_an_interval() {
    let directory = Directory::new();
    fs::write(directory.path("sectors"), [1; 1536]).unwrap();
    directory
        .stableblk("protect sectors")
        .fails(1, &["1536 bytes", "--interval 512", "truncate -s %4096 sectors"]);
    fs::write(directory.path("bytes"), [1; 1000]).unwrap();
    directory.stableblk("protect bytes").fails(1, &["1000 bytes", "truncate -s %4096 bytes"]);
    fs::write(directory.path("empty"), "").unwrap();
    directory.stableblk("protect empty").fails(1, &["0 bytes", "truncate -s"]);
    assert_eq!(directory.file_names(), ["bytes", "empty", "sectors"]);
}

#[test]
fn protect_replaces_a_sidecar_only_by_force() {
    let directory = Directory::protected("");
    directory.flip_bit("disk", 16 * BLOCK as u64);
    let before = fs::read(directory.path("disk.pi")).unwrap();
    directory.stableblk("protect disk").fails(1, &["disk.pi", "exists already", "--force"]);
    assert_eq!(fs::read(directory.path("disk.pi")).unwrap(), before);
    directory.stableblk("protect disk --force").succeeds();
    directory.stableblk("check disk").succeeds();
    assert_eq!(directory.file_names(), ["disk", "disk.pi"]);
}

#[test]
fn protect_gives_the_sidecar_the_owner_and_mode_of_the_image() {
    if !is_root() {
        skip("only root can give files away");
        return;
    }
    for (mode, expected) in [(0o600, 0o600), (0o640, 0o640), (0o664, 0o660)] {
        let directory = Directory::new();
        directory.image("disk");
        fs::set_permissions(directory.path("disk"), fs::Permissions::from_mode(mode)).unwrap();
        std::os::unix::fs::chown(directory.path("disk"), Some(NOBODY), Some(NOBODY)).unwrap();
        directory.stableblk("protect disk").succeeds();
        let sidecar = directory.path("disk.pi").metadata().unwrap();
        assert_eq!((sidecar.uid(), sidecar.gid(), sidecar.mode() & 0o777), (NOBODY, NOBODY, expected));
    }
}
