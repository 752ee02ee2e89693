//! How a file can make blocks read as zeros without writing them.

use std::fs::File;
use std::os::fd::AsFd;

use rustix::fs::{FallocateFlags, Mode, OFlags, fallocate, fstat};

use super::block_integrity::attribute;
use crate::device::operation::ZeroBy;
use crate::storage::image::{Access, Image};

/// Which of fallocate's modes are used on a file, and which commands on a namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Zeroing {
    /// `FALLOC_FL_PUNCH_HOLE`: gives space back.
    pub punch_hole: bool,
    /// `FALLOC_FL_ZERO_RANGE`: keeps it.
    pub zero_range: bool,
    /// NVMe's Deallocate, after which the blocks may read as anything.
    pub deallocate: bool,
}

impl Zeroing {
    /// The ways of the regular file of `image`. The probe uses a file without a name in the image's
    /// directory: an image that is not locked must not be changed, not even past its end, where its
    /// owner may have written meanwhile. Where no such file can be made, a locked image is probed
    /// past its end, and an image that is not locked is assumed to have holes: taking it over
    /// probes again. A zeroed range would reserve space, so that is not tried: where a guest wants
    /// its space kept, zeros are written.
    pub fn of_regular_file(image: &Image) -> Self {
        let punch_hole = match image.access() {
            Access::Inspect | Access::Read => false,
            Access::Preview => punches_beside(image).unwrap_or(true),
            Access::ReadWrite => punches_beside(image).unwrap_or_else(|| punches(image.file(), image.size())),
        };
        Self { punch_hole, zero_range: false, deallocate: false }
    }

    /// The ways of a block device. The kernel zeroes ranges of any, writing where the device has no
    /// command for it; holes it punches only by such a command.
    pub fn of_block_device(file: &File) -> Self {
        let command = attribute(file, "queue/write_zeroes_max_bytes");
        let punch_hole = command.is_some_and(|bytes| bytes != "0");
        Self { punch_hole, zero_range: true, deallocate: false }
    }

    /// No way but to write zeros.
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

/// Whether a hole can be punched into a new file on the image's file system; none where no file can
/// be made there.
fn punches_beside(image: &Image) -> Option<bool> {
    let path = image.path().canonicalize().ok()?;
    let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
    let file = rustix::fs::open(path.parent()?, flags, Mode::RUSR | Mode::WUSR).ok()?;
    // a file may be mounted into a directory of another file system
    let is_there = fstat(&file).ok()?.st_dev == fstat(image.file()).ok()?.st_dev;
    is_there.then(|| punches(file, 0))
}

/// Whether a hole can be punched at `offset`, where `file` ends.
fn punches(file: impl AsFd, offset: u64) -> bool {
    fallocate(file, FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE, offset, 4096).is_ok()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use crate::storage::image::DirectIo;

    use super::*;

    #[test]
    fn probing_changes_nothing_of_the_image() {
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(1 << 20).unwrap();
        let of = || {
            let metadata = file.as_file().metadata().unwrap();
            (metadata.len(), metadata.blocks(), metadata.ctime(), metadata.ctime_nsec())
        };
        let before = of();
        for access in [Access::Preview, Access::ReadWrite] {
            let image = Image::open(file.path(), access, DirectIo::Never).unwrap();
            Zeroing::of_regular_file(&image);
            assert_eq!(of(), before);
        }
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
