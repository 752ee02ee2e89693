//! Storage that computes checksums over the pages of a write, so that they must not change during
//! I/O.

use std::fmt;
use std::fs::File;
use std::os::unix::fs::MetadataExt;

use super::block_integrity::{BlockIntegrity, attribute, attribute_of};

/// `BTRFS_SUPER_MAGIC` of `linux/magic.h`.
const BTRFS_MAGIC: u64 = 0x9123_683E;

/// Why the storage under an image needs stable pages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StablePages {
    /// The kernel generates protection information for what it writes to the device.
    KernelIntegrity,
    /// The device's queue asks for them: digests of NVMe/TCP or iSCSI, checksums of md or dm.
    Queue,
    /// The file system computes checksums of data.
    Btrfs,
}

impl StablePages {
    /// Whether, and why, the storage of the block device or regular file `file` needs them.
    pub fn needed_by(file: &File) -> Option<Self> {
        let meta = file.metadata().ok()?;
        if meta.file_type().is_file() {
            let file_system = rustix::fs::fstatfs(file).ok()?;
            if u64::try_from(file_system.f_type) == Ok(BTRFS_MAGIC) {
                return Some(Self::Btrfs);
            }
            return asks(attribute_of(meta.dev(), "queue/stable_writes").as_deref());
        }
        // a queue with an integrity profile says 0 all the same
        let generates = BlockIntegrity::detect(file).ok().flatten().is_some_and(|it| it.kernel_generates);
        if generates {
            return Some(Self::KernelIntegrity);
        }
        asks(attribute(file, "queue/stable_writes").as_deref())
    }
}

fn asks(stable_writes: Option<&str>) -> Option<StablePages> {
    (stable_writes == Some("1")).then_some(StablePages::Queue)
}

impl fmt::Display for StablePages {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::KernelIntegrity => "the kernel generates protection information for it",
            Self::Queue => "its queue asks for stable pages (queue/stable_writes)",
            Self::Btrfs => "btrfs computes checksums of its data",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_one_asks_for_stable_pages() {
        assert_eq!(asks(Some("1")), Some(StablePages::Queue));
        assert_eq!(asks(Some("0")), None);
        assert_eq!(asks(None), None);
    }
}
