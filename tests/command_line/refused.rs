//! Images, and places for them, that are no good: named in one line, and nothing is left behind.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::Command;

use tempfile::TempDir;

use crate::directory::{Directory, MIB, NOBODY, PROGRAM, Run, is_root, noise};
use crate::skip::skip;

#[test]
fn files_that_are_no_images_are_refused() {
    let directory = Directory::new();
    fs::create_dir(directory.path("directory")).unwrap();
    rustix::fs::mkfifoat(rustix::fs::CWD, directory.path("fifo"), rustix::fs::Mode::RUSR).unwrap();
    for (command, code) in [("protect", 1), ("check", 2), ("info", 1)] {
        let run = |image: &str| directory.stableblk(&format!("{command} {image}"));
        run("missing").fails(code, &["no image missing", "stableblk create missing --size"]);
        run("directory").fails(code, &["directory is a directory", "regular file or a block device"]);
        run("fifo").fails(code, &["fifo is a FIFO"]);
        run("/dev/null").fails(code, &["/dev/null is a character device"]);
    }
    assert_eq!(directory.file_names(), ["directory", "fifo"]);
}

#[test]
fn missing_permission_is_named_with_the_file() {
    if !is_root() {
        skip("only root can become somebody without permission");
        return;
    }
    // the user `NOBODY` may have no access to the target directory and the program in it
    let directory = Directory(TempDir::new_in("/tmp").unwrap());
    let program = directory.path("stableblk");
    // a file that is open for writing here is so for a moment in what another test starts, and
    // cannot be run meanwhile
    assert!(Command::new("cp").arg(PROGRAM).arg(&program).status().unwrap().success());
    directory.image("disk");
    directory.stableblk("protect disk").succeeds();
    let as_nobody = |arguments: &str| {
        let mut command = Command::new(&program);
        command.current_dir(directory.0.path()).args(arguments.split_whitespace()).uid(NOBODY).gid(NOBODY);
        Run::of(command)
    };
    fs::set_permissions(directory.0.path(), fs::Permissions::from_mode(0o755)).unwrap();
    fs::set_permissions(directory.path("disk"), fs::Permissions::from_mode(0o600)).unwrap();
    as_nobody("check disk").fails(2, &["no permission to read disk", "owner or mode"]);
    fs::set_permissions(directory.path("disk"), fs::Permissions::from_mode(0o644)).unwrap();
    fs::set_permissions(directory.path("disk.pi"), fs::Permissions::from_mode(0o600)).unwrap();
    as_nobody("check disk").fails(2, &["no permission to read disk.pi"]);
    as_nobody("protect disk --force").fails(1, &["no permission to write disk"]);
    as_nobody("create new --size 1M").fails(1, &["no permission to create new"]);
    assert_eq!(directory.file_names(), ["disk", "disk.pi", "stableblk"]);
}

/// A file system of 64 KiB, mounted for one test.
struct SmallMount(PathBuf);

impl SmallMount {
    /// `None` where mounting is not allowed.
    fn new(directory: &Directory) -> Option<Self> {
        let path = directory.path("small");
        fs::create_dir(&path).unwrap();
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", "size=64k", "tmpfs"]).arg(&path);
        mount.status().unwrap().success().then_some(Self(path))
    }
}

impl Drop for SmallMount {
    fn drop(&mut self) {
        // lazily: for a moment what another test starts has open what we have
        Command::new("umount").arg("--lazy").arg(&self.0).status().unwrap();
    }
}

#[test]
fn full_disk_is_named_and_nothing_is_left_on_it() {
    let directory = Directory::new();
    let Some(small) = SmallMount::new(&directory) else {
        skip("mounting is not allowed");
        return;
    };
    fs::write(directory.path("disk"), noise(32 * MIB)).unwrap();
    directory
        .stableblk("protect disk --integrity small/disk.pi")
        .fails(1, &["no space left for small/disk.pi", "another file system"]);
    assert_eq!(fs::read_dir(&small.0).unwrap().count(), 0);
    fs::write(small.0.join("filler"), vec![1; 64 << 10]).unwrap();
    directory
        .stableblk("create new --size 1M --integrity small/new.pi")
        .fails(1, &["no space left for small/new.pi"]);
    assert_eq!(fs::read_dir(&small.0).unwrap().count(), 1);
    assert_eq!(directory.file_names(), ["disk", "small"]);
}

/// Each queue opens the image once more by it, so a guest would find a disk that does nothing.
#[test]
fn without_proc_nothing_is_served() {
    let directory = Directory::protected("");
    let taken_away = Command::new("unshare").args(["--mount", "umount", "--lazy", "/proc"]).status();
    if !taken_away.is_ok_and(|status| status.success()) {
        skip("/proc cannot be taken away from a process");
        return;
    }
    let mut command = Command::new("timeout");
    command.args([
        "10",
        "unshare",
        "--mount",
        "sh",
        "-c",
        "umount --lazy /proc && exec \"$@\"",
        "sh",
        PROGRAM,
    ]);
    command.arg("--socket-path").arg(directory.path("socket")).arg("--blk-file").arg(directory.path("disk"));
    Run::of(command).fails(1, &["cannot open the image once more, by /proc/self/fd", "No such file"]);
    assert!(!directory.path("socket").exists());
}
