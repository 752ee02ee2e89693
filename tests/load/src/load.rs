//! Requests in flight on all queues of a disk.

use std::ops::Range;
use std::path::Path;

use blkio::{Error, ReqFlags};

use crate::plan::SECTORS_MAX;
use crate::stamp::SECTOR;
use crate::{ChangeKind, Client, History, Step, connect, stamped};

const QUEUES: usize = 4;
/// In flight on all queues together.
const DEPTH: usize = 32;
#[expect(clippy::cast_possible_truncation, reason = "64 KiB")]
const BUFFER_LEN: usize = SECTORS_MAX as usize * SECTOR;

/// A request in flight.
#[derive(Debug)]
enum Operation {
    Read(Range<u64>),
    Change(u64, Range<u64>),
    /// It makes changes durable up to this version.
    Flush(u64),
}

/// A session on a disk that keeps requests in flight, and compares what it reads.
///
/// Nothing may fail: a panic says what did.
#[derive(Debug)]
pub struct Load {
    client: Client,
    /// The operations in flight, by buffer and `user_data`. Slot `i` is of queue `i` modulo
    /// [`QUEUES`].
    slots: Vec<Option<Operation>>,
    /// The slot that was used last.
    last: usize,
    history: History,
    flushed: u64,
}

impl Operation {
    fn sectors(&self) -> Range<u64> {
        match self {
            Self::Read(sectors) | Self::Change(_, sectors) => sectors.clone(),
            Self::Flush(_) => 0..0,
        }
    }
}

impl Load {
    /// Connects to the back-end at `socket`, whose disk has seen `history`.
    ///
    /// # Errors
    /// What `blkio` says.
    pub fn start(socket: &Path, history: History) -> Result<Self, Error> {
        #[expect(clippy::cast_possible_wrap, clippy::cast_possible_truncation, reason = "4")]
        let client = Client::start(connect(socket, false)?, QUEUES as i32, DEPTH * BUFFER_LEN)?;
        let slots = (0..DEPTH).map(|_| None).collect();
        // data that a recovery has read is durable
        let flushed = history.newest();
        Ok(Self { client, slots, last: 0, history, flushed })
    }

    /// Submits a request, as soon as nothing that overlaps it is in flight and a buffer is free.
    pub fn submit(&mut self, step: Step) {
        let sectors = step.sectors();
        while let Some(slot) = self.slots.iter().position(|slot| overlaps(slot.as_ref(), &sectors)) {
            self.wait(slot % QUEUES);
        }
        let slot = loop {
            let next = (self.last + 1..).map(|slot| slot % DEPTH).take(DEPTH);
            match next.clone().find(|&slot| self.slots[slot].is_none()) {
                Some(free) => break free,
                None => self.wait((self.last + 1) % QUEUES),
            }
        };
        self.slots[slot] = Some(self.hand_over(step, slot));
        self.last = slot;
        self.collect();
    }

    /// Takes what is complete.
    pub fn collect(&mut self) {
        for queue in 0..QUEUES {
            let complete = self.client.reap(queue, 0, DEPTH);
            self.finish(complete);
        }
    }

    /// Waits until nothing is in flight.
    pub fn drain(&mut self) {
        while let Some(slot) = self.slots.iter().position(Option::is_some) {
            self.wait(slot % QUEUES);
        }
    }

    /// Reads the whole disk, after which its content is known.
    pub fn read_all(&mut self) {
        let sectors = self.history.sectors();
        for start in (0..sectors).step_by(BUFFER_LEN / SECTOR) {
            self.submit(Step::Read(start..(start + SECTORS_MAX).min(sectors)));
        }
        self.drain();
    }

    /// The newest version up to which all changes are durable, as flushes say.
    #[must_use]
    pub fn flushed(&self) -> u64 {
        self.flushed
    }

    /// How many requests are in flight.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.slots.iter().flatten().count()
    }

    /// The disk's history so far, with what this session did to it.
    #[must_use]
    pub fn history(&self) -> &History {
        &self.history
    }

    /// The disk's history with what this session did to it.
    #[must_use]
    pub fn into_history(self) -> History {
        self.history
    }

    /// Puts a request on the queue of its slot.
    fn hand_over(&mut self, step: Step, slot: usize) -> Operation {
        let (offset, flags) = (slot * BUFFER_LEN, ReqFlags::empty());
        let buffer = self.client.buffer(offset);
        let (start, len) = bytes(&step.sectors());
        let client = &mut self.client;
        match step {
            Step::Read(sectors) => {
                client.queues[slot % QUEUES].read(start, buffer, len, slot, flags);
                Operation::Read(sectors)
            }
            Step::Change(change) => {
                let (sectors, kind) = (change.sectors.clone(), change.kind);
                let version = self.history.begin(change);
                if kind == ChangeKind::Write {
                    client.fill(offset, &stamped(sectors.start, len / SECTOR, version));
                }
                let queue = &mut client.queues[slot % QUEUES];
                match kind {
                    ChangeKind::Write => queue.write(start, buffer, len, slot, flags),
                    ChangeKind::Discard => queue.discard(start, len as u64, slot, flags),
                    ChangeKind::WriteZeroes => queue.write_zeroes(start, len as u64, slot, flags),
                }
                Operation::Change(version, sectors)
            }
            Step::Flush => {
                client.queues[slot % QUEUES].flush(slot, flags);
                Operation::Flush(self.complete_through())
            }
        }
    }

    /// Waits for something of `queue`, which has something in flight.
    fn wait(&mut self, queue: usize) {
        let complete = self.client.reap(queue, 1, DEPTH);
        self.finish(complete);
    }

    fn finish(&mut self, complete: Vec<(usize, i32)>) {
        for (slot, result) in complete {
            let operation = self.slots[slot].take().expect("it was in flight");
            assert_eq!(result, 0, "{operation:?} failed");
            match operation {
                Operation::Read(sectors) => {
                    let data = self.client.contents(slot * BUFFER_LEN, bytes(&sectors).1);
                    self.history.observe(sectors.start, &data).unwrap_or_else(|wrong| panic!("{wrong}"));
                }
                Operation::Change(version, _) => self.history.settle(version),
                Operation::Flush(version) => self.flushed = self.flushed.max(version),
            }
        }
    }

    /// The newest version up to which all changes are complete.
    #[must_use]
    pub fn complete_through(&self) -> u64 {
        let in_flight = self.slots.iter().flatten().filter_map(|operation| match operation {
            Operation::Change(version, _) => Some(version - 1),
            Operation::Read(_) | Operation::Flush(_) => None,
        });
        in_flight.min().unwrap_or(self.history.newest())
    }
}

fn overlaps(operation: Option<&Operation>, sectors: &Range<u64>) -> bool {
    operation
        .map(Operation::sectors)
        .is_some_and(|other| other.start.max(sectors.start) < other.end.min(sectors.end))
}

/// Offset and length.
#[expect(clippy::cast_possible_truncation, reason = "a request's length")]
fn bytes(sectors: &Range<u64>) -> (u64, usize) {
    (sectors.start * SECTOR as u64, (sectors.end - sectors.start) as usize * SECTOR)
}
