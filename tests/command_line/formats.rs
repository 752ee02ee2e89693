//! Images that are not raw: recognised by their first bytes, and refused by `protect`.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;

use crate::directory::{BLOCK, Directory, MIB};

/// A file of 1 MiB with `magic` at `offset`.
fn with_magic(directory: &Directory, offset: u64, magic: &[u8]) {
    let file = File::create(directory.path("disk")).unwrap();
    file.set_len(MIB as u64).unwrap();
    file.write_all_at(magic, offset).unwrap();
}

#[test]
fn protect_refuses_what_is_no_raw_image_and_names_the_command_that_converts() {
    let raw = "qemu-img convert -O raw disk disk.raw";
    let cases: [(u64, &[u8], &str, &str); 11] = [
        (0, b"QFI\xfb\0\0\0\x03", "qcow2", raw),
        (0, b"QED\0", "qed", raw),
        (0, b"KDMV", "vmdk", raw),
        (0, b"COWD", "vmdk", raw),
        (0, b"# Disk DescriptorFile", "vmdk", raw),
        (0x40, &[0x7f, 0x10, 0xda, 0xbe], "vdi", raw),
        (0, b"vhdxfile", "vhdx", raw),
        (0, b"conectix", "vhd", raw),
        (MIB as u64 - 512, b"conectix", "vhd", raw),
        (0, b"LUKS\xba\xbe\0\x01", "LUKS", "cryptsetup open disk"),
        (0, b"LUKS\xba\xbe\0\x02", "LUKS", "cryptsetup open disk"),
    ];
    for (offset, magic, format, cure) in cases {
        let directory = Directory::new();
        with_magic(&directory, offset, magic);
        directory.stableblk("protect disk").fails(1, &[format, cure, "--force"]);
        assert_eq!(directory.file_names(), ["disk"]);
        directory.stableblk("protect disk --force").succeeds();
        directory.stableblk("check disk").succeeds();
    }
}

#[test]
fn a_sidecar_is_not_protected() {
    let directory = Directory::protected("");
    directory.stableblk("protect disk.pi").fails(1, &["disk.pi is a sidecar", "name its image"]);
    assert_eq!(directory.file_names(), ["disk", "disk.pi"]);
}

#[test]
fn magic_elsewhere_says_nothing() {
    let directory = Directory::new();
    with_magic(&directory, BLOCK as u64, b"QFI\xfb");
    directory.stableblk("protect disk").succeeds();
    fs::write(directory.path("short"), [1; 512]).unwrap();
    directory.stableblk("protect short --interval 512").succeeds();
}
