//! A request of the guest's: what it does to which blocks, and how far it has come.

use std::ops::Range;

use stableblk_integrity::sidecar::{self, Change, Intent, SECTOR_SIZE};

use crate::setup::Setup;

/// The kinds of requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Command {
    Write,
    Discard,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    /// It asks for permission to write.
    Asking,
    Granted,
    HalfWritten,
    /// The data, or some of it, was not written.
    Settling,
}

#[derive(Debug)]
pub(super) struct Request {
    pub(super) blocks: Range<usize>,
    pub(super) command: Command,
    pub(super) data: Vec<u8>,
    pub(super) tuples: Vec<u8>,
    pub(super) intent: Intent,
    pub(super) stage: Stage,
}

/// The state of a request after a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    Waits,
    Moved,
    Done,
}

impl Request {
    /// A request whose data is that of write number `write`. It has not asked for permission yet.
    pub(super) fn new(setup: &Setup, command: Command, blocks: Range<usize>, write: u64) -> Self {
        let intervals = setup.lbas[blocks.start]..setup.lbas[blocks.end - 1] + 1;
        let count = usize::try_from(intervals.end - intervals.start).expect("few intervals");
        let (mut data, mut tuples) = (vec![0; count * setup.interval as usize], vec![0; count * 16]);
        if command == Command::Write {
            assert_eq!(count, blocks.len(), "a write's blocks are neighbours");
            stamp(&mut data, intervals.start, write);
            sidecar::generate(&setup.profile(), intervals.start, &data, &mut tuples)
                .expect("a tuple for each block");
        }
        Self { blocks, command, data, tuples, intent: Intent::new(intervals), stage: Stage::Asking }
    }
}

/// The change of tuples that a command makes.
pub(super) fn change_of(command: Command, tuples: &[u8]) -> Change<'_> {
    match command {
        Command::Write => Change::Written(tuples),
        Command::Discard => Change::Unwritten,
    }
}

/// Data that no other write has.
fn stamp(data: &mut [u8], lba: u64, write: u64) {
    for (sector, bytes) in (0_u64..).zip(data.as_chunks_mut::<SECTOR_SIZE>().0) {
        for (word, bytes) in (0_u64..).zip(bytes.as_chunks_mut::<8>().0) {
            *bytes = (write << 40 | lba << 20 | sector << 8 | word).to_be_bytes();
        }
    }
}
