//! Power cuts: the requests of `stableblk` to a disk in the guest are replayed up to each flush,
//! and the image is recovered and checked.
//!
//! In the guest, image and sidecar are files on ext4 on a device that logs all writes. Out here
//! that device is made again as a cut just before each flush could have left it: with everything
//! before the last flush, all FUA writes since, and none or some sectors of the other ones.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::{fs, io};

use fastrand::Rng;
use guest::Stableblk;
use load::{History, Plan, SECTOR, Step, filling};
use rustix::fs::{XattrFlags, setxattr};
use serde_json::Value;

use crate::bench::Bench;
use crate::write_log::{Epoch, epochs};

/// The kernel's RAM disks.
const DEVICE_SIZE: usize = 16 << 20;
/// The last page of the device, behind the file system.
const NOTE_OFFSET: usize = DEVICE_SIZE - 4096;
const IMAGE_SIZE: u64 = 4 << 20;
const SECTORS: u64 = IMAGE_SIZE / SECTOR as u64;
const INTERVAL: usize = 4096;
const STEPS: usize = 200;
const PROGRAM: &str = env!("CARGO_BIN_EXE_stableblk");

fn survives_power_cuts(intent: &str) {
    let seed = fastrand::u64(..1 << 32);
    println!("intents by {intent}, seed {seed}");
    let mut bench = Bench::new(&[]).with_module("brd").with_module("dm-log-writes").with_module("ext4");
    for program in [PROGRAM, "/sbin/dmsetup", "/sbin/mkfs.ext4"] {
        bench = bench.with_program(program);
    }
    // With one processor no flush overtakes another in the log. And ext4 itself does not survive
    // half a superblock with a checksum.
    let script = format!(
        "
        set -e
        echo 0 >/sys/devices/system/cpu/cpu1/online
        dmsetup --noudevrules --noudevsync create logged --table '0 {device_sectors} log-writes /dev/ram0 /dev/vda'
        mkfs.ext4 -q -b 4096 -O ^metadata_csum -E nodiscard,lazy_itable_init=0,lazy_journal_init=0 /dev/dm-0 {blocks} >&2
        mount -t ext4 /dev/dm-0 /mnt
        stableblk create /mnt/image --size {IMAGE_SIZE}
        stableblk --socket-path /tmp/socket --blk-file /mnt/image --num-queues 4 --intent {intent} &
        until [ -S /tmp/socket ]; do kill -0 $!; usleep 10000; done
        vhost-user-load /tmp/socket {SECTORS} {seed} {STEPS} /dev/dm-0
        kill $!
        wait $!
        umount /mnt
        dmsetup --noudevrules --noudevsync remove logged
        ",
        device_sectors = DEVICE_SIZE / SECTOR,
        blocks = NOTE_OFFSET / 4096,
    );
    bench.run("single-disk.cfg", None, &script);

    let log = fs::read(bench.path("disk.raw")).expect("log");
    let mut oracle = Oracle::new(seed);
    let mut cuts = Cuts { disk: vec![0; DEVICE_SIZE], rng: Rng::with_seed(seed) };
    let scratch = bench.path("cut");
    fs::create_dir(&scratch).expect("directory");
    let (mut checked, mut adopted) = (0, 0);
    for (number, epoch) in epochs(&log).iter().enumerate() {
        oracle.take_note_of(epoch);
        if oracle.flushed > 0 {
            for keep in [Keep::Nothing, Keep::Some] {
                let case = format!("seed {seed}, flush {number}, {keep:?}");
                fs::write(scratch.join("disk"), cuts.before_flush(epoch, keep)).expect("disk");
                adopted += oracle.judge(&scratch).unwrap_or_else(|wrong| panic!("{case}: {wrong}"));
                checked += 1;
            }
        }
        cuts.flush(epoch);
    }
    println!("{checked} power cuts, {adopted} blocks adopted, {} changes", oracle.history.newest());
    assert!(checked > 30, "{checked} power cuts: the load hardly flushed");
    assert_eq!(bench.count_mismatches(), 0);
}

/// The writes in its cache that a disk keeps when its power is cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Keep {
    Nothing,
    Some,
}

/// The logged device, again.
struct Cuts {
    /// As of the last flush.
    disk: Vec<u8>,
    rng: Rng,
}

impl Cuts {
    /// A state that a cut can leave just before the flush that ends `epoch`: each sector is old or
    /// new.
    fn before_flush(&mut self, epoch: &Epoch<'_>, keep: Keep) -> Vec<u8> {
        let mut disk = self.disk.clone();
        for write in epoch {
            let in_256 = match keep {
                _ if write.fua => 256,
                Keep::Nothing => 0,
                Keep::Some => self.rng.choice([0, 128, 256]).unwrap_or(0),
            };
            for (offset, sector) in (write.offset..).step_by(SECTOR).zip(write.data.chunks(SECTOR)) {
                if self.rng.u16(..256) < in_256 {
                    disk[offset..offset + SECTOR].copy_from_slice(sector);
                }
            }
        }
        disk
    }

    fn flush(&mut self, epoch: &Epoch<'_>) {
        for write in epoch {
            self.disk[write.offset..write.offset + write.data.len()].copy_from_slice(write.data);
        }
    }
}

/// The requests of the load, and the results that it got.
struct Oracle {
    history: History,
    /// All changes up to this one were flushed.
    flushed: u64,
}

impl Oracle {
    /// Of the load that `seed` makes.
    fn new(seed: u64) -> Self {
        let mut history = History::new(SECTORS);
        for step in filling(SECTORS).chain(Plan::new(seed, SECTORS).take(STEPS)) {
            if let Step::Change(change) = step {
                history.begin(change);
            }
        }
        Self { history, flushed: 0 }
    }

    /// A note that was written before the epoch's end is of a flush that was complete before.
    fn take_note_of(&mut self, epoch: &Epoch<'_>) {
        for note in epoch.iter().filter(|write| write.offset == NOTE_OFFSET) {
            let version = u64::from_le_bytes(*note.data.first_chunk().expect("a page"));
            while self.flushed < version {
                self.flushed += 1;
                self.history.settle(self.flushed);
            }
        }
    }

    /// Recovers the image on the file system in `DIRECTORY/disk`: flushed data must be present, and
    /// verify. Returns how many blocks were adopted.
    fn judge(&self, directory: &Path) -> Result<usize, String> {
        let image = take_out_files(directory);
        let stableblk = Stableblk::new(PROGRAM);
        let report = stableblk.check(&image, &["--recover"]).map_err(|error| error.to_string())?;
        if report["mismatched_blocks"] != 0 {
            return Err(format!("blocks that cannot be read: {report}"));
        }
        let adopted = adopted_blocks(&report);
        let unflushed = self.history.blocks_changed_after(self.flushed, INTERVAL);
        if let Some(lba) = adopted.difference(&unflushed).next() {
            return Err(format!("block {lba} was flushed, and is adopted: {report}"));
        }
        self.history.compare(0, &fs::read(&image).expect("image"))?;
        Ok(adopted.len())
    }
}

/// Replays the journal of the ext4 in `DIRECTORY/disk`, as mounting does, and copies its files,
/// with what the image carries. Returns the path of the image.
fn take_out_files(directory: &Path) -> PathBuf {
    // a new file, not the one of the cut before with what a recovery has marked it with
    for file in ["image", "image.pi"] {
        match fs::remove_file(directory.join(file)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => panic!("{file}: {error}"),
            _ => {}
        }
    }
    // status 1: it has corrected something
    run_in(directory, Command::new("/sbin/e2fsck").args(["-p", "-E", "journal_only", "disk"]), &[0, 1]);
    for file in ["image", "image.pi"] {
        run_in(
            directory,
            Command::new("/sbin/debugfs").args(["-R", &format!("dump {file} {file}"), "disk"]),
            &[0],
        );
    }
    let image = directory.join("image");
    for name in ["user.stableblk.uuid", "user.stableblk.session", "user.stableblk.durability-lost"] {
        let request = format!("ea_get -f value image {name}");
        run_in(directory, Command::new("/sbin/debugfs").args(["-R", &request, "disk"]), &[0]);
        let value = fs::read(directory.join("value")).expect("value");
        if !value.is_empty() {
            setxattr(&image, name, &value, XattrFlags::empty()).expect("attribute");
        }
    }
    image
}

fn run_in(directory: &Path, command: &mut Command, expected: &[i32]) {
    let output = command.current_dir(directory).output().expect("e2fsprogs");
    let as_expected = output.status.code().is_some_and(|code| expected.contains(&code));
    assert!(as_expected, "{command:?}: {}{}", output.status, String::from_utf8_lossy(&output.stderr));
}

fn adopted_blocks(report: &Value) -> BTreeSet<u64> {
    let number = |value: &Value| value.as_u64().expect("number");
    let ranges = report["adopted_ranges"].as_array().expect("ranges");
    ranges.iter().flat_map(|range| number(&range["first_lba"])..=number(&range["last_lba"])).collect()
}

#[test]
fn flushed_data_survives_power_cuts_with_intents_by_region() {
    survives_power_cuts("region");
}

#[test]
fn flushed_data_survives_power_cuts_with_intents_by_block() {
    survives_power_cuts("block");
}
