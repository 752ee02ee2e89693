//! The kernels that guests run on, as `scripts/install-prerequisites` unpacked them.

use std::path::{Path, PathBuf};

use crate::GuestError;
use crate::parts::{cache, the_only_entry};

/// A kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kernel {
    /// Debian 12's, Linux 6.1.
    Stable,
    /// Debian sid's, Linux 7.2 or later, whose io_uring takes protection information.
    Unstable,
}

impl Kernel {
    /// Whether it is there: Debian sid changes too often to count on.
    #[must_use]
    pub fn is_installed(self) -> bool {
        self.image().is_ok() && self.modules().is_ok()
    }

    /// The modules of a virtio disk.
    pub(crate) fn virtio_modules(self) -> &'static [&'static str] {
        match self {
            Self::Stable => &["virtio_pci", "virtio_blk"],
            // the other is built in, and the package has no list that says so
            Self::Unstable => &["virtio_blk"],
        }
    }

    pub(crate) fn image(self) -> Result<PathBuf, GuestError> {
        the_only_entry("guest kernel", &self.root().join("boot"), "vmlinuz-")
    }

    /// `lib/modules/VERSION`.
    pub(crate) fn modules(self) -> Result<PathBuf, GuestError> {
        the_only_entry("kernel modules", &self.root().join("lib/modules"), "")
    }

    fn root(self) -> PathBuf {
        cache().join(Path::new(match self {
            Self::Stable => "kernel",
            Self::Unstable => "kernel-unstable",
        }))
    }
}
