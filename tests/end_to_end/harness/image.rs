//! An image and its sidecar, in a directory of their own.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs::File;
use std::ops::RangeInclusive;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use integrity::sidecar::Superblock;
use rustix::fs::{FlockOperation, flock};
use serde_json::Value;
use tempfile::TempDir;

use super::backend::PROGRAM;
use super::{Finished, finish};
use crate::sidecar_bytes::{flip_bit, forge_tuple, superblock};

/// A raw image and its sidecar; removed when dropped.
#[derive(Debug)]
pub(crate) struct Image {
    path: PathBuf,
    sidecar: PathBuf,
    /// The directory of the image, if that is a file made for the test.
    _image_directory: Option<TempDir>,
    directory: TempDir,
}

impl Image {
    /// An image of `size` bytes with the default profile, on a disk.
    pub(crate) fn create(size: u64) -> Self {
        Self::create_in(Path::new(env!("CARGO_TARGET_TMPDIR")), size, &[])
    }

    /// As [`Self::create`], with further arguments for `stableblk create`.
    pub(crate) fn create_with(size: u64, args: &[&str]) -> Self {
        Self::create_in(Path::new(env!("CARGO_TARGET_TMPDIR")), size, args)
    }

    /// As [`Self::create_with`], in a new directory in `parent`.
    pub(crate) fn create_in(parent: &Path, size: u64, args: &[&str]) -> Self {
        let image = Self::absent(parent);
        let mut command = image.command("create");
        let created = finish(command.args(["--size", &size.to_string()]).args(args));
        assert_eq!(created.code, Some(0), "{}", created.stderr);
        image
    }

    /// A raw image of `size` zeros without a sidecar.
    pub(crate) fn without_sidecar(size: u64) -> Self {
        let image = Self::absent(Path::new(env!("CARGO_TARGET_TMPDIR")));
        File::create_new(&image.path).unwrap().set_len(size).unwrap();
        image
    }

    /// As [`Self::create`], with the image in a new directory in `parent` and its sidecar
    /// elsewhere.
    pub(crate) fn create_apart(parent: &Path, size: u64) -> Self {
        let directory = tempfile::tempdir_in(parent).unwrap();
        let image = Self::apart(directory.path().join("disk.img"), Some(directory));
        let created = finish(image.command("create").args(["--size", &size.to_string()]));
        assert_eq!(created.code, Some(0), "{}", created.stderr);
        image
    }

    /// The image at `path`, which exists, a block device for example, and has no sidecar; it gets
    /// one elsewhere.
    pub(crate) fn of(path: &Path) -> Self {
        Self::apart(path.to_owned(), None)
    }

    /// The image at `path`, which exists, with its sidecar beside it.
    pub(crate) fn beside(path: &Path) -> Self {
        let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let sidecar = PathBuf::from(format!("{}.pi", path.display()));
        Self { path: path.to_owned(), sidecar, _image_directory: None, directory }
    }

    fn apart(path: PathBuf, image_directory: Option<TempDir>) -> Self {
        let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let sidecar = directory.path().join("sidecar");
        Self { path, sidecar, _image_directory: image_directory, directory }
    }

    fn absent(parent: &Path) -> Self {
        let directory = tempfile::tempdir_in(parent).unwrap();
        let (path, sidecar) = (directory.path().join("disk.img"), directory.path().join("disk.img.pi"));
        Self { path, sidecar, _image_directory: None, directory }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn sidecar_path(&self) -> PathBuf {
        self.sidecar.clone()
    }

    /// The option that names the sidecar, where it is not beside the image.
    pub(crate) fn integrity_option(&self) -> Vec<&OsStr> {
        if self.sidecar.parent() == self.path.parent() {
            Vec::new()
        } else {
            vec!["--integrity".as_ref(), self.sidecar.as_ref()]
        }
    }

    /// Waits until no process has a lock on it that comes from this one: for a moment each process
    /// that another test starts has our files open.
    pub(crate) fn wait_until_closed(&self) {
        for path in [&self.path, &self.sidecar] {
            let file = File::open(path).unwrap();
            flock(&file, FlockOperation::LockExclusive).unwrap();
            flock(&file, FlockOperation::Unlock).unwrap();
        }
    }

    /// The directory of the sidecar, and of the image unless that is elsewhere.
    pub(crate) fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// `stableblk SUBCOMMAND IMAGE`, to be added to.
    pub(crate) fn command(&self, subcommand: &str) -> Command {
        let mut command = Command::new(PROGRAM);
        command.arg(subcommand).arg(&self.path).args(self.integrity_option());
        command
    }

    /// The output of `stableblk SUBCOMMAND --json`.
    pub(crate) fn json(&self, subcommand: &str) -> Value {
        let Finished { stdout, stderr, .. } = finish(self.command(subcommand).arg("--json"));
        serde_json::from_str(&stdout).unwrap_or_else(|_| panic!("{stdout}{stderr}"))
    }

    /// The blocks that `stableblk check` finds bad, each with the name of the check that failed.
    pub(crate) fn bad_blocks(&self) -> Vec<(u64, String)> {
        self.check(&[]).bad_blocks()
    }

    /// The report of `stableblk check` with further arguments.
    pub(crate) fn check(&self, args: &[&str]) -> CheckReport {
        let Finished { code, stdout, stderr } = finish(self.command("check").arg("--json").args(args));
        let report = serde_json::from_str(&stdout).unwrap_or_else(|_| panic!("{stdout}{stderr}"));
        let report = CheckReport(report);
        let expected = match (report.bad_blocks().is_empty(), report.adopted_blocks().is_empty()) {
            (false, _) => 1,
            (true, false) => 3,
            (true, true) => 0,
        };
        assert_eq!(code, Some(expected), "{stderr}");
        report
    }

    /// `stableblk check` must find every block to match.
    pub(crate) fn assert_clean(&self) {
        let bad = self.bad_blocks();
        assert!(bad.is_empty(), "{} bad blocks, the first of them {:?}", bad.len(), &bad[..bad.len().min(8)]);
    }

    /// The image's bytes, as they lie on the medium.
    pub(crate) fn read(&self, offset: u64, len: usize) -> Vec<u8> {
        let mut data = vec![0; len];
        File::open(&self.path).unwrap().read_exact_at(&mut data, offset).unwrap();
        data
    }

    /// Flips one bit of the image, at byte `offset`.
    pub(crate) fn flip_bit(&self, offset: u64) {
        flip_bit(&self.path, offset);
    }

    /// Flips one bit of the guard tag in the tuple of `interval`, and makes the checksum of its
    /// sector good again.
    pub(crate) fn flip_guard_bit(&self, interval: u64) {
        forge_tuple(&self.sidecar_path(), interval, |tuple| tuple[0] ^= 0x10);
    }

    /// Flips one bit of the sidecar, at the byte that `offset` finds.
    pub(crate) fn flip_sidecar_bit(&self, offset: impl FnOnce(&Superblock) -> u64) {
        let sidecar = self.sidecar_path();
        flip_bit(&sidecar, offset(&superblock(&sidecar)));
    }
}

/// The report of `stableblk check`, as JSON.
#[derive(Debug)]
pub(crate) struct CheckReport(pub(crate) Value);

impl CheckReport {
    /// The blocks that do not match, each with the name of the check that failed.
    pub(crate) fn bad_blocks(&self) -> Vec<(u64, String)> {
        let bad: Vec<_> = ranges(&self.0["ranges"])
            .flat_map(|(lbas, range)| {
                let check = range["check"].as_str().unwrap();
                lbas.map(move |lba| (lba, check.to_owned()))
            })
            .collect();
        let counted = ["mismatched_blocks", "unreadable_blocks"].map(|kind| self.0[kind].as_u64().unwrap());
        assert_eq!(counted.iter().sum::<u64>(), bad.len() as u64);
        bad
    }

    /// The blocks that a recovery took as they were.
    pub(crate) fn adopted_blocks(&self) -> BTreeSet<u64> {
        let adopted: BTreeSet<_> = ranges(&self.0["adopted_ranges"]).flat_map(|(lbas, _)| lbas).collect();
        assert_eq!(self.0["adopted_blocks"], adopted.len());
        adopted
    }
}

fn ranges(list: &Value) -> impl Iterator<Item = (RangeInclusive<u64>, &Value)> {
    let number = |value: &Value| value.as_u64().unwrap();
    let lbas = move |range: &Value| number(&range["first_lba"])..=number(&range["last_lba"]);
    list.as_array().unwrap().iter().map(move |range| (lbas(range), range))
}
