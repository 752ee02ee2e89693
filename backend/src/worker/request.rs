//! A request between its pop and its return to the driver.
//!
//! ```text
//! Waiting -> Launching -> Launched -> [Flushing -> Flushed] -> answered
//!    ^           |
//!    +-----------+  no folio is free
//! ```

use smallvec::SmallVec;
use virtio::{Operation, Range, Request, SECTOR_SIZE, Status};

use crate::device::Zeroing;
use crate::device::operation::{Transfer, ZeroBy};
use crate::worker::range_lock::{RangeAccess, Ticket};
use crate::worker::stages::{Stage, Stages};

/// The work that a request needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum RequestWork {
    /// Device to guest.
    Read,
    /// Guest to device.
    Write,
    /// Blocks are made to read as zeros.
    Zero(ZeroBy),
    /// All completed writes are made stable.
    Flush,
}

/// How far a request has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum RequestStage {
    /// It waits for its range of the disk, for its turn, or for a free folio. Operations that were
    /// begun before the folios ran out may be in flight.
    Waiting,
    /// Its operations are being begun.
    Launching,
    /// No operation is left to begin.
    Launched,
    /// Its data has been written, and the flush that makes it stable is in flight.
    Flushing,
    /// That flush has come back.
    Flushed,
}

/// The next step for a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Next {
    /// Nothing before something else happens.
    Wait,
    /// A flush of the data that it has written.
    Flush,
    /// The answer.
    Answer,
}

/// A request that was popped and has passed its checks.
#[derive(Debug)]
pub(super) struct ActiveRequest {
    /// The request as it was parsed.
    pub(super) request: Request,
    /// When it was popped, by the worker's clock, in nanoseconds.
    pub(super) popped: u64,
    /// The work that it asks for.
    pub(super) work: RequestWork,
    /// Where it starts on the device, in bytes; 0 for a flush.
    pub(super) start: u64,
    /// Its length on the device, in bytes; 0 for a flush alone.
    pub(super) len: u64,
    /// Its place in the range lock's table; `None` where it needs none.
    pub(super) ticket: Option<Ticket>,
    /// Its answer, as far as is known: `Ok` until a part of it has failed.
    pub(super) status: Status,
    /// When it reached its stages, if it is timed.
    pub(super) stages: Option<Box<Stages>>,
    /// Parts of a read that were verified and are held until the others have come back.
    parts: SmallVec<[Transfer; 1]>,
    stage: RequestStage,
    /// Bytes of its data for which operations have been begun.
    begun: u64,
    /// Operations that have been begun and have not come back.
    in_flight: usize,
}

impl ActiveRequest {
    /// A request for which nothing was begun. It must have passed [`Request::check`], which also
    /// keeps the sums here from overflowing.
    ///
    /// `Err` gives a request back that needs no device: one of no bytes, or of a type that has no
    /// [`RequestWork`].
    #[expect(clippy::result_large_err, reason = "a request that is not taken comes back whole")]
    pub(super) fn new(request: Request, popped: u64, zeroing: Zeroing) -> Result<Self, Request> {
        let (work, sector, len) = match &request.operation {
            Operation::Read { sector } => (RequestWork::Read, *sector, request.data.len()),
            Operation::Write { sector } => (RequestWork::Write, *sector, request.data.len()),
            Operation::Flush => (RequestWork::Flush, 0, 0),
            Operation::Discard(ranges) | Operation::WriteZeroes(ranges) => {
                // DiskLimits allows one range a request
                let Some(range) = ranges.first() else { return Err(request) };
                let by = match request.operation {
                    Operation::Discard(_) => zeroing.choose_for_discard(),
                    _ => zeroing.choose(range.flags & Range::UNMAP != 0),
                };
                let len = u64::from(range.num_sectors) * SECTOR_SIZE;
                (RequestWork::Zero(by), range.sector, len)
            }
            Operation::GetId | Operation::Unknown(_) => return Err(request),
        };
        if len == 0 && work != RequestWork::Flush {
            return Err(request);
        }
        Ok(Self {
            request,
            popped,
            work,
            start: sector * SECTOR_SIZE,
            len,
            ticket: None,
            status: Status::Ok,
            stages: None,
            parts: SmallVec::new(),
            stage: RequestStage::Waiting,
            begun: 0,
            in_flight: 0,
        })
    }

    /// How its range must be held; `None` for a flush, which has none.
    pub(super) fn access(&self) -> Option<RangeAccess> {
        match self.work {
            RequestWork::Read => Some(RangeAccess::Shared),
            RequestWork::Write | RequestWork::Zero(_) => Some(RangeAccess::Exclusive),
            RequestWork::Flush => None,
        }
    }

    /// Notes that it reaches `stage` now, if it is timed.
    #[inline]
    pub(super) fn reach(&mut self, stage: Stage) {
        if let Some(stages) = &mut self.stages {
            stages.reach(stage);
        }
    }

    /// Starts, or resumes, to begin its operations.
    pub(super) fn start_launch(&mut self) {
        self.reach(Stage::Range);
        self.advance(RequestStage::Waiting, RequestStage::Launching);
    }

    /// Stops to begin operations until a folio is free.
    pub(super) fn pause_launch(&mut self) {
        self.advance(RequestStage::Launching, RequestStage::Waiting);
    }

    /// No operation is left to begin.
    pub(super) fn end_launch(&mut self) {
        self.reach(Stage::Submitted);
        self.advance(RequestStage::Launching, RequestStage::Launched);
    }

    fn advance(&mut self, from: RequestStage, to: RequestStage) {
        debug_assert_eq!(self.stage, from, "a request that is to be {to:?}");
        self.stage = to;
    }

    /// Where its data starts for which no operation has been begun, in bytes; `None` when there is
    /// no more to begin, or none that makes sense after a failure.
    pub(super) fn next_to_begin(&self) -> Option<u64> {
        (self.is_waiting() && self.status == Status::Ok && self.begun < self.len).then_some(self.begun)
    }

    /// An operation on the next `bytes` bytes of its data has begun.
    pub(super) fn begin(&mut self, bytes: u64) {
        debug_assert_eq!(self.stage, RequestStage::Launching, "a request of which a part begins");
        self.begun += bytes;
        self.in_flight += 1;
    }

    /// An operation has come back.
    pub(super) fn end(&mut self) {
        self.reach(Stage::Completed);
        self.in_flight -= 1;
        if self.stage == RequestStage::Flushing {
            self.stage = RequestStage::Flushed;
        }
    }

    /// A part of a read has come back and was verified.
    pub(super) fn keep(&mut self, part: Transfer) {
        self.parts.push(part);
        self.end();
    }

    /// Whether the guest is to get the parts that are held: all that were begun have come back, and
    /// no other is being begun at this moment.
    pub(super) fn is_deliverable(&self) -> bool {
        !self.parts.is_empty() && self.in_flight == 0 && self.stage != RequestStage::Launching
    }

    /// The parts that are held, in the order of the request's data.
    pub(super) fn take_parts(&mut self) -> SmallVec<[Transfer; 1]> {
        let mut parts = std::mem::take(&mut self.parts);
        parts.sort_unstable_by_key(|part| part.piece().data_offset);
        parts
    }

    /// The next step. A flush that is next counts as begun, so it is next only once. `writethrough`
    /// says whether written data is made stable before the request is answered.
    pub(super) fn next(&mut self, writethrough: bool) -> Next {
        if self.in_flight > 0 || self.is_waiting() {
            return Next::Wait;
        }
        let changed = matches!(self.work, RequestWork::Write | RequestWork::Zero(_));
        if self.stage == RequestStage::Launched && changed && writethrough && self.status == Status::Ok {
            self.stage = RequestStage::Flushing;
            self.in_flight = 1;
            return Next::Flush;
        }
        Next::Answer
    }

    /// Whether operations are left to begin, or its range is.
    pub(super) fn is_waiting(&self) -> bool {
        matches!(self.stage, RequestStage::Waiting | RequestStage::Launching)
    }

    /// Operations that have begun and are not finished: not come back, or held as parts of a read.
    pub(super) fn operations(&self) -> usize {
        self.in_flight + self.parts.len()
    }
}

#[cfg(test)]
mod tests {
    use virtio::request_type;
    use virtio::testing::{ChainBuffer, Driver};
    use vm_memory::GuestAddress;

    use super::*;
    use crate::guest::memory_table::GuestMemory;

    const LEN: u64 = 8192;

    /// A write of [`LEN`] bytes.
    fn write() -> ActiveRequest {
        let memory = GuestMemory::from_ranges(&[(GuestAddress(0), 1 << 16)]).unwrap();
        let (header, data, status) = (0x4000, 0x5000, 0x8000);
        let mut driver = Driver::new(&memory, 0, 4);
        let mut ring = driver.device(false).unwrap();
        driver.write_header(header, request_type::OUT, 0);
        let head = driver.write_chain(&[
            ChainBuffer::readable(header, 16),
            ChainBuffer::readable(data, 8192),
            ChainBuffer::writable(status, 1),
        ]);
        driver.make_available(head);
        let request = Request::parse(&memory, ring.pop(&memory).unwrap().unwrap()).unwrap();
        ActiveRequest::new(request, 0, Zeroing::none()).unwrap()
    }

    #[test]
    fn a_request_is_answered_when_all_its_operations_are_begun_and_back() {
        let mut request = write();
        assert_eq!((request.next_to_begin(), request.next(false)), (Some(0), Next::Wait));
        request.start_launch();
        request.begin(4096);
        request.pause_launch();
        request.end();
        assert_eq!((request.next_to_begin(), request.next(false)), (Some(4096), Next::Wait));
        request.start_launch();
        request.begin(4096);
        assert_eq!(request.next_to_begin(), None);
        request.end_launch();
        assert_eq!((request.in_flight, request.next(false)), (1, Next::Wait));
        request.end();
        assert_eq!(request.next(false), Next::Answer);
        request.request.reply.abandon();
    }

    #[test]
    fn a_write_is_flushed_once_where_there_is_no_write_cache() {
        let mut request = write();
        request.start_launch();
        request.begin(LEN);
        request.end_launch();
        request.end();
        assert_eq!(request.next(true), Next::Flush);
        assert_eq!((request.next(true), request.in_flight), (Next::Wait, 1));
        request.end();
        assert_eq!(request.next(true), Next::Answer);
        request.request.reply.abandon();
    }

    #[test]
    fn a_request_that_has_failed_begins_nothing_more_and_is_not_flushed() {
        let mut request = write();
        request.start_launch();
        request.begin(4096);
        request.status = Status::IoErr;
        assert_eq!(request.next_to_begin(), None);
        request.end_launch();
        request.end();
        assert_eq!(request.next(true), Next::Answer);
        request.request.reply.abandon();
    }
}
