//! Checking tuples against the data and the expected tags.

use std::fmt;

use thiserror::Error;

use crate::length::LengthError;
use crate::profile::{IntegrityProfile, PiType};
use crate::tags::{Checks, Tags};
use crate::tuple::Tuple;

/// The application tag that, by the rules of the type, turns an interval's checks off.
const APPLICATION_ESCAPE: u16 = 0xFFFF;

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
    /// The interval's LBA: [`Tags::lba`] and `interval`.
    pub lba: u64,
    /// What the tag should be; of masked tags, the bits compared.
    pub expected: u64,
    /// What the tuple holds; of masked tags, the bits compared.
    pub actual: u64,
    /// Bits of the tag in this format.
    pub tag_size: u32,
}

impl fmt::Display for PiError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            tag,
            lba,
            expected,
            actual,
            ..
        } = self;
        let digits = self.tag_size.div_ceil(4) as usize;
        match tag {
            Tag::Reference => write!(
                f,
                "{tag} tag error at location {lba} (rcvd {actual}, want {expected})"
            ),
            _ => write!(
                f,
                "{tag} tag error at LBA {lba} (rcvd {actual:0digits$x}, want {expected:0digits$x})"
            ),
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

impl IntegrityProfile {
    /// Checks the intervals of `data` against their tuples in `metadata`, in order, up to the first error.
    ///
    /// Within an interval the order is NVMe's: guard, application, reference, then storage tag. An interval whose
    /// tuple holds the escape is not checked: application tag 0xFFFF, and for Type 3 also a reference tag of all
    /// ones (SBC-4 §4.21.2, NVM Command Set specification §5.2.1.5).
    pub fn verify(
        &self,
        tags: &Tags,
        checks: Checks,
        data: &[u8],
        metadata: &[u8],
    ) -> Result<(), VerifyError> {
        self.check_lengths(data.len(), metadata.len())?;
        let intervals = data.chunks_exact(self.interval_size());
        for ((index, interval), metadata) in (0..)
            .zip(intervals)
            .zip(metadata.chunks_exact(self.metadata_size()))
        {
            let tuple = self.decode(metadata);
            if self.is_escape(&tuple) {
                continue;
            }
            if checks.contains(Checks::GUARD) {
                let guard = self.guard_of(interval, &metadata[..self.tuple_offset()]);
                self.compare(tags, index, Tag::Guard, guard, tuple.guard)?;
            }
            self.compare_tags(tags, checks, index, &tuple)?;
        }
        Ok(())
    }

    #[inline]
    fn is_escape(&self, tuple: &Tuple) -> bool {
        tuple.application == APPLICATION_ESCAPE
            && (self.pi_type() != PiType::Type3 || tuple.reference == self.reference_mask())
    }

    #[inline]
    fn compare_tags(&self, tags: &Tags, checks: Checks, index: u64, tuple: &Tuple) -> Result<(), PiError> {
        if checks.contains(Checks::APPLICATION) {
            let mask = tags.application_mask;
            let (expected, actual) = (tags.application & mask, tuple.application & mask);
            self.compare(tags, index, Tag::Application, expected.into(), actual.into())?;
        }
        if checks.contains(Checks::REFERENCE) && self.pi_type() != PiType::Type3 {
            let expected = self.reference_at(tags.reference, index);
            self.compare(tags, index, Tag::Reference, expected, tuple.reference)?;
        }
        if checks.contains(Checks::STORAGE) {
            self.compare(
                tags,
                index,
                Tag::Storage,
                tags.storage & self.storage_mask(),
                tuple.storage,
            )?;
        }
        Ok(())
    }

    #[inline]
    fn compare(&self, tags: &Tags, index: u64, tag: Tag, expected: u64, actual: u64) -> Result<(), PiError> {
        if expected == actual {
            return Ok(());
        }
        let tag_size = match tag {
            Tag::Guard => self.guard().size(),
            Tag::Application => u16::BITS,
            Tag::Reference => self.reference_tag_size(),
            Tag::Storage => self.storage_tag_size(),
        };
        Err(PiError {
            tag,
            interval: index,
            lba: tags.lba.wrapping_add(index),
            expected,
            actual,
            tag_size,
        })
    }
}
