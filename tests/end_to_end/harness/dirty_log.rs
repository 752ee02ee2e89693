//! A migration's log of what the back-end writes to guest memory.

use std::collections::BTreeSet;
use std::fs::File;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;

use rustix::fs::{MemfdFlags, memfd_create};
use vhost::VhostUserDirtyLogRegion;

use super::GuestMemory;

const PAGE_SIZE: u64 = 4096;

/// A log, in a file that is shared with the back-end.
#[derive(Debug)]
pub(crate) struct DirtyLog {
    file: File,
    size: u64,
}

impl DirtyLog {
    /// One that covers all of guest memory, and a page more.
    pub(crate) fn new() -> Self {
        Self::of_size((GuestMemory::END / PAGE_SIZE).div_ceil(8) + 1)
    }

    pub(crate) fn of_size(size: u64) -> Self {
        let file = File::from(memfd_create("log", MemfdFlags::CLOEXEC).unwrap());
        file.set_len(size).unwrap();
        Self { file, size }
    }

    pub(crate) fn region(&self) -> VhostUserDirtyLogRegion {
        VhostUserDirtyLogRegion { mmap_size: self.size, mmap_offset: 0, mmap_handle: self.file.as_raw_fd() }
    }

    /// The addresses of all pages that are marked. Whole once the queues are back: a page is marked
    /// after it is written, so that a completion may be seen before its mark.
    pub(crate) fn pages(&self) -> BTreeSet<u64> {
        let mut bytes = vec![0; usize::try_from(self.size).unwrap()];
        self.file.read_exact_at(&mut bytes, 0).unwrap();
        let bits = |(at, byte): (usize, u8)| {
            (0..8).filter(move |bit| byte >> bit & 1 == 1).map(move |bit| (at as u64 * 8 + bit) * PAGE_SIZE)
        };
        bytes.into_iter().enumerate().flat_map(bits).collect()
    }

    /// Takes all pages away.
    pub(crate) fn truncate(&self) {
        self.file.set_len(0).unwrap();
    }

    /// In place: a back-end that finds the end of a file it has mapped moved stops using the file.
    pub(crate) fn clear(&self) {
        self.file.write_all_at(&vec![0; usize::try_from(self.size).unwrap()], 0).unwrap();
    }
}
