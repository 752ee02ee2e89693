//! What a file can do to make blocks read as zeros without writing them.

use std::fs::File;
use std::os::fd::AsFd;

use rustix::fs::{FallocateFlags, fallocate};

use super::block_integrity::attribute;
use crate::active::ZeroBy;

/// Which of fallocate's modes are used on a file, and which commands on a namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Zeroing {
    /// `FALLOC_FL_PUNCH_HOLE`: gives space back.
    pub punch_hole: bool,
    /// `FALLOC_FL_ZERO_RANGE`: keeps it.
    pub zero_range: bool,
    /// NVMe's Deallocate, for who does not ask what the blocks read as then.
    pub deallocate: bool,
}

impl Zeroing {
    /// What a regular file of `size` bytes, open for writing, can do: tried past its end, where a hole changes nothing.
    /// A zeroed range would reserve space there, so that is not tried: where a guest wants its space kept, zeros are
    /// written.
    pub fn of_regular_file(file: impl AsFd, size: u64) -> Self {
        let hole = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        Self { punch_hole: fallocate(file, hole, size, 4096).is_ok(), zero_range: false, deallocate: false }
    }

    /// What a block device can do. The kernel zeroes ranges of any, writing where the device has no command for it; holes
    /// it punches only by such a command.
    pub fn of_block_device(file: &File) -> Self {
        let command = attribute(file, "queue/write_zeroes_max_bytes");
        let punch_hole = command.is_some_and(|bytes| bytes != "0");
        Self { punch_hole, zero_range: true, deallocate: false }
    }

    /// Neither: zeros are written.
    pub fn none() -> Self {
        Self { punch_hole: false, zero_range: false, deallocate: false }
    }

    /// The way for a discard, after which blocks may hold anything.
    pub fn choose_for_discard(self) -> ZeroBy {
        if self.deallocate { ZeroBy::Deallocate } else { self.choose(true) }
    }

    /// The way for a request that allows or forbids giving space back.
    pub fn choose(self, may_unmap: bool) -> ZeroBy {
        match self {
            Self { punch_hole: true, .. } if may_unmap => ZeroBy::PunchHole,
            Self { zero_range: true, .. } => ZeroBy::ZeroRange,
            _ => ZeroBy::Writing,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;

    #[test]
    fn probing_leaves_size_and_space_alone() {
        let file = tempfile::tempfile().unwrap();
        file.set_len(1 << 20).unwrap();
        let blocks = file.metadata().unwrap().blocks();
        Zeroing::of_regular_file(&file, 1 << 20);
        let after = file.metadata().unwrap();
        assert_eq!((after.len(), after.blocks()), (1 << 20, blocks));
    }

    #[test]
    fn space_is_kept_unless_it_may_go() {
        let both = Zeroing { punch_hole: true, zero_range: true, deallocate: false };
        assert_eq!((both.choose(true), both.choose(false)), (ZeroBy::PunchHole, ZeroBy::ZeroRange));
        let punch = Zeroing { punch_hole: true, zero_range: false, deallocate: false };
        assert_eq!((punch.choose(true), punch.choose(false)), (ZeroBy::PunchHole, ZeroBy::Writing));
        assert_eq!(Zeroing::none().choose(true), ZeroBy::Writing);
    }
}
