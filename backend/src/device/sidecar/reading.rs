//! The reads of a queue that need tuples.

use std::io;

use integrity::sidecar::{KeptPages, Waits};

use super::fetches::Fetches;
use crate::device::operation::DeviceOperation;
use crate::device::uring::PageRead;

/// The reads of a queue, and the pages of tuples that they need.
#[derive(Debug, Default)]
pub(super) struct Reading {
    /// Reads whose tuples were not looked up yet. Some wait until what a crash has left in doubt is
    /// verified.
    pub(super) new: Vec<(DeviceOperation, Option<Waits>)>,
    /// Those that wait, while the others are looked up.
    pub(super) unverified: Vec<(DeviceOperation, Option<Waits>)>,
    /// Reads to be submitted in this batch, each with the pages that it needs.
    pub(super) looked_up: Vec<(DeviceOperation, Option<KeptPages>)>,
    pub(super) fetches: Fetches,
    /// Pages that came back from the ring in this batch.
    pub(super) arrived: Vec<(PageRead, io::Result<()>)>,
    /// Pages that reads have kept in memory which ended without their tuples.
    pub(super) unneeded: Vec<KeptPages>,
    /// Whether there is reason to look for reads that have all of their tuples.
    pub(super) look_again: bool,
}
