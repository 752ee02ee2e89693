//! The places of a guest's parts: files that `scripts/install-prerequisites` unpacked, and the
//! repository's own.

use std::{
    env, fs, io,
    path::{Path, PathBuf},
    process::Command,
};

use crate::{GuestError, output_of, read_text, write};

/// The line of `qemu-configs/` by which QEMU connects again, and its form for QEMU before 9.2.
struct Reconnect {
    since_9_2: &'static str,
    before: &'static str,
}

const RECONNECT: Reconnect = Reconnect { since_9_2: "reconnect-ms = \"1000\"", before: "reconnect = \"1\"" };

const QEMU: &str = "qemu-system-x86_64";

/// Which QEMU runs a guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Qemu {
    /// Debian 12's, as installed, or else as unpacked.
    Installed,
    /// That of Debian 12's backports, as unpacked.
    Recent,
}

impl Qemu {
    /// Whether it is there. Only of the recent one this is in question: tests can do without.
    #[must_use]
    pub fn is_installed(self) -> bool {
        self == Self::Installed || cache().join(self.directory()).join("usr/bin").join(QEMU).exists()
    }

    /// A file of `qemu-configs/`, or the whole path of another, in the form that this QEMU takes: a
    /// copy in `scratch` where QEMU is too old for `reconnect-ms`.
    ///
    /// # Errors
    /// [`GuestError`]: when the file cannot be read or copied, or QEMU does not say its version.
    pub fn config(self, name: &str, scratch: &Path) -> Result<PathBuf, GuestError> {
        let path = qemu_config(name);
        let text = read_text(&path)?;
        if !text.contains(RECONNECT.since_9_2) || self.version()? >= (9, 2) {
            return Ok(path);
        }
        let copy = scratch.join("older-qemu.cfg");
        write(&copy, text.replace(RECONNECT.since_9_2, RECONNECT.before).as_bytes())?;
        Ok(copy)
    }

    /// Major and minor number.
    ///
    /// # Errors
    /// [`GuestError`]: when QEMU does not say them.
    pub fn version(self) -> Result<(u32, u32), GuestError> {
        let said = output_of(self.command().arg("--version"), QEMU)?;
        let numbers = said.split_once("version ").map(|(_, rest)| rest.split(['.', ' ', '(']));
        let mut numbers = numbers.into_iter().flatten().map_while(|number| number.parse().ok());
        let version = numbers.next().zip(numbers.next());
        version.ok_or_else(|| GuestError::program(QEMU)(format!("no version in {said:?}")))
    }

    /// The program, to be given arguments.
    #[must_use]
    pub fn command(self) -> Command {
        let mut command = unpacked_or_installed(self.directory(), QEMU);
        // as unpacked it does not find its firmware
        for firmware in
            ["qemu", "seabios"].map(|name| cache().join(self.directory()).join("usr/share").join(name))
        {
            if firmware.exists() {
                command.arg("-L").arg(firmware);
            }
        }
        command
    }

    /// Where it was unpacked, as a tree that begins with `usr`; none where it is installed.
    #[must_use]
    pub fn tree(self) -> Option<PathBuf> {
        Some(cache().join(self.directory())).filter(|root| root.exists())
    }

    fn directory(self) -> &'static str {
        match self {
            Self::Installed => "qemu",
            Self::Recent => "qemu-recent",
        }
    }
}

/// qemu-storage-daemon as installed, or else as `scripts/install-prerequisites` unpacked it.
pub fn qemu_storage_daemon() -> Command {
    unpacked_or_installed("qemu-utils", "qemu-storage-daemon")
}

/// A program of QEMU's for images, such as `qemu-img`.
pub fn qemu_tool(name: &str) -> Command {
    unpacked_or_installed("qemu-utils", name)
}

/// A program of Prometheus that `scripts/install-prerequisites` has unpacked: `prometheus` or
/// `promtool`. `None` where it could not.
#[must_use]
pub fn prometheus_program(name: &str) -> Option<PathBuf> {
    Some(cache().join("prometheus/usr/bin").join(name)).filter(|path| path.exists())
}

/// Programs that were unpacked into the cache need their own libraries.
fn unpacked_or_installed(directory: &str, program: &str) -> Command {
    let unpacked = cache().join(directory).join("usr");
    let path = unpacked.join("bin").join(program);
    if !path.exists() {
        return Command::new(program);
    }
    let mut command = Command::new(path);
    command.env("LD_LIBRARY_PATH", unpacked.join("lib/x86_64-linux-gnu"));
    command
}

/// A file of `qemu-configs/`.
pub fn qemu_config(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../qemu-configs").join(name)
}

/// The directory of all that was unpacked.
pub(crate) fn cache() -> PathBuf {
    let home = || Path::new(&env::var_os("HOME").unwrap_or_default()).join(".cache");
    env::var_os("XDG_CACHE_HOME").map_or_else(home, PathBuf::from).join("stableblk")
}

/// The one entry of `directory` whose name begins with `prefix`.
pub(crate) fn the_only_entry(
    part: &'static str,
    directory: &Path,
    prefix: &str,
) -> Result<PathBuf, GuestError> {
    let missing = || GuestError::MissingPart { part, path: directory.join(format!("{prefix}*")) };
    let entries = fs::read_dir(directory).map_err(|_: io::Error| missing())?;
    let mut paths = entries.flatten().map(|entry| entry.path());
    paths
        .find(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(prefix)))
        .ok_or_else(missing)
}
