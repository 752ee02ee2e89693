//! Writing the dirty pages of a part of a file to its device, in `sync_file_range(2)`'s way.

#![expect(unsafe_code, reason = "the call has no safe wrapper")]

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::fd::AsRawFd;

/// Writes the dirty pages of the bytes `range` of `file` to its device, and waits for that. They
/// are not durable then: the device's cache is not flushed, and metadata are not written.
///
/// An error may be that of any page of the file which was written back before. It is reported once:
/// a sync by the same open file description does not report it again.
pub(super) fn write_back(file: &File, range: Range<u64>) -> io::Result<()> {
    let [start, len] = [range.start, range.end - range.start].map(i64::try_from);
    let flags =
        libc::SYNC_FILE_RANGE_WAIT_BEFORE | libc::SYNC_FILE_RANGE_WRITE | libc::SYNC_FILE_RANGE_WAIT_AFTER;
    let (start, len) = (start.map_err(io::Error::other)?, len.map_err(io::Error::other)?);
    // SAFETY: the call takes no address, and `file` is open while it is borrowed.
    match unsafe { libc::sync_file_range(file.as_raw_fd(), start, len, flags) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt;

    use super::*;
    use crate::storage::thin_device::ThinDevice;

    #[test]
    fn pages_that_cannot_be_written_are_an_error() {
        let Some(thin) = ThinDevice::attach() else { return };
        let file = File::options().read(true).write(true).open(thin.path()).unwrap();
        file.write_all_at(&[1; 4096], 0).unwrap();
        write_back(&file, 0..4096).unwrap();
        file.write_all_at(&vec![1; 2 << 20], 4 << 20).unwrap();
        write_back(&file, 4 << 20..6 << 20).unwrap_err();
    }
}
