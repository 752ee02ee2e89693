//! The intervals that do not agree with their tuples.

use super::{APPLICATION_TAG, LOST, is_unwritten, tags};
use crate::sidecar::is_zero;
use crate::{Checks, IntegrityProfile, LengthError, PiError, Tag, VerifyError};

/// The application tag that would turn an interval's checks off: SBC-4 §4.21.2.
const ESCAPE: u16 = 0xFFFF;

/// An interval that does not agree with its tuple.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Mismatch {
    /// A tag is not as it should be.
    #[error(transparent)]
    Pi(#[from] PiError),
    /// The tuple says that the interval was never written, but the interval is not all zeros.
    #[error("unwritten block not zero at LBA {lba}")]
    UnwrittenNotZero {
        /// The interval's number in the image.
        lba: u64,
    },
    /// The part of the sidecar with the interval's tuple has rotted, so nothing can be said of the
    /// data.
    #[error("tuple lost at LBA {lba}: its sector of the sidecar was damaged")]
    TupleLost {
        /// The interval's number in the image.
        lba: u64,
    },
}

impl Mismatch {
    /// The interval's number in the image.
    #[must_use]
    pub fn lba(&self) -> u64 {
        match self {
            Self::Pi(error) => error.lba,
            Self::UnwrittenNotZero { lba } | Self::TupleLost { lba } => *lba,
        }
    }
}

/// All intervals of `data` that do not agree with their tuples, in order; each is reported once,
/// with the first tag that failed.
pub fn mismatches<'a>(
    profile: &'a IntegrityProfile,
    first_interval: u64,
    data: &'a [u8],
    metadata: &'a [u8],
) -> Result<Mismatches<'a>, LengthError> {
    // with nothing to check, verification comes down to the check of the lengths
    match profile.verify(&tags(first_interval), Checks::empty(), data, metadata) {
        Err(VerifyError::Length(error)) => Err(error),
        _ => Ok(Mismatches {
            profile,
            first_interval,
            data,
            metadata,
            next: 0,
            kind: TupleKind::Written,
            run_end: 0,
        }),
    }
}

/// The iterator of [`mismatches`].
#[derive(Debug, Clone)]
pub struct Mismatches<'a> {
    profile: &'a IntegrityProfile,
    first_interval: u64,
    data: &'a [u8],
    metadata: &'a [u8],
    /// The next interval to check, counted from the first.
    next: usize,
    /// The kind of all tuples from `next` to `run_end`: runs are verified in one call.
    kind: TupleKind,
    run_end: usize,
}

/// The kinds of tuples that are checked in different ways.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum TupleKind {
    Unwritten,
    Escape,
    Lost,
    Written,
}

impl Iterator for Mismatches<'_> {
    type Item = Mismatch;

    fn next(&mut self) -> Option<Mismatch> {
        while self.next < self.data.len() / self.profile.interval_size() {
            if self.next == self.run_end {
                self.start_run();
            }
            let found = match self.kind {
                TupleKind::Unwritten => self.find_not_zero(),
                TupleKind::Escape => Some((self.next, self.escape())),
                TupleKind::Lost => Some((self.next, Mismatch::TupleLost { lba: self.lba(self.next) })),
                TupleKind::Written => self.find_pi_error(),
            };
            let Some((index, mismatch)) = found else {
                self.next = self.run_end;
                continue;
            };
            self.next = index + 1;
            return Some(mismatch);
        }
        None
    }
}

impl Mismatches<'_> {
    fn start_run(&mut self) {
        let intervals = self.data.len() / self.profile.interval_size();
        let tuples = self.metadata.chunks_exact(self.profile.metadata_size()).take(intervals);
        let mut kinds = tuples.skip(self.next).map(|tuple| self.kind_of(tuple));
        if let Some(kind) = kinds.next() {
            let alike = kinds.take_while(|&next| next == kind).count();
            self.kind = kind;
            self.run_end = self.next + 1 + alike;
        }
    }

    fn kind_of(&self, tuple: &[u8]) -> TupleKind {
        match self.profile.tuple(tuple).map(|tuple| tuple.application) {
            Ok(APPLICATION_TAG) => TupleKind::Written,
            Ok(LOST) => TupleKind::Lost,
            Ok(ESCAPE) => TupleKind::Escape,
            _ if is_unwritten(tuple) => TupleKind::Unwritten,
            _ => TupleKind::Written,
        }
    }

    fn find_not_zero(&self) -> Option<(usize, Mismatch)> {
        let (data, _) = self.rest();
        let index =
            self.next + data.chunks_exact(self.profile.interval_size()).position(|it| !is_zero(it))?;
        Some((index, Mismatch::UnwrittenNotZero { lba: self.lba(index) }))
    }

    fn find_pi_error(&self) -> Option<(usize, Mismatch)> {
        let (data, metadata) = self.rest();
        match self.profile.verify(&tags(self.lba(self.next)), Checks::all(), data, metadata) {
            Err(VerifyError::Pi(error)) => {
                let in_run = usize::try_from(error.interval).expect("an interval of a slice");
                let index = self.next + in_run;
                Some((index, PiError { interval: index as u64, ..error }.into()))
            }
            _ => None,
        }
    }

    /// No tuple of ours has the escape, so here it is no more than a wrong application tag.
    fn escape(&self) -> Mismatch {
        PiError {
            tag: Tag::Application,
            interval: self.next as u64,
            lba: self.lba(self.next),
            expected: APPLICATION_TAG.into(),
            actual: ESCAPE.into(),
            tag_size: u16::BITS,
        }
        .into()
    }

    /// Data and metadata of what is left of the run.
    fn rest(&self) -> (&[u8], &[u8]) {
        let (interval_size, metadata_size) = (self.profile.interval_size(), self.profile.metadata_size());
        (
            &self.data[self.next * interval_size..self.run_end * interval_size],
            &self.metadata[self.next * metadata_size..self.run_end * metadata_size],
        )
    }

    fn lba(&self, index: usize) -> u64 {
        self.first_interval + index as u64
    }
}
