//! `create`: the files that it makes, and that it overwrites none.

use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};

use crate::directory::Directory;
use crate::sidecar_bytes::superblock;

#[test]
fn create_makes_a_sparse_image_of_unwritten_blocks() {
    let directory = Directory::new();
    directory.stableblk("create disk --size 1G").succeeds();
    assert_eq!(directory.file_names(), ["disk", "disk.pi"]);
    let (image, sidecar) =
        (directory.path("disk").metadata().unwrap(), directory.path("disk.pi").metadata().unwrap());
    assert_eq!((image.len(), image.blocks()), (1 << 30, 0));
    let superblock = superblock(&directory.path("disk.pi"));
    let layout = superblock.layout();
    assert_eq!(sidecar.len(), layout.sidecar_size());
    let log = layout.array_offset() - layout.log_offset();
    assert!(sidecar.blocks() * 512 < log + (1 << 20), "the tuples and most of the map are holes");

    let info = directory.stableblk("info disk --json").succeeds().json();
    assert_eq!(info["format"], "raw");
    assert_eq!(info["size"], 1 << 30);
    assert_eq!(info["guard"], "crc64-nvme");
    assert_eq!(info["interval_size"], 4096);
    assert_eq!(info["tuple_size"], 16);
    assert_eq!(info["state"], "clean");
    assert_eq!(info["log"]["pages"], layout.log_pages());
    assert_eq!((&info["written_blocks"], &info["unwritten_blocks"]), (&0.into(), &(1 << 18).into()));
    directory.stableblk("check disk").succeeds();
}

#[test]
fn both_files_are_for_their_owner_alone_or_for_a_group_to_read() {
    for (option, mode) in [("", 0o600), ("--socket-group 0", 0o640)] {
        let directory = Directory::new();
        directory.stableblk(&format!("create disk --size 8K {option}")).succeeds();
        for name in ["disk", "disk.pi"] {
            assert_eq!(directory.path(name).metadata().unwrap().mode() & 0o777, mode, "{name} {option}");
        }
    }
    let directory = Directory::new();
    directory
        .stableblk("create disk --size 8K --socket-group nosuchgroup")
        .fails(1, &["no group nosuchgroup"]);
    assert!(directory.file_names().is_empty());
}

#[test]
fn create_takes_sizes_in_bytes_and_with_units() {
    for (size, bytes) in
        [("8192", 8192), ("512K", 512 << 10), ("3M", 3 << 20), ("1.5GiB", 3 << 29), ("2t", 2 << 40)]
    {
        let directory = Directory::new();
        directory.stableblk(&format!("create disk --size {size}")).succeeds();
        assert_eq!(directory.path("disk").metadata().unwrap().len(), bytes, "{size}");
    }
}

#[test]
fn create_refuses_a_size_that_is_no_multiple_of_the_interval() {
    let directory = Directory::new();
    directory.stableblk("create disk --size 4097").fails(1, &["4097", "4096-byte interval", "--size 8192"]);
    directory.stableblk("create disk --size 0").fails(1, &["--size 4096"]);
    directory
        .stableblk("create disk --size 700 --interval 512")
        .fails(1, &["512-byte interval", "--size 1024"]);
    assert_eq!(directory.file_names(), [""; 0]);
}

#[test]
fn create_overwrites_neither_file() {
    for existing in ["disk", "disk.pi"] {
        let directory = Directory::new();
        fs::write(directory.path(existing), "precious").unwrap();
        directory.stableblk("create disk --size 1M").fails(1, &[existing, "exists already"]);
        assert_eq!(directory.file_names(), [existing]);
        assert_eq!(fs::read(directory.path(existing)).unwrap(), b"precious");
    }
}

#[test]
fn create_overwrites_no_dangling_link() {
    let directory = Directory::new();
    symlink("elsewhere", directory.path("disk.pi")).unwrap();
    directory.stableblk("create disk --size 1M").fails(1, &["disk.pi", "exists already"]);
    assert_eq!(directory.file_names(), ["disk.pi"]);
}

#[test]
fn create_leaves_no_image_without_a_sidecar() {
    let directory = Directory::new();
    directory
        .stableblk("create disk --size 1M --integrity missing/disk.pi")
        .fails(1, &["missing/disk.pi", "No such file or directory"]);
    assert_eq!(directory.file_names(), [""; 0]);
}
