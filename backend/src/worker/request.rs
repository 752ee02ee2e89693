//! A request between its pop and its return to the driver.

use smallvec::SmallVec;
use virtio::{Operation, Range, Request, SECTOR_SIZE, Status};

use crate::device::Zeroing;
use crate::device::operation::Transfer;
use crate::device::operation::ZeroBy;
use crate::worker::range_lock::{RangeAccess, Ticket};

/// What has to be done for a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Work {
    /// Device to guest.
    Read,
    /// Guest to device.
    Write,
    /// Blocks that shall read as zeros.
    Zero(ZeroBy),
    /// All completed writes made stable.
    Flush,
}

/// A request that was popped and passed its checks.
#[derive(Debug)]
pub struct Active {
    /// As it was parsed.
    pub request: Request,
    /// When it was popped, by the worker's clock, in nanoseconds.
    pub popped: u64,
    /// What it asks for.
    pub work: Work,
    /// Where on the device, in bytes.
    pub start: u64,
    /// How much, in bytes; not zero, but for a flush.
    pub len: u64,
    /// Its range, held or waited for.
    pub ticket: Option<Ticket>,
    /// Bytes for which operations were begun.
    pub begun: u64,
    /// Operations in flight for it, and those of `arrived`.
    pub in_flight: usize,
    /// Parts of a read that were verified and wait for the others.
    pub arrived: SmallVec<[Transfer; 1]>,
    /// What it is to be answered.
    pub status: Status,
    /// Waiting for its range, or with operations still to begin: not to be finished yet, whatever has failed.
    pub launching: bool,
    /// Changed data that has been followed by its flush.
    pub flushed: bool,
}

impl Active {
    /// A request of which nothing was begun. It must have passed [`virtio::Request::check`], which also keeps the sums
    /// here from overflowing.
    ///
    /// `Err` gives a request back that needs no device: one for no bytes, or of a type that has no [`Work`].
    #[expect(clippy::result_large_err, reason = "a request that is not taken comes back whole")]
    pub fn new(request: Request, popped: u64, zeroing: Zeroing) -> Result<Self, Request> {
        let (work, sector, len) = match &request.operation {
            Operation::Read { sector } => (Work::Read, *sector, request.data.len()),
            Operation::Write { sector } => (Work::Write, *sector, request.data.len()),
            Operation::Flush => (Work::Flush, 0, 0),
            Operation::Discard(ranges) | Operation::WriteZeroes(ranges) => {
                // DiskLimits allows one range a request
                let Some(range) = ranges.first() else { return Err(request) };
                let by = match request.operation {
                    Operation::Discard(_) => zeroing.choose_for_discard(),
                    _ => zeroing.choose(range.flags & Range::UNMAP != 0),
                };
                let len = u64::from(range.num_sectors) * SECTOR_SIZE;
                (Work::Zero(by), range.sector, len)
            }
            Operation::GetId | Operation::Unknown(_) => return Err(request),
        };
        if len == 0 && work != Work::Flush {
            return Err(request);
        }
        Ok(Self {
            request,
            popped,
            work,
            start: sector * SECTOR_SIZE,
            len,
            ticket: None,
            begun: 0,
            in_flight: 0,
            arrived: SmallVec::new(),
            status: Status::Ok,
            launching: true,
            flushed: false,
        })
    }

    /// How its range must be held; `None` for a flush, which has none.
    pub fn access(&self) -> Option<RangeAccess> {
        match self.work {
            Work::Read => Some(RangeAccess::Shared),
            Work::Write | Work::Zero(_) => Some(RangeAccess::Exclusive),
            Work::Flush => None,
        }
    }

    /// Whether all parts that were begun have arrived, and there are any to give to the guest.
    pub fn is_deliverable(&self) -> bool {
        !self.arrived.is_empty() && self.arrived.len() == self.in_flight
    }

    /// Whether there is no operation left to begin.
    pub fn all_begun(&self) -> bool {
        self.status != Status::Ok || self.begun == self.len
    }
}
