//! The mark of an image, or of a device's node, on which durability was lost: an extended
//! attribute.
//!
//! A sidecar has a place of its own for that; the mark is for storage without one. A node may
//! outlive its disk, so the mark names the disk.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt};

use rustix::fs::{XattrFlags, fgetxattr, fremovexattr, fsetxattr};
use rustix::io::Errno;

use crate::storage::reopen::reopen;

/// The attribute of a file, and that of a device's node, which takes no attributes of users.
const ATTRIBUTES: [&str; 2] = ["user.stableblk.durability-lost", "trusted.stableblk.durability-lost"];

/// The longest value of a mark, in bytes.
const VALUE_MAX: usize = 32;

/// Where the mark is made.
#[derive(Debug)]
pub struct LossMark {
    /// An open file description of its own: the one with the lock would keep that after a
    /// hand-over.
    file: File,
}

impl LossMark {
    /// The mark of `file`.
    pub fn of(file: &File) -> io::Result<Self> {
        Ok(Self { file: reopen(file, OpenOptions::new().read(true))? })
    }

    /// Whether `file` carries the mark. A mark that cannot be read counts as one.
    pub fn is_on(file: &File) -> bool {
        let mut found = [0; VALUE_MAX];
        ATTRIBUTES.iter().any(|name| match fgetxattr(file, *name, &mut found) {
            Ok(len) => found[..len] == *value_for(file).as_bytes(),
            Err(error) => !is_absent(error),
        })
    }

    /// Whether it is made.
    pub fn is_made(&self) -> bool {
        Self::is_on(&self.file)
    }

    /// Makes it, durably.
    pub fn make(&self) -> io::Result<()> {
        let value = value_for(&self.file);
        let set = |name| fsetxattr(&self.file, name, value.as_bytes(), XattrFlags::empty());
        match set(ATTRIBUTES[0]) {
            Err(error) if is_absent(error) => set(ATTRIBUTES[1])?,
            outcome => outcome?,
        }
        self.sync()
    }

    /// Takes it away, durably.
    pub fn remove(&self) -> io::Result<()> {
        for name in ATTRIBUTES {
            match fremovexattr(&self.file, name) {
                Err(error) if !is_absent(error) => return Err(error.into()),
                _ => {}
            }
        }
        self.sync()
    }

    /// Makes the attribute durable. The kernel reports an error of the file's data once to each
    /// description, and the loss that the mark is of may not have been reported to this one: then
    /// the sync may have ended before it came to the attribute, and a second one does.
    fn sync(&self) -> io::Result<()> {
        self.file.sync_all().or_else(|_| self.file.sync_all())
    }
}

/// The value of a mark on `file`: for a block device the sequence number that the kernel has given
/// the disk, which no other disk gets. A character device, or an old kernel, has none.
fn value_for(file: &File) -> String {
    let number = file.metadata().ok().filter(|it| it.file_type().is_block_device()).and_then(|it| {
        let (major, minor) = (rustix::fs::major(it.rdev()), rustix::fs::minor(it.rdev()));
        let device = format!("/sys/dev/block/{major}:{minor}");
        // that of a partition is its disk's
        ["diskseq", "../diskseq"].iter().find_map(|name| fs::read_to_string(format!("{device}/{name}")).ok())
    });
    let mut value = number.as_deref().map_or("1", str::trim_ascii).to_owned();
    value.truncate(VALUE_MAX);
    value
}

/// Whether the error says that there is no such attribute, or can be none on this file.
fn is_absent(error: Errno) -> bool {
    matches!(error, Errno::NODATA | Errno::NOTSUP | Errno::PERM)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt;

    use super::*;
    use crate::storage::thin_device::ThinDevice;

    #[test]
    fn it_is_made_and_taken_away() {
        // not in a temporary directory, which may lie in memory and have no attributes
        let file = tempfile::tempfile_in(env!("CARGO_MANIFEST_DIR")).unwrap();
        let mark = LossMark::of(&file).unwrap();
        assert!(!mark.is_made());
        mark.make().unwrap();
        mark.make().unwrap();
        assert!(mark.is_made() && LossMark::is_on(&file));
        mark.remove().unwrap();
        mark.remove().unwrap();
        assert!(!LossMark::is_on(&file));
    }

    /// The error for which the mark is made is reported to the mark's own description too.
    #[test]
    fn it_is_made_durable_after_a_real_error() {
        let Some(thin) = ThinDevice::attach() else { return };
        let node = File::options().write(true).open(thin.path()).unwrap();
        let mark = LossMark::of(&node).unwrap();
        node.write_all_at(&vec![1; 4 << 20], 2 << 20).unwrap();
        node.sync_data().unwrap_err();
        mark.make().unwrap();
        assert!(mark.is_made());
        mark.remove().unwrap();
    }

    #[test]
    fn the_mark_of_a_disk_that_is_gone_is_none() {
        let Some(thin) = ThinDevice::attach() else { return };
        let node = File::open(thin.path()).unwrap();
        let mark = LossMark::of(&node).unwrap();
        mark.make().unwrap();
        assert!(mark.is_made());
        // a mark that another disk has left on the node
        fsetxattr(&node, ATTRIBUTES[1], b"0", XattrFlags::empty()).unwrap();
        assert!(!mark.is_made());
        mark.remove().unwrap();
    }

    #[test]
    fn where_there_are_no_attributes_it_cannot_be_made() {
        let pipe = File::open("/proc/self/maps").unwrap();
        let mark = LossMark::of(&pipe).unwrap();
        assert!(!mark.is_made());
        mark.make().unwrap_err();
    }
}
