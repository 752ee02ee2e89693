//! `copy`: a copy is as good as its image, and says where it is not.

use std::fs;
use std::os::unix::fs::MetadataExt;

use crate::directory::{BLOCK, Directory, MIB, is_root, noise};

fn info(directory: &Directory, name: &str) -> serde_json::Value {
    directory.stableblk(&format!("info {name} --json")).json()
}

#[test]
fn a_copy_has_the_bytes_the_tuples_and_a_uuid_of_its_own() {
    for options in ["", "--guard t10 --interval 512", "--guard crc32c"] {
        let directory = Directory::protected(options);
        directory.stableblk("copy disk copy").succeeds();
        directory.stableblk("check copy").succeeds();
        assert!(fs::read(directory.path("disk")).unwrap() == fs::read(directory.path("copy")).unwrap());
        let (image, copy) = (info(&directory, "disk"), info(&directory, "copy"));
        assert_ne!(image["uuid"], copy["uuid"]);
        assert_eq!(image["guard"], copy["guard"]);
        assert_eq!((&copy["state"], &image["interval_size"]), (&"clean".into(), &copy["interval_size"]));
        // the tuples are those of the image, not new ones: a bit that flips in the copy is found
        directory.flip_bit("copy", 2 * MIB as u64 + 5);
        assert_eq!(directory.stableblk("check copy").code, 1);
        directory.stableblk("check disk").succeeds();
        // and the copy can be copied, by any name
        directory.stableblk("copy disk ./again --json").succeeds();
    }
}

#[test]
fn holes_and_zeros_are_holes_in_the_copy() {
    let directory = Directory::new();
    let size = 64 * MIB;
    fs::write(directory.path("disk"), vec![0; size]).unwrap();
    directory.write_at("disk", 5 * MIB as u64, &noise(BLOCK));
    directory.stableblk("protect disk").succeeds();
    directory.stableblk("copy disk copy").succeeds();
    directory.stableblk("check copy").succeeds();
    let copy = fs::metadata(directory.path("copy")).unwrap();
    assert_eq!(copy.len(), size as u64);
    assert!(copy.blocks() * 512 <= MIB as u64, "{} bytes", copy.blocks() * 512);
}

#[test]
fn damage_is_copied_with_its_tuples_and_reported() {
    let directory = Directory::protected("");
    directory.flip_bit("disk", 2 * MIB as u64 + 123);
    directory.forge_tuple(20, |tuple| tuple[15] ^= 1);
    directory.write_at("disk", 40 * BLOCK as u64, b"stray write");
    let copied = directory.stableblk("copy disk copy --json");
    assert_eq!((copied.code, &copied.json()["mismatched_blocks"]), (1, &3.into()));
    let ranges = |name: &str| {
        let check = directory.stableblk(&format!("check {name} --json"));
        assert_eq!(check.code, 1);
        check.json()["ranges"].clone()
    };
    assert_eq!(ranges("copy"), ranges("disk"));
    let shown = directory.stableblk("copy disk other");
    assert!(shown.stdout.contains("LBA 512 (byte 2097152): guard tag error"), "{}", shown.stdout);
    assert!(shown.stdout.contains("other: copied"), "{}", shown.stdout);
}

#[test]
fn rotten_tuples_stay_lost() {
    let directory = Directory::protected("");
    let sidecar = crate::sidecar_bytes::superblock(&directory.path("disk.pi"));
    let tuples = crate::sidecar_bytes::tuple_offset(sidecar.layout(), 16);
    directory.flip_bit("disk.pi", tuples);
    assert_eq!(directory.stableblk("copy disk copy").code, 1);
    let check = directory.stableblk("check copy --json").json();
    assert_eq!(check["ranges"][0]["check"], "tuple_lost", "{check}");
}

#[test]
fn nothing_is_left_where_no_copy_can_be_made() {
    let directory = Directory::protected("");
    directory.image("plain");
    fs::write(directory.path("taken.pi"), b"").unwrap();
    let before = directory.file_names();
    directory.stableblk("copy disk disk").fails(2, &["exists", "choose another name"]);
    directory.stableblk("copy disk taken").fails(2, &["taken.pi", "exists"]);
    directory.stableblk("copy plain copy").fails(2, &["plain.pi"]);
    directory.stableblk("copy nothing copy").fails(2, &["nothing"]);
    directory.stableblk("copy disk no/such/directory").fails(2, &["no/such/directory"]);
    assert_eq!(directory.file_names(), before);
}

#[test]
fn a_copy_belongs_to_the_owner_of_the_image() {
    if !is_root() {
        return crate::skip::skip("only root can give files away");
    }
    let directory = Directory::protected("");
    std::os::unix::fs::chown(directory.path("disk"), Some(1234), Some(1235)).unwrap();
    directory.stableblk("copy disk copy").succeeds();
    for name in ["copy", "copy.pi"] {
        let file = fs::metadata(directory.path(name)).unwrap();
        assert_eq!((file.uid(), file.gid()), (1234, 1235), "{name}");
    }
}
