//! The shared libraries that programs of this machine need elsewhere.

use std::{ffi::OsStr, path::PathBuf, process::Command};

use crate::{GuestError, output_of};

/// The files that ldd names: `libz.so.1 => /lib/.../libz.so.1 (0x...)`, and the loader as
/// `/lib64/ld-linux-x86-64.so.2 (0x...)`. With several programs it heads each list with a line
/// `/usr/bin/fio:`.
pub(crate) fn of(programs: &[impl AsRef<OsStr>]) -> Result<Vec<PathBuf>, GuestError> {
    let printed = output_of(Command::new("ldd").args(programs), "ldd")?;
    let words = printed.split_whitespace().filter(|word| word.starts_with('/') && !word.ends_with(':'));
    Ok(words.map(PathBuf::from).collect())
}
