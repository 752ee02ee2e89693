//! An image and its sidecar, in a directory of their own.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;
use tempfile::TempDir;

use super::backend::PROGRAM;
use super::{Finished, finish};

/// A raw image; removed with its sidecar when dropped.
#[derive(Debug)]
pub(crate) struct Image {
    path: PathBuf,
    directory: TempDir,
}

/// Bytes before the first tuple, and of a tuple with the default guard.
const SIDECAR_HEADER_SIZE: u64 = 4096;
const TUPLE_SIZE: u64 = 16;

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

    fn absent(parent: &Path) -> Self {
        let directory = tempfile::tempdir_in(parent).unwrap();
        Self { path: directory.path().join("disk.img"), directory }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn sidecar_path(&self) -> PathBuf {
        self.directory.path().join("disk.img.pi")
    }

    /// The directory of both.
    pub(crate) fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// `stableblk SUBCOMMAND IMAGE`, to be added to.
    pub(crate) fn command(&self, subcommand: &str) -> Command {
        let mut command = Command::new(PROGRAM);
        command.arg(subcommand).arg(&self.path);
        command
    }

    /// The blocks that `stableblk check` finds bad, each with the name of the check that failed.
    pub(crate) fn bad_blocks(&self) -> Vec<(u64, String)> {
        let Finished { code, stdout, stderr } = finish(self.command("check").arg("--json"));
        let report: Value = serde_json::from_str(&stdout).unwrap_or_else(|_| panic!("{stdout}{stderr}"));
        let number = |value: &Value| value.as_u64().unwrap();
        let bad: Vec<_> = report["ranges"]
            .as_array()
            .unwrap()
            .iter()
            .flat_map(|range| {
                let check = range["check"].as_str().unwrap();
                let lbas = number(&range["first_lba"])..=number(&range["last_lba"]);
                lbas.map(move |lba| (lba, check.to_owned()))
            })
            .collect();
        assert_eq!(number(&report["mismatched_blocks"]), bad.len() as u64);
        assert_eq!(code, Some(i32::from(!bad.is_empty())), "{stderr}");
        bad
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

    /// Flips one bit of the guard tag in the tuple of `interval`.
    pub(crate) fn flip_guard_bit(&self, interval: u64) {
        flip_bit(&self.sidecar_path(), SIDECAR_HEADER_SIZE + interval * TUPLE_SIZE);
    }
}

fn flip_bit(path: &Path, offset: u64) {
    let file = OpenOptions::new().read(true).write(true).open(path).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, offset).unwrap();
    file.write_all_at(&[byte[0] ^ 0x10], offset).unwrap();
}
