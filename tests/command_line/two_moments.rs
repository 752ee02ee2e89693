//! A sidecar of another moment than its image: refused by each command with the same exit status,
//! until a person accepts it.

use std::fs;

use integrity::sidecar::{self, IntentMode, Rules};
use stableblk::storage::image::{Access, DirectIo, Image};
use stableblk::storage::sidecar_file::SidecarFile;

use crate::directory::{Directory, MIB};

const TWO_MOMENTS: i32 = 4;

/// One session of the disk, in which nothing is written.
fn session(directory: &Directory, close: bool) {
    let image = Image::open(&directory.path("disk"), Access::ReadWrite, DirectIo::Never).unwrap();
    let sidecar = SidecarFile::open(&directory.path("disk.pi"), &image, Access::ReadWrite).unwrap();
    let mut opened = sidecar::open(sidecar.media(), IntentMode::Region, MIB, Rules::all()).unwrap();
    if close {
        sidecar::close(&mut opened.journal, sidecar.media()).unwrap();
    }
}

fn stamp(directory: &Directory) -> String {
    let mut text = [0; 128];
    let len = rustix::fs::getxattr(directory.path("disk"), "user.stableblk.session", &mut text[..]).unwrap();
    let text = str::from_utf8(&text[..len]).unwrap().to_owned();
    text.split_once(' ').expect("a UUID first").1.to_owned()
}

fn refuses(directory: &Directory, command: &str) {
    let words = ["disk.pi and its image are of two moments", "stableblk accept --force"];
    directory.stableblk(command).fails(TWO_MOMENTS, &words);
}

#[test]
fn the_image_carries_its_last_session() {
    let directory = Directory::protected("");
    session(&directory, true);
    assert_eq!(stamp(&directory), "2 closed");
    session(&directory, false);
    assert_eq!(stamp(&directory), "3 open");
    directory.stableblk("check disk --recover").succeeds();
    assert_eq!(stamp(&directory), "4 closed");
}

#[test]
fn a_sidecar_of_another_session_is_refused_until_it_is_accepted() {
    let directory = Directory::protected("");
    session(&directory, true);
    fs::copy(directory.path("disk.pi"), directory.path("old.pi")).unwrap();
    session(&directory, true);
    fs::copy(directory.path("old.pi"), directory.path("disk.pi")).unwrap();
    let before = fs::read(directory.path("disk.pi")).unwrap();
    for args in ["", " --recover"] {
        let check = directory.stableblk(&format!("check disk{args}"));
        assert_eq!(check.code, TWO_MOMENTS, "{}", check.stdout);
        let reason = "the sidecar is of session 2 (closed), the image of session 3 (closed)";
        assert!(check.stdout.contains(reason), "{}", check.stdout);
    }
    let refused = directory.stableblk("check disk --json").json()["refused"].clone();
    assert!(refused.as_str().unwrap().contains("session 3"), "{refused}");
    refuses(&directory, "--socket-path s --blk-file disk");
    refuses(&directory, "--socket-path s --blk-file disk --read-only");
    refuses(&directory, "resize disk --size 8M");
    refuses(&directory, "accept disk --adopted");
    assert!(fs::read(directory.path("disk.pi")).unwrap() == before, "a refused sidecar was written");

    let accepted = directory.stableblk("accept disk --force");
    assert!(accepted.succeeds().stdout.contains("session 3"), "{}", accepted.stdout);
    assert!(accepted.stdout.contains("nothing is adopted"), "{}", accepted.stdout);
    directory.stableblk("check disk").succeeds();
    assert_eq!(stamp(&directory), "3 closed");
}

#[test]
fn a_sidecar_that_was_copied_while_it_was_open_is_refused_beside_a_closed_image() {
    let directory = Directory::protected("");
    session(&directory, false);
    fs::copy(directory.path("disk.pi"), directory.path("live.pi")).unwrap();
    directory.stableblk("check disk --recover").succeeds();
    fs::copy(directory.path("live.pi"), directory.path("disk.pi")).unwrap();
    assert_eq!(directory.stableblk("check disk").code, TWO_MOMENTS);
    // without the attribute nothing is known of its session, and all of it matches
    rustix::fs::removexattr(directory.path("disk"), "user.stableblk.session").unwrap();
    directory.stableblk("check disk").succeeds();
}

#[test]
fn accept_says_what_it_needs() {
    let directory = Directory::protected("");
    let refused = directory.stableblk("accept disk");
    assert_eq!(refused.code, 2);
    assert!(refused.stderr.contains("--adopted") && refused.stderr.contains("--force"), "{}", refused.stderr);
}
