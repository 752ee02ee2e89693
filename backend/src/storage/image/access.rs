//! What an image or a sidecar is opened for.

use std::fs::OpenOptions;

/// What the image, or its sidecar, is opened for, and so how it is locked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// To look at it while others may use it: no lock.
    Inspect,
    /// To learn how it will be written, while somebody else still does: no lock.
    Preview,
    /// To read it while nobody writes: a shared lock.
    Read,
    /// To read and write it: an exclusive lock.
    ReadWrite,
}

impl Access {
    /// What opening the file is for, in an error.
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
