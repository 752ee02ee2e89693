//! A directory with images, and what became of a command that was run there.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use guest::limited;
use serde_json::Value;
use tempfile::TempDir;

use crate::sidecar_bytes::{flip_bit, forge_tuple};

pub(crate) const PROGRAM: &str = env!("CARGO_BIN_EXE_stableblk");
pub(crate) const BLOCK: usize = 4096;
pub(crate) const MIB: usize = 1 << 20;
/// A user other than root.
pub(crate) const NOBODY: u32 = 65534;

/// A directory of its own for each test, on a disk.
pub(crate) struct Directory(pub(crate) TempDir);

impl Directory {
    pub(crate) fn new() -> Self {
        Self(TempDir::new_in(env!("CARGO_TARGET_TMPDIR")).unwrap())
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// The whole command line, with the directory as the current one.
    pub(crate) fn stableblk(&self, arguments: &str) -> Run {
        Run::of(self.command(arguments))
    }

    pub(crate) fn command(&self, arguments: &str) -> Command {
        let mut command = Command::new(PROGRAM);
        command.current_dir(self.0.path()).args(arguments.split_whitespace()).env_remove("RUST_LOG");
        command
    }

    pub(crate) fn file_names(&self) -> Vec<String> {
        let mut names: Vec<_> = fs::read_dir(self.0.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    pub(crate) fn write_at(&self, name: &str, offset: u64, bytes: &[u8]) {
        open(&self.path(name)).write_all_at(bytes, offset).unwrap();
    }

    pub(crate) fn flip_bit(&self, name: &str, offset: u64) {
        flip_bit(&self.path(name), offset);
    }

    /// Changes the tuple of a block of `disk`, in a sector whose checksum is good again.
    pub(crate) fn forge_tuple(&self, block: u64, change: impl FnOnce(&mut [u8])) {
        forge_tuple(&self.path("disk.pi"), block, change);
    }

    /// A 4 MiB image `disk` with data in blocks 16 to 31 and 512 to 767, protected by `protect` and
    /// these options.
    pub(crate) fn protected(options: &str) -> Self {
        let directory = Self::new();
        directory.image("disk");
        directory.stableblk(&format!("protect disk {options}")).succeeds();
        directory
    }

    pub(crate) fn image(&self, name: &str) {
        let image = File::create_new(self.path(name)).unwrap();
        image.set_len(4 * MIB as u64).unwrap();
        image.write_all_at(&noise(16 * BLOCK), 16 * BLOCK as u64).unwrap();
        image.write_all_at(&noise(MIB), 2 * MIB as u64).unwrap();
    }
}

pub(crate) fn open(path: &Path) -> File {
    OpenOptions::new().read(true).write(true).open(path).unwrap()
}

/// Bytes of which no block is zero or like another.
pub(crate) fn noise(len: usize) -> Vec<u8> {
    let mut state = 1_u64;
    std::iter::repeat_with(|| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (state >> 56) as u8
    })
    .take(len)
    .collect()
}

/// The outcome of a command.
pub(crate) struct Run {
    pub(crate) code: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Run {
    pub(crate) fn of(mut command: Command) -> Self {
        let Output { status, stdout, stderr } = limited::output(&mut command).unwrap();
        Self {
            code: status.code().expect("not killed by a signal"),
            stdout: String::from_utf8(stdout).unwrap(),
            stderr: String::from_utf8(stderr).unwrap(),
        }
    }

    pub(crate) fn succeeds(&self) -> &Self {
        assert_eq!((self.code, self.stderr.as_str()), (0, ""), "{}", self.stdout);
        self
    }

    pub(crate) fn succeeds_with_warning(&self, words: &str) {
        assert_eq!(self.code, 0, "{}", self.stderr);
        assert!(self.stderr.contains("WARN") && self.stderr.contains(words), "{}", self.stderr);
    }

    /// Fails by one line on stderr that contains all these words.
    pub(crate) fn fails(&self, code: i32, words: &[&str]) {
        assert_eq!(self.code, code, "{}{}", self.stdout, self.stderr);
        assert!(self.stderr.starts_with("stableblk: "), "{}", self.stderr);
        assert_eq!(self.stderr.lines().count(), 1, "{}", self.stderr);
        for word in words {
            assert!(self.stderr.contains(word), "`{word}` is not in: {}", self.stderr);
        }
        assert_eq!(self.stdout, "");
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.stdout).unwrap()
    }
}

pub(crate) fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}
