//! Maps a part of a file that the front-end shares: guest memory, an in-flight region, a dirty log.

use std::fs::File;
use std::io;

use thiserror::Error;
use vm_memory::bitmap::Bitmap;
use vm_memory::mmap::{MmapRegionBuilder, MmapRegionError};
use vm_memory::{FileOffset, MmapRegion};

use crate::guest::sigbus::{WatchedMapping, huge_page_size};

/// Why a part of a file was not mapped.
#[derive(Debug, Error)]
pub enum MappingError {
    /// An access past the end of the file would be a SIGBUS.
    #[error("{size} bytes at offset {offset} of a file of {file_len} bytes")]
    PastEndOfFile {
        /// Length of the part, in bytes.
        size: u64,
        /// Where it starts in the file, in bytes.
        offset: u64,
        /// Length of the file, in bytes.
        file_len: u64,
    },
    /// The kernel maps whole huge pages, and unmaps only whole ones.
    #[error("{size} bytes of a file of pages of {page_size} bytes")]
    NotWholePages {
        /// Length of the part, in bytes.
        size: u64,
        /// Size of the file's pages, in bytes.
        page_size: usize,
    },
    /// The file's length could not be read.
    #[error("cannot examine the file")]
    Stat(#[source] io::Error),
    /// The kernel did not map it.
    #[error("cannot map the file")]
    Map(#[source] MmapRegionError),
    /// There are as many mappings as can be watched for loss.
    #[error("too many mappings")]
    TooMany,
}

/// Maps `size` bytes of `file` from byte `offset` on, shared, and watches for the loss of its
/// pages. Writes are marked in `bitmap`.
pub fn map<B: Bitmap>(
    file: File,
    offset: u64,
    size: u64,
    bitmap: B,
) -> Result<WatchedMapping<MmapRegion<B>>, MappingError> {
    let file_len = file.metadata().map_err(MappingError::Stat)?.len();
    let past_end = MappingError::PastEndOfFile { size, offset, file_len };
    if offset.checked_add(size).is_none_or(|end| end > file_len) {
        return Err(past_end);
    }
    if let Some(page_size) = huge_page_size(&file)
        && !size.is_multiple_of(page_size as u64)
    {
        return Err(MappingError::NotWholePages { size, page_size });
    }
    let size = usize::try_from(size).map_err(|_| past_end)?;
    let mapping = MmapRegionBuilder::new_with_bitmap(size, bitmap)
        .with_file_offset(FileOffset::new(file, offset))
        .with_mmap_prot(libc::PROT_READ | libc::PROT_WRITE)
        .with_mmap_flags(libc::MAP_NORESERVE | libc::MAP_SHARED)
        .build()
        .map_err(MappingError::Map)?;
    WatchedMapping::new(mapping).ok_or(MappingError::TooMany)
}

#[cfg(test)]
mod tests {
    use rustix::fs::{MemfdFlags, memfd_create};

    use super::*;

    fn file(flags: MemfdFlags, len: u64) -> io::Result<File> {
        let file = File::from(memfd_create("guest", flags | MemfdFlags::CLOEXEC)?);
        file.set_len(len)?;
        Ok(file)
    }

    #[test]
    fn a_part_beyond_the_end_of_the_file_is_refused() {
        let try_map = |offset, size| map(file(MemfdFlags::empty(), 8192).unwrap(), offset, size, ());
        assert_eq!(try_map(4096, 4096).unwrap().size(), 4096);
        for (offset, size) in [(4096, 4097), (u64::MAX, 1), (1, u64::MAX), (0, u64::MAX)] {
            let refused = try_map(offset, size);
            assert!(
                matches!(refused, Err(MappingError::PastEndOfFile { .. })),
                "{offset} {size}: {refused:?}"
            );
        }
        assert!(matches!(try_map(512, 4096), Err(MappingError::Map(_))));
    }

    /// The kernel would not unmap it again.
    #[test]
    fn a_part_of_a_huge_page_is_refused() {
        let Ok(file) = file(MemfdFlags::HUGETLB | MemfdFlags::HUGE_2MB, 4 << 20) else {
            return crate::skip::skip("this kernel has no huge pages of 2 MiB");
        };
        let refused = map(file, 0, (2 << 20) + 4096, ());
        assert!(
            matches!(refused, Err(MappingError::NotWholePages { page_size: 0x20_0000, .. })),
            "{refused:?}"
        );
    }
}
