//! The causes of a loss.

use libc::c_int;
use thiserror::Error;

/// Why a mapping was lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum Loss {
    /// The file ends before the page.
    #[error("the front-end truncated the file to {len} bytes")]
    Truncated {
        /// The length of the file at that time.
        len: u64,
    },
    /// The file system has no page left. On tmpfs and hugetlbfs pages are taken at the first
    /// access.
    #[error(
        "its file system has no space left: make room for all of the guest's memory, or allocate it at the start \
        (`prealloc=on` in QEMU)"
    )]
    NoSpace,
    /// The file system failed in another way.
    #[error("its file system failed: {}", std::io::Error::from_raw_os_error(*errno))]
    Failed {
        /// The answer of the kernel when it was asked for the page again.
        errno: c_int,
    },
    /// The page could be had again when the kernel was asked for it.
    #[error("a page of it could not be had for a moment: its file system was full, or its device failed")]
    Momentary,
}
