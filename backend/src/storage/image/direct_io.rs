//! Direct I/O: whether the file has it, and how requests must then be aligned.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use rustix::fs::{AtFlags, OFlags, StatxFlags};
use rustix::io::Errno;

/// No device has larger blocks that Linux would take.
const PAGE_SIZE: usize = 4096;

/// The largest alignment of offsets that is worth it, in bytes: every smaller write reads and
/// writes that many.
const OFFSET_ALIGNMENT_MAX: usize = 64 << 10;

/// Whether to go past the page cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DirectIo {
    /// Where the file system and the device have it.
    WherePossible,
    /// Through the page cache in any case.
    Never,
}

/// The alignment that a request must have for direct I/O, in bytes. Both numbers are powers of two.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Alignment {
    /// Alignment of the buffer's address.
    pub memory: u32,
    /// Alignment of the file offset and of the length.
    pub offset: u32,
}

impl Alignment {
    /// The alignment of I/O through the page cache.
    pub const ANY: Self = Self { memory: 1, offset: 1 };

    /// Whether folios have it. They lie at multiples of their size, which is at least a page's and
    /// the granule's, and granules are powers of two. Zeros mean that there is no direct I/O.
    fn is_served(self) -> bool {
        let (memory, offset) = (self.memory as usize, self.offset as usize);
        memory.is_power_of_two()
            && offset.is_power_of_two()
            && offset <= OFFSET_ALIGNMENT_MAX
            && memory <= offset.max(PAGE_SIZE)
    }
}

impl DirectIo {
    /// Turns direct I/O on for this open file description, which so keeps its lock. `None`: there
    /// is none.
    pub(super) fn turn_on(self, file: &File) -> io::Result<Option<Alignment>> {
        let reported = reported_alignment(file);
        let denied = reported.is_some_and(|reported| !reported.is_served());
        if self == Self::Never || denied || !set_direct(file, true)? {
            return Ok(None);
        }
        let alignment = reported.or_else(|| probed_alignment(file));
        if alignment.is_none() {
            set_direct(file, false)?;
        }
        Ok(alignment)
    }
}

/// The alignment that `statx` reports, since Linux 6.1: zeros when there is no direct I/O.
fn reported_alignment(file: &File) -> Option<Alignment> {
    let statx = rustix::fs::statx(file, c"", AtFlags::EMPTY_PATH, StatxFlags::DIOALIGN).ok()?;
    (statx.stx_mask & StatxFlags::DIOALIGN.bits() != 0)
        .then_some(Alignment { memory: statx.stx_dio_mem_align, offset: statx.stx_dio_offset_align })
}

/// Whether the file system took the flag.
fn set_direct(file: &File, on: bool) -> io::Result<bool> {
    let mut flags = rustix::fs::fcntl_getfl(file)?;
    flags.set(OFlags::DIRECT, on);
    match rustix::fs::fcntl_setfl(file, flags) {
        Ok(()) => Ok(true),
        Err(Errno::INVAL) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// The least alignment with which a read succeeds. Some file systems take the flag and then fail
/// every request.
fn probed_alignment(file: &File) -> Option<Alignment> {
    let mut buffer = vec![0; 3 * PAGE_SIZE];
    let page = buffer.as_ptr().align_offset(PAGE_SIZE);
    [512, PAGE_SIZE].into_iter().find_map(|size| {
        // at an address that is aligned to `size` and to no more
        file.read_at(&mut buffer[page + size..][..size], 0).ok()?;
        let size = u32::try_from(size).ok()?;
        Some(Alignment { memory: size, offset: size })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// In the target directory, which is on a disk where /tmp may not be.
    fn file_on_disk() -> File {
        let file = tempfile::tempfile_in(env!("CARGO_MANIFEST_DIR")).unwrap();
        file.set_len(1 << 20).unwrap();
        file
    }

    #[test]
    fn never_leaves_the_file_buffered() {
        let file = file_on_disk();
        assert_eq!(DirectIo::Never.turn_on(&file).unwrap(), None);
        assert!(!rustix::fs::fcntl_getfl(&file).unwrap().contains(OFlags::DIRECT));
    }

    #[test]
    fn reads_that_keep_the_alignment_succeed() {
        let file = file_on_disk();
        let Some(alignment) = DirectIo::WherePossible.turn_on(&file).unwrap() else {
            return crate::skip::skip("the file system has no direct I/O");
        };
        assert!(rustix::fs::fcntl_getfl(&file).unwrap().contains(OFlags::DIRECT));
        let (memory, len) = (alignment.memory as usize, alignment.offset as usize);
        let mut buffer = vec![1; len + 3 * memory];
        let start = buffer.as_ptr().align_offset(2 * memory) + memory;
        file.read_exact_at(&mut buffer[start..][..len], alignment.offset.into()).unwrap();
        assert!(buffer[start..][..len].iter().all(|&byte| byte == 0));
    }

    #[test]
    fn alignments_that_folios_cannot_keep_are_not_taken() {
        for (memory, offset, served) in [
            (512, 512, true),
            (4, 4096, true),
            (512, 65536, true),
            (65536, 65536, true),
            (0, 0, false),
            (512, 131_072, false),
            (4, 12288, false),
            (8192, 512, false),
        ] {
            assert_eq!(Alignment { memory, offset }.is_served(), served, "{memory} and {offset}");
        }
    }

    #[test]
    fn probing_finds_an_alignment_that_satisfies_the_reported_one() {
        let file = file_on_disk();
        let Some(reported) = reported_alignment(&file).filter(|reported| reported.offset != 0) else {
            return crate::skip::skip("the kernel reports no alignment here");
        };
        assert!(set_direct(&file, true).unwrap());
        let probed = probed_alignment(&file).unwrap();
        assert!(probed.offset >= reported.offset && probed.offset <= 4096, "{probed:?}, {reported:?}");
    }
}
