//! A disk image that carries the host's fio into the guest.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use crate::{GuestError, output_of};

const FIO: &str = "/usr/bin/fio";
/// The libraries take 80M.
const IMAGE_SIZE: &str = "128M";

/// Makes `image`, an ext4 file system with fio and its libraries. The guest's `fio` command expects it as the second disk.
///
/// # Errors
/// When fio is not installed, or the image cannot be made.
pub fn make_fio_disk(image: &Path) -> Result<(), GuestError> {
    let root = tempfile::tempdir().map_err(GuestError::file(&std::env::temp_dir()))?;
    let ldd = output_of(Command::new("ldd").arg(FIO), "ldd")?;
    for file in libraries(&ldd).chain([PathBuf::from(FIO)]) {
        let copy = root.path().join(file.strip_prefix("/").unwrap_or(&file));
        let directory = copy.parent().unwrap_or(root.path());
        fs::create_dir_all(directory).map_err(GuestError::file(directory))?;
        fs::copy(&file, &copy).map_err(GuestError::file(&file))?;
    }
    for mount_point in ["dev", "proc", "tmp"] {
        fs::create_dir_all(root.path().join(mount_point)).map_err(GuestError::file(root.path()))?;
    }
    let mut mke2fs = Command::new("/sbin/mke2fs");
    mke2fs.args(["-q", "-t", "ext4", "-O", "^has_journal", "-d"]).arg(root.path()).arg(image).arg(IMAGE_SIZE);
    output_of(&mut mke2fs, "mke2fs").map(drop)
}

/// The files that ldd names: `libz.so.1 => /lib/.../libz.so.1 (0x...)`, and the loader as `/lib64/ld-linux-x86-64.so.2 (0x...)`.
fn libraries(ldd: &str) -> impl Iterator<Item = PathBuf> {
    ldd.split_whitespace().filter(|word| word.starts_with('/')).map(PathBuf::from)
}
