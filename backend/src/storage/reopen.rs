//! Another open file description of a file that is open.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::path::Path;

/// Another open file description of the same file, without the lock.
///
/// The kernel reports data that it could not write once to each description. Of two syncs by one
/// description at the same time, one would succeed without that data.
pub(crate) fn reopen(file: &File, options: &OpenOptions) -> io::Result<File> {
    options.open(format!("/proc/self/fd/{}", file.as_raw_fd())).map_err(without_proc)
}

/// Explains `error` where /proc is missing.
pub(crate) fn without_proc(error: io::Error) -> io::Error {
    if error.kind() == io::ErrorKind::NotFound && !Path::new("/proc/self/fd").exists() {
        let reason =
            "No such file or directory, for /proc is not mounted: mount it with `mount -t proc proc /proc`";
        return io::Error::new(io::ErrorKind::NotFound, reason);
    }
    error
}
