//! The errors that verification finds, in the words of the kernel and of NVMe.

use std::fmt;

use thiserror::Error;

use crate::length::LengthError;

/// The tag that a check found wrong. NVMe's statuses for them: 282h, 283h, 284h, 288h.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Tag {
    /// The guard tag does not cover the data: NVMe's End-to-end Guard Check Error.
    Guard,
    /// The application tag is another: NVMe's End-to-end Application Tag Check Error.
    Application,
    /// The reference tag is another: NVMe's End-to-end Reference Tag Check Error.
    Reference,
    /// The storage tag is another: NVMe's End-to-end Storage Tag Check Error.
    Storage,
}

impl fmt::Display for Tag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Guard => "guard",
            Self::Application => "app",
            Self::Reference => "ref",
            Self::Storage => "storage",
        })
    }
}

/// A tag that is not as it should be. The message reads as the kernel's of `block/t10-pi.c`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PiError {
    /// The tag that failed.
    pub tag: Tag,
    /// The interval in the request, from 0.
    pub interval: u64,
    /// The interval's LBA: [`Tags::lba`](crate::Tags::lba) and `interval`.
    pub lba: u64,
    /// The expected value of the tag; of masked tags, the bits compared.
    pub expected: u64,
    /// The value in the tuple; of masked tags, the bits compared.
    pub actual: u64,
    /// Bits of the tag in this format.
    pub tag_size: u32,
}

impl fmt::Display for PiError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { tag, lba, expected, actual, .. } = self;
        let digits = self.tag_size.div_ceil(4) as usize;
        match tag {
            Tag::Reference => write!(f, "{tag} tag error at location {lba} (rcvd {actual}, want {expected})"),
            _ => {
                write!(f, "{tag} tag error at LBA {lba} (rcvd {actual:0digits$x}, want {expected:0digits$x})")
            }
        }
    }
}

impl std::error::Error for PiError {}

/// Why data was not found good.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum VerifyError {
    /// A tag of one interval failed its check.
    #[error(transparent)]
    Pi(#[from] PiError),
    /// The lengths do not fit, so nothing was checked.
    #[error(transparent)]
    Length(#[from] LengthError),
}
