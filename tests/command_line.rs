//! `create`, `protect`, `check` and `info`, as a person runs them.

mod sidecar_bytes;

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use integrity::sidecar::{self, IntentMode, Opened, Rules, SUPERBLOCK_SIZE};
use rustix::fs::FlockOperation;
use serde_json::Value;
use stableblk::image::{Access, DirectIo, Image};
use stableblk::sidecar_file::SidecarFile;
use tempfile::TempDir;

use crate::sidecar_bytes::{flip_bit, forge_tuple, superblock, tuple_offset};

const BLOCK: usize = 4096;
const MIB: usize = 1 << 20;
/// Somebody who is not root.
const NOBODY: u32 = 65534;

/// A directory of its own for each test, on a disk.
struct Directory(TempDir);

impl Directory {
    fn new() -> Self {
        Self(TempDir::new_in(env!("CARGO_TARGET_TMPDIR")).unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// The whole command line, with the directory as the current one.
    fn stableblk(&self, arguments: &str) -> Run {
        Run::of(self.command(arguments))
    }

    fn command(&self, arguments: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_stableblk"));
        command.current_dir(self.0.path()).args(arguments.split_whitespace()).env_remove("RUST_LOG");
        command
    }

    fn file_names(&self) -> Vec<String> {
        let mut names: Vec<_> = fs::read_dir(self.0.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    fn write_at(&self, name: &str, offset: u64, bytes: &[u8]) {
        open(&self.path(name)).write_all_at(bytes, offset).unwrap();
    }

    fn flip_bit(&self, name: &str, offset: u64) {
        flip_bit(&self.path(name), offset);
    }

    /// Changes the tuple of a block of `disk`, in a sector whose checksum is good again.
    fn forge_tuple(&self, block: u64, change: impl FnOnce(&mut [u8])) {
        forge_tuple(&self.path("disk.pi"), block, change);
    }

    /// A 4 MiB image `disk` with data in blocks 16 to 31 and 512 to 767, protected by `protect` and these options.
    fn protected(options: &str) -> Self {
        let directory = Self::new();
        directory.image("disk");
        directory.stableblk(&format!("protect disk {options}")).succeeds();
        directory
    }

    fn image(&self, name: &str) {
        let image = File::create_new(self.path(name)).unwrap();
        image.set_len(4 * MIB as u64).unwrap();
        image.write_all_at(&noise(16 * BLOCK), 16 * BLOCK as u64).unwrap();
        image.write_all_at(&noise(MIB), 2 * MIB as u64).unwrap();
    }
}

fn open(path: &Path) -> File {
    OpenOptions::new().read(true).write(true).open(path).unwrap()
}

/// Bytes of which no block is zero or like another.
fn noise(len: usize) -> Vec<u8> {
    let mut state = 1_u64;
    std::iter::repeat_with(|| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (state >> 56) as u8
    })
    .take(len)
    .collect()
}

/// What became of a command.
struct Run {
    code: i32,
    stdout: String,
    stderr: String,
}

impl Run {
    fn of(mut command: Command) -> Self {
        let Output { status, stdout, stderr } = command.output().unwrap();
        Self {
            code: status.code().expect("not killed by a signal"),
            stdout: String::from_utf8(stdout).unwrap(),
            stderr: String::from_utf8(stderr).unwrap(),
        }
    }

    fn succeeds(&self) -> &Self {
        assert_eq!((self.code, self.stderr.as_str()), (0, ""), "{}", self.stdout);
        self
    }

    fn succeeds_with_warning(&self, words: &str) {
        assert_eq!(self.code, 0, "{}", self.stderr);
        assert!(self.stderr.contains("WARN") && self.stderr.contains(words), "{}", self.stderr);
    }

    /// Fails by one line on stderr that contains all these words.
    fn fails(&self, code: i32, words: &[&str]) {
        assert_eq!(self.code, code, "{}{}", self.stdout, self.stderr);
        assert!(self.stderr.starts_with("stableblk: "), "{}", self.stderr);
        assert_eq!(self.stderr.lines().count(), 1, "{}", self.stderr);
        for word in words {
            assert!(self.stderr.contains(word), "`{word}` is not in: {}", self.stderr);
        }
        assert_eq!(self.stdout, "");
    }

    fn json(&self) -> Value {
        serde_json::from_str(&self.stdout).unwrap()
    }
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

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
fn every_guard_and_interval_finds_a_flipped_bit() {
    for guard in ["crc64", "crc32c", "t10"] {
        for interval in [512, 4096] {
            let directory = Directory::protected(&format!("--guard {guard} --interval {interval}"));
            directory.stableblk("check disk").succeeds();
            let offset = 2 * MIB + 123_457;
            directory.flip_bit("disk", offset as u64);
            let check = directory.stableblk("check disk --json");
            assert_eq!(check.code, 1);
            let report = check.json();
            assert_eq!(report["mismatched_blocks"], 1, "{guard} {interval}");
            assert_eq!(report["ranges"][0]["first_lba"], offset / interval);
            assert_eq!(report["ranges"][0]["last_lba"], offset / interval);
            assert_eq!(report["ranges"][0]["check"], "guard_tag");
        }
    }
}

#[test]
fn check_reports_ranges_with_tag_expected_and_actual() {
    let directory = Directory::protected("");
    directory.write_at("disk", 700 * BLOCK as u64, &[0xAA; 3 * BLOCK]); // data of three blocks
    directory.forge_tuple(20, |tuple| tuple[15] ^= 1); // reference tag
    directory.forge_tuple(24, |tuple| tuple[9] ^= 2); // application tag
    directory.forge_tuple(26, |tuple| tuple[8..10].fill(0xFF)); // escape
    directory.forge_tuple(28, |tuple| tuple.fill(0)); // of a block that was never written
    directory.write_at("disk", 40 * BLOCK as u64, b"stray write"); // data in a hole
    let check = directory.stableblk("check disk");
    assert_eq!(check.code, 1);
    let lines: Vec<_> = check.stdout.lines().collect();
    assert_eq!(
        lines[..5],
        [
            "LBA 20 (byte 81920): reference tag error, expected 000000000014, actual 000000000015",
            "LBA 24 (byte 98304): application tag error, expected 5342, actual 5340",
            "LBA 26 (byte 106496): application tag error, expected 5342, actual ffff",
            "LBA 28 (byte 114688): unwritten block not zero",
            "LBA 40 (byte 163840): unwritten block not zero",
        ]
    );
    assert!(
        lines[5]
            .starts_with("LBA 700-702 (3 blocks from byte 2867200): guard tag error, in the first expected "),
        "{}",
        lines[5]
    );
    assert_eq!(lines[6..], ["disk: 1024 blocks of 4096 bytes, 8 do not match"]);
}

#[test]
fn check_names_the_blocks_whose_tuples_have_rotted() {
    let directory = Directory::protected("");
    let superblock = superblock(&directory.path("disk.pi"));
    let layout = superblock.layout();
    directory.flip_bit("disk.pi", tuple_offset(layout, 600) + 3);
    let report = directory.stableblk("check disk --json").json();
    // a sector has one checksum for all its tuples
    let sector = layout.tuples_per_sector() as u64;
    let first = 600 / sector * sector;
    assert_eq!(report["mismatched_blocks"], sector);
    assert_eq!(report["ranges"][0]["first_lba"], first);
    assert_eq!(report["ranges"][0]["last_lba"], first + sector - 1);
    assert_eq!(report["ranges"][0]["check"], "tuple_lost");
    assert_eq!(directory.stableblk("info disk --json").json()["lost_blocks"], sector);
    let info = directory.stableblk("info disk");
    assert!(info.stdout.contains(", 31 with their tuples lost"), "{}", info.stdout);
}

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
fn check_joins_a_range_that_several_threads_found() {
    let directory = Directory::new();
    directory.stableblk("create disk --size 64M").succeeds();
    directory.write_at("disk", 0, &noise(64 * MIB));
    let report = directory.stableblk("check disk --json").json();
    assert_eq!(report["mismatched_blocks"], 16384);
    assert_eq!(report["ranges"].as_array().unwrap().len(), 1);
    assert_eq!(report["ranges"][0]["last_lba"], 16383);
}

#[test]
fn check_finds_a_hole_that_took_the_place_of_data() {
    let directory = Directory::protected("");
    let image = open(&directory.path("disk"));
    image.set_len(2 * MIB as u64).unwrap();
    image.set_len(4 * MIB as u64).unwrap();
    let report = directory.stableblk("check disk --json").json();
    assert_eq!(report["ranges"][0]["first_lba"], 512);
    assert_eq!(report["ranges"][0]["last_lba"], 767);
    assert_eq!(report["ranges"][0]["check"], "guard_tag");
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
fn holes_cost_no_time() {
    let directory = Directory::new();
    let start = Instant::now();
    directory.stableblk("create disk --size 8T").succeeds();
    directory.write_at("disk", 5 << 40, &noise(BLOCK));
    directory.stableblk("protect disk --force").succeeds();
    directory.stableblk("check disk").succeeds();
    assert_eq!(directory.stableblk("info disk --json").json()["written_blocks"], 1);
    // reading it all, or the 32 GiB of its tuples, takes far longer
    assert!(start.elapsed() < Duration::from_secs(10), "{:?}", start.elapsed());
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
        .fails(2, &["disk has no sidecar pi/b", "stableblk protect disk --integrity pi/b"]);
}

#[test]
fn protect_gives_the_sidecar_the_owner_and_mode_of_the_image() {
    if !is_root() {
        eprintln!("skipped: only root can give files away");
        return;
    }
    let directory = Directory::new();
    directory.image("disk");
    fs::set_permissions(directory.path("disk"), fs::Permissions::from_mode(0o640)).unwrap();
    std::os::unix::fs::chown(directory.path("disk"), Some(NOBODY), Some(NOBODY)).unwrap();
    directory.stableblk("protect disk").succeeds();
    let sidecar = directory.path("disk.pi").metadata().unwrap();
    assert_eq!((sidecar.uid(), sidecar.gid(), sidecar.mode() & 0o777), (NOBODY, NOBODY, 0o640));
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
            &["disk has no sidecar disk.pi", "stableblk protect disk"],
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
            |it| open(&it.path("disk")).set_len(5 * MIB as u64).unwrap(),
            &[
                "disk.pi is the sidecar of an image of 4194304 bytes, but disk has 5242880",
                "stableblk resize",
            ],
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
fn images_that_are_none_are_refused() {
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
        eprintln!("skipped: only root can become somebody without permission");
        return;
    }
    // nobody may have no way to the target directory, nor to the program in it
    let directory = Directory(TempDir::new_in("/tmp").unwrap());
    let program = directory.path("stableblk");
    fs::copy(env!("CARGO_BIN_EXE_stableblk"), &program).unwrap();
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

#[test]
fn image_in_use_is_refused_by_its_holder() {
    let directory = Directory::protected("");
    let image = open(&directory.path("disk"));
    rustix::fs::flock(&image, FlockOperation::NonBlockingLockExclusive).unwrap();
    let me = format!("(pid {})", std::process::id());
    let start = Instant::now();
    directory.stableblk("check disk").fails(2, &["disk is in use by", &me]);
    directory.stableblk("protect disk --force").fails(1, &["disk is in use by", &me]);
    assert!(start.elapsed() < Duration::from_secs(3), "a living holder is not waited for");
    let info = directory.stableblk("info disk --json").succeeds().json();
    assert!(info["in_use_by"].as_str().unwrap().contains(&me));
}

#[test]
fn readers_do_not_exclude_each_other() {
    let directory = Directory::protected("");
    let image = open(&directory.path("disk"));
    rustix::fs::flock(&image, FlockOperation::NonBlockingLockShared).unwrap();
    directory.stableblk("check disk").succeeds();
    directory.stableblk("protect disk --force").fails(1, &["disk is in use by"]);
}

/// Locks `disk` and is killed, while the open file description lives on for `seconds`, as requests of `io_uring` keep it.
fn lock_and_die(directory: &Directory, seconds: &str) {
    let mut holder = Command::new("flock");
    holder.current_dir(directory.0.path()).args(["disk", "sleep", seconds]);
    let mut holder = holder.spawn().unwrap();
    let image = open(&directory.path("disk"));
    while rustix::fs::flock(&image, FlockOperation::NonBlockingLockShared).is_ok() {
        rustix::fs::flock(&image, FlockOperation::Unlock).unwrap();
        std::thread::sleep(Duration::from_millis(5));
    }
    // it has the lock, but may not have started `sleep`
    while children(holder.id()).is_empty() {
        std::thread::sleep(Duration::from_millis(5));
    }
    holder.kill().unwrap();
    holder.wait().unwrap();
}

fn children(pid: u32) -> String {
    fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap()
}

#[test]
fn lock_of_a_process_that_was_killed_is_waited_for() {
    let directory = Directory::protected("");
    lock_and_die(&directory, "1");
    directory.stableblk("check disk").succeeds();
}

#[test]
fn lock_that_outlives_its_process_for_long_is_reported() {
    let directory = Directory::protected("");
    lock_and_die(&directory, "8");
    directory.stableblk("check disk").fails(2, &["disk is in use by a process that is exiting"]);
}

#[test]
fn image_without_its_uuid_is_taken_with_a_warning() {
    let directory = Directory::protected("");
    rustix::fs::removexattr(directory.path("disk"), "user.stableblk.uuid").unwrap();
    directory.stableblk("check disk").succeeds_with_warning("carries no UUID");
    assert_eq!(directory.stableblk("info disk --json").json()["image_has_uuid"], false);
}

/// `protect --force` announces the UUID of the new sidecar before it takes the old one's place, and may be killed then.
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
    assert_eq!(state(), ("dirty".into(), "block".into()));
    directory.stableblk("check disk").succeeds();
    assert_eq!(state().0, "dirty", "a reader changes nothing");
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
        Command::new("umount").arg(&self.0).status().unwrap();
    }
}

#[test]
fn full_disk_is_named_and_nothing_is_left_on_it() {
    let directory = Directory::new();
    let Some(small) = SmallMount::new(&directory) else {
        eprintln!("skipped: mounting is not allowed");
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
