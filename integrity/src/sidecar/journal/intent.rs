//! The state of a change of blocks, and of a flush, on its way.

use std::ops::Range;

use super::records::RecordPages;
use super::work::Waits;

/// A change of some blocks, on its way.
#[derive(Debug)]
#[must_use = "an intent that is logged must be completed"]
pub struct Intent {
    pub(super) intervals: Range<u64>,
    pub(super) record: Option<IntentRecord>,
    pub(super) waits: Option<Waits>,
}

/// The record of an intent.
#[derive(Debug, Clone, Copy)]
pub(super) struct IntentRecord {
    pub(super) pages: RecordPages,
    /// The data has to wait until the record is durable.
    pub(super) is_first: bool,
    /// The blocks are to become unwritten.
    pub(super) is_unwritten: bool,
}

/// Whether a change may be made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Permission {
    /// The data may be written.
    Granted,
    /// The caller has to ask again when the log's thread has done something.
    Later,
}

/// A flush on its way.
#[derive(Debug)]
pub struct Flush {
    /// The last page of the log of which all records have their data written.
    pub(super) complete: u64,
    /// The page up to which the log must become durable.
    pub(super) target: u64,
    pub(super) waits: Option<Waits>,
}

impl Intent {
    /// An intent to change the tuples of `intervals`, which are not empty.
    pub fn new(intervals: Range<u64>) -> Self {
        Self { intervals, record: None, waits: None }
    }

    /// The intervals.
    #[must_use]
    pub fn intervals(&self) -> &Range<u64> {
        &self.intervals
    }

    /// Whether there is a record of it, which must be completed or settled even if its data is
    /// never written.
    #[must_use]
    pub fn is_logged(&self) -> bool {
        self.record.is_some()
    }
}
