//! `protect` replaces a sidecar of the image's own and nothing else, and an image that was
//! protected is not taken for one that was not.

use std::fs;
use std::os::unix::fs::{FileTypeExt, symlink};

use rustix::fs::{CWD, FileType, FlockOperation, Mode, flock, mknodat};

use crate::directory::{BLOCK, Directory, is_root, open};
use crate::sidecar_bytes::superblock;
use crate::skip::skip;

fn uuid(directory: &Directory, sidecar: &str) -> String {
    uuid::Uuid::from_bytes(superblock(&directory.path(sidecar)).uuid()).to_string()
}

/// `protect --force disk --integrity NAME` is refused with these words, and so is it without
/// `--force`.
fn is_left_alone(directory: &Directory, name: &str, words: &[&str]) {
    let before = directory.path(name).metadata().unwrap();
    let content = before.is_file().then(|| fs::read(directory.path(name)).unwrap());
    for option in ["--force", ""] {
        directory.stableblk(&format!("protect {option} disk --integrity {name}")).fails(1, words);
        let after = directory.path(name).metadata().unwrap();
        assert_eq!(after.file_type(), before.file_type(), "{name}");
        if let Some(content) = &content {
            assert!(fs::read(directory.path(name)).unwrap() == *content, "{name} has changed");
        }
    }
}

#[test]
fn force_replaces_nothing_but_a_sidecar_of_this_image() {
    let directory = Directory::protected("");
    directory.image("other");
    directory.stableblk("protect other").succeeds();
    fs::write(directory.path("notes.pi"), "precious").unwrap();
    fs::write(directory.path("empty"), "").unwrap();
    fs::hard_link(directory.path("disk"), directory.path("same")).unwrap();
    symlink("other", directory.path("link")).unwrap();
    mknodat(CWD, directory.path("fifo"), FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
    let other = uuid(&directory, "other.pi");
    is_left_alone(&directory, "disk", &["disk is the image itself", "--integrity PATH"]);
    is_left_alone(&directory, "same", &["same is the image itself"]);
    is_left_alone(&directory, "other", &["other is another image", &other, "--integrity PATH"]);
    is_left_alone(&directory, "link", &["link is another image", &other]);
    let served = open(&directory.path("other"));
    flock(&served, FlockOperation::NonBlockingLockShared).unwrap();
    let me = format!("(pid {})", std::process::id());
    is_left_alone(&directory, "other", &["other is another image", "in use by", &me]);
    drop(served);
    fs::write(directory.path("qcow"), b"QFI\xfb").unwrap();
    is_left_alone(&directory, "qcow", &["qcow is a qcow2 image, not a sidecar"]);
    is_left_alone(&directory, "other.pi", &["other.pi is the sidecar of another image", &other]);
    is_left_alone(&directory, "notes.pi", &["notes.pi is not a sidecar"]);
    is_left_alone(&directory, "empty", &["empty is not a sidecar"]);
    is_left_alone(&directory, "fifo", &["fifo is a FIFO"]);
    assert!(directory.path("fifo").metadata().unwrap().file_type().is_fifo());
    if is_root() {
        let null = rustix::fs::makedev(1, 3);
        mknodat(CWD, directory.path("null"), FileType::CharacterDevice, Mode::RUSR, null).unwrap();
        is_left_alone(&directory, "null", &["null is a character device"]);
    } else {
        skip("only root can make a device node");
    }
    directory.stableblk("check disk").succeeds();
    directory.stableblk("check other").succeeds();
}

#[test]
fn a_file_of_the_users_in_the_place_of_the_sidecar_stays() {
    let directory = Directory::new();
    directory.image("disk");
    fs::write(directory.path("disk.pi"), "my notes").unwrap();
    for option in ["", "--force"] {
        directory
            .stableblk(&format!("protect {option} disk"))
            .fails(1, &["disk.pi is not a sidecar", "move it away"]);
    }
    assert_eq!(fs::read(directory.path("disk.pi")).unwrap(), b"my notes");
}

#[test]
fn a_sidecar_in_use_is_not_replaced() {
    let directory = Directory::protected("");
    let before = fs::read(directory.path("disk.pi")).unwrap();
    let sidecar = open(&directory.path("disk.pi"));
    flock(&sidecar, FlockOperation::NonBlockingLockShared).unwrap();
    directory.stableblk("protect disk --force").fails(1, &["disk.pi is in use by", "stop that first"]);
    assert!(fs::read(directory.path("disk.pi")).unwrap() == before);
}

#[test]
fn a_renamed_image_is_not_protected_as_if_it_never_was() {
    let directory = Directory::protected("");
    directory.flip_bit("disk", 16 * BLOCK as u64);
    fs::rename(directory.path("disk"), directory.path("vm")).unwrap();
    let uuid = uuid(&directory, "disk.pi");
    let words =
        [&uuid, "--integrity disk.pi", "stableblk protect --force vm", "takes what it holds now as right"];
    directory.stableblk("protect vm").fails(1, &words);
    directory.stableblk("check vm").fails(2, &words);
    directory.stableblk("info vm").fails(1, &words);
    assert_eq!(directory.file_names(), ["disk.pi", "vm"]);
    // the command that it names is the cure
    let check = directory.stableblk("check vm --integrity disk.pi --json");
    assert_eq!(check.json()["mismatched_blocks"], 1);
}

#[test]
fn a_lost_sidecar_is_said_to_be_lost() {
    let directory = Directory::protected("");
    let uuid = uuid(&directory, "disk.pi");
    fs::remove_file(directory.path("disk.pi")).unwrap();
    for (command, code) in [("protect disk", 1), ("check disk", 2), ("protect disk --integrity mistyped", 1)]
    {
        directory.stableblk(command).fails(code, &[&uuid, "no sidecar with that UUID", "protect --force"]);
    }
    assert_eq!(directory.file_names(), ["disk"]);
    directory.stableblk("protect disk --force").succeeds();
    directory.stableblk("check disk").succeeds();
}

#[test]
fn a_foreign_sidecar_names_the_right_one() {
    let directory = Directory::protected("");
    directory.image("other");
    directory.stableblk("protect other").succeeds();
    directory
        .stableblk("check disk --integrity other.pi")
        .fails(2, &["sidecar of another image", "--integrity disk.pi"]);
}

#[test]
fn an_image_behind_a_symbolic_link_has_its_sidecar_there() {
    let directory = Directory::new();
    fs::create_dir(directory.path("real")).unwrap();
    directory.image("real/disk");
    symlink("real/disk", directory.path("link")).unwrap();
    directory.stableblk("protect link").succeeds();
    assert_eq!(directory.file_names(), ["link", "real"]);
    directory.stableblk("check link").succeeds();
    directory.stableblk("check real/disk").succeeds();
    directory.stableblk("protect link").fails(1, &["real/disk.pi exists already"]);
    // one beside the link comes first
    fs::rename(directory.path("real/disk.pi"), directory.path("link.pi")).unwrap();
    directory.stableblk("check link").succeeds();
    directory.stableblk("check real/disk").fails(2, &["was protected"]);
}

#[test]
fn a_sidecar_behind_a_symbolic_link_is_replaced_where_it_is() {
    let directory = Directory::protected("");
    fs::create_dir(directory.path("fast")).unwrap();
    fs::rename(directory.path("disk.pi"), directory.path("fast/disk.pi")).unwrap();
    symlink("fast/disk.pi", directory.path("disk.pi")).unwrap();
    directory.stableblk("protect disk --force").succeeds();
    assert!(directory.path("disk.pi").symlink_metadata().unwrap().is_symlink());
    directory.stableblk("check disk").succeeds();
}

#[test]
fn what_force_accepts_is_reported() {
    for options in ["", "--guard t10"] {
        let directory = Directory::protected("");
        directory.write_at("disk", 700 * BLOCK as u64, &[0xAA; 3 * BLOCK]);
        directory.flip_bit("disk", 20 * BLOCK as u64);
        let run = directory.stableblk(&format!("protect disk --force {options}"));
        run.succeeds();
        for words in [
            "LBA 20 (byte 81920): guard tag error",
            "LBA 700-702 (3 blocks from byte 2867200): guard tag error",
            "4 of 1024 blocks do not match the old sidecar disk.pi and are accepted as they are",
        ] {
            assert!(run.stdout.contains(words), "{words:?} is not in: {}", run.stdout);
        }
        directory.stableblk("check disk").succeeds();
    }
}

#[test]
fn the_report_of_what_force_accepts_is_bounded() {
    let directory = Directory::protected("");
    for block in (512..768).step_by(2) {
        directory.flip_bit("disk", block * BLOCK as u64);
    }
    let run = directory.stableblk("protect disk --force");
    run.succeeds();
    assert!(run.stdout.contains("128 of 1024 blocks do not match"), "{}", run.stdout);
    assert!(run.stdout.contains("and 28 more ranges"), "{}", run.stdout);
    assert!(run.stdout.lines().count() < 110, "{}", run.stdout);
}

#[test]
fn force_compares_with_a_sidecar_that_was_found_beside() {
    let directory = Directory::protected("");
    directory.flip_bit("disk", 20 * BLOCK as u64);
    fs::rename(directory.path("disk"), directory.path("vm")).unwrap();
    let run = directory.stableblk("protect vm --force");
    run.succeeds();
    assert!(run.stdout.contains("1 of 1024 blocks do not match the old sidecar disk.pi"), "{}", run.stdout);
    assert_eq!(directory.file_names(), ["disk.pi", "vm", "vm.pi"]);
}

#[test]
fn force_says_when_there_was_nothing_to_compare_with() {
    let directory = Directory::protected("");
    for copy in [0, 4096] {
        directory.flip_bit("disk.pi", copy + 35);
    }
    let run = directory.stableblk("protect disk --force");
    assert_eq!(run.code, 0, "{}", run.stderr);
    assert!(run.stdout.contains("cannot be compared with the old sidecar disk.pi"), "{}", run.stdout);
    directory.stableblk("check disk").succeeds();
}

#[test]
fn an_attribute_that_holds_no_uuid_names_its_cure() {
    let directory = Directory::protected("");
    let flags = rustix::fs::XattrFlags::empty();
    rustix::fs::setxattr(directory.path("disk"), "user.stableblk.uuid", b"garbage", flags).unwrap();
    for (command, code) in [("check disk", 2), ("protect disk --force", 1)] {
        directory
            .stableblk(command)
            .fails(code, &["disk", "holds no UUID", "setfattr -x user.stableblk.uuid"]);
    }
}
