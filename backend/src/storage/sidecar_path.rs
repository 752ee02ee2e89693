//! The path of an image's sidecar.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

/// The default path of the sidecar of `image`: its whole name and `.pi`. For a symbolic link to
/// a file, the one beside the link is taken where it exists, else the one beside the file. So a new
/// sidecar is made beside the file, where every name of the image finds it.
#[must_use]
pub fn default_path(image: &Path) -> PathBuf {
    let beside = with_suffix(image);
    if !image.is_symlink() || beside.symlink_metadata().is_ok() {
        return beside;
    }
    match image.canonicalize() {
        Ok(target) if target.is_file() => with_suffix(&target),
        _ => beside,
    }
}

fn with_suffix(image: &Path) -> PathBuf {
    let mut path = OsString::from(image);
    path.push(".pi");
    path.into()
}
