//! A request between its pop and its return to the driver.

use virtio::{Operation, Request, SECTOR_SIZE, Status};

use crate::inflight::Direction;
use crate::range_lock::Ticket;

/// A request between pop and its return to the driver.
#[derive(Debug)]
pub struct Active {
    /// As it was parsed.
    pub request: Request,
    /// Its range, held or waited for.
    pub ticket: Option<Ticket>,
    /// Bytes for which transfers were begun.
    pub begun: u64,
    /// Operations in flight for it.
    pub in_flight: u32,
    /// What it is to be answered.
    pub status: Status,
    /// Waiting for its range, or with transfers still to begin: not to be finished yet, whatever has failed.
    pub launching: bool,
    /// A write that has been followed by its flush.
    pub flushed: bool,
}

impl Active {
    /// A request of which nothing was begun.
    pub fn new(request: Request) -> Self {
        Self {
            request,
            ticket: None,
            begun: 0,
            in_flight: 0,
            status: Status::Ok,
            launching: true,
            flushed: false,
        }
    }

    /// Which way its data goes; none for a flush.
    pub fn direction(&self) -> Option<Direction> {
        match self.request.operation {
            Operation::Read { .. } => Some(Direction::Read),
            Operation::Write { .. } => Some(Direction::Write),
            _ => None,
        }
    }

    /// Where its data starts on the device, in bytes. [`virtio::Request::check`] keeps this from overflowing.
    pub fn start(&self) -> u64 {
        match self.request.operation {
            Operation::Read { sector } | Operation::Write { sector } => sector * SECTOR_SIZE,
            _ => 0,
        }
    }

    /// Whether there is no transfer left to begin.
    pub fn all_begun(&self) -> bool {
        self.status != Status::Ok || self.begun == self.request.data.len()
    }
}
