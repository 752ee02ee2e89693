//! The purposes for which an image or a sidecar is opened.

use std::fs::OpenOptions;

/// The purpose for which the image, or its sidecar, is opened. It determines the lock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// To look at it while other programs may use it: no lock.
    Inspect,
    /// To find out how it will be written, while another program still writes it: no lock.
    Preview,
    /// To read it while no program writes it: a shared lock.
    Read,
    /// To read and write it: an exclusive lock.
    ReadWrite,
}

impl Access {
    /// The verb for this access, for an error.
    pub(crate) fn verb(self) -> &'static str {
        match self {
            Self::Inspect | Self::Read => "read",
            Self::Preview | Self::ReadWrite => "write",
        }
    }

    /// The options that open a file for this access.
    pub(crate) fn open_options(self) -> OpenOptions {
        let mut options = OpenOptions::new();
        options.read(true).write(matches!(self, Self::Preview | Self::ReadWrite));
        options
    }
}
