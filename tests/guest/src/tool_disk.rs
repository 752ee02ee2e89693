//! A disk image that carries programs of the host into the guest.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use crate::{GuestError, libraries, output_of};

/// fio's libraries alone take 80M.
const IMAGE_SIZE: &str = "128M";

/// Makes `image`, an ext4 file system with `programs` and their libraries at the paths they have
/// here. The guest's `tool` command expects it as the second disk.
///
/// # Errors
/// When a program is not installed, or the image cannot be made.
pub fn make_tool_disk(image: &Path, programs: &[&str]) -> Result<(), GuestError> {
    if let Some(path) = programs.iter().map(PathBuf::from).find(|path| !path.exists()) {
        return Err(GuestError::MissingPart { part: "program for the guest", path });
    }
    let root = tempfile::tempdir().map_err(GuestError::file(&std::env::temp_dir()))?;
    for file in libraries::of(programs)?.into_iter().chain(programs.iter().map(PathBuf::from)) {
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
