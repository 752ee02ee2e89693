//! A device that fails by plan, for tests.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;
use std::{fmt, io};

use super::{BlockDevice, DeviceInfo, DeviceQueue, Event, EventSources};
use crate::device::bounce::Arena;
use crate::device::growth_error::GrowthError;
use crate::device::operation::{DeviceOperation, Piece, Transfer, TransferDirection};
use crate::storage::size::StorageSize;

/// A fault of one operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// It fails with this errno and is not done.
    Error(i32),
    /// It is reported as done and is not done. After a lost read the folio holds what was in it
    /// before.
    Lost,
    /// It is done at a place this number of bytes further on.
    Misdirected(u64),
    /// One bit of the data changes on the way, counted from the start of the transfer.
    FlippedBit(usize),
    /// It is not done before this number of later events have been reaped.
    Delayed(usize),
    /// The queue itself fails with this errno from now on, whatever the operation.
    Broken(i32),
}

/// Chooses the fault of an operation.
pub type Plan = dyn Fn(&DeviceOperation) -> Option<Fault> + Send + Sync;

/// Another device, with faults.
pub struct FaultyDevice<B> {
    device: Arc<B>,
    plan: Box<Plan>,
}

impl<B: fmt::Debug> fmt::Debug for FaultyDevice<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FaultyDevice").field("device", &self.device).finish_non_exhaustive()
    }
}

impl<B> FaultyDevice<B> {
    /// `device`, with the faults that `plan` chooses.
    pub fn new(
        device: Arc<B>,
        plan: impl Fn(&DeviceOperation) -> Option<Fault> + Send + Sync + 'static,
    ) -> Self {
        Self { device, plan: Box::new(plan) }
    }
}

impl<B: BlockDevice> BlockDevice for FaultyDevice<B> {
    type Queue = FaultyQueue<B>;

    fn info(&self) -> &DeviceInfo {
        self.device.info()
    }

    fn open_queue(self: &Arc<Self>, arena: &Arena, sources: EventSources<'_>) -> io::Result<Self::Queue> {
        Ok(FaultyQueue {
            queue: self.device.open_queue(arena, sources)?,
            device: self.clone(),
            delayed: VecDeque::new(),
            unsubmitted: VecDeque::new(),
            altered: Vec::new(),
            broken: None,
        })
    }

    fn measure(&self) -> io::Result<StorageSize> {
        self.device.measure()
    }

    fn grow(&self, size: u64) -> Result<(), GrowthError> {
        self.device.grow(size)
    }

    fn close(&self) -> io::Result<()> {
        self.device.close()
    }
}

/// A queue of another device, with faults.
pub struct FaultyQueue<B: BlockDevice> {
    queue: B::Queue,
    device: Arc<FaultyDevice<B>>,
    /// Not submitted yet, with the number of events to let pass.
    delayed: VecDeque<(usize, DeviceOperation)>,
    /// Never submitted.
    unsubmitted: VecDeque<Event>,
    /// Faults that must be undone when the transfer of this piece comes back.
    altered: Vec<(Piece, Fault)>,
    broken: Option<i32>,
}

impl<B: BlockDevice> fmt::Debug for FaultyQueue<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FaultyQueue").field("delayed", &self.delayed).finish_non_exhaustive()
    }
}

impl<B: BlockDevice> FaultyQueue<B> {
    /// Submits delayed operations whose time has come, and all of them when nothing else is left to
    /// happen.
    fn release(&mut self, idle: bool) {
        for _ in 0..self.delayed.len() {
            let Some((events, operation)) = self.delayed.pop_front() else { return };
            if events == 0 || idle {
                self.queue.submit(operation);
            } else {
                self.delayed.push_back((events, operation));
            }
        }
    }

    fn alter(&mut self, transfer: &mut Transfer, fault: Fault) {
        match (fault, transfer.direction()) {
            (Fault::Misdirected(bytes), _) => transfer.move_to(transfer.offset() + bytes),
            (Fault::FlippedBit(bit), TransferDirection::Write) => return flip(transfer, bit),
            _ => {}
        }
        self.altered.push((transfer.piece(), fault));
    }

    /// The worker gets back the transfer that it submitted.
    fn restore(&mut self, transfer: &mut Transfer) {
        let Some(at) = self.altered.iter().position(|(piece, _)| *piece == transfer.piece()) else {
            return;
        };
        match self.altered.swap_remove(at).1 {
            Fault::Misdirected(bytes) => transfer.move_to(transfer.offset() - bytes),
            Fault::FlippedBit(bit) => flip(transfer, bit),
            _ => {}
        }
    }
}

impl<B: BlockDevice> DeviceQueue for FaultyQueue<B> {
    fn submit(&mut self, mut operation: DeviceOperation) {
        match ((self.device.plan)(&operation), &mut operation) {
            (Some(Fault::Error(errno)), _) => {
                let error = io::Error::from_raw_os_error(errno);
                return self.unsubmitted.push_back(Event::Done(operation, Err(error)));
            }
            (Some(Fault::Lost), _) => return self.unsubmitted.push_back(Event::Done(operation, Ok(()))),
            (Some(Fault::Delayed(events)), _) => return self.delayed.push_back((events, operation)),
            (Some(Fault::Broken(errno)), _) => self.broken = Some(errno),
            (Some(fault), DeviceOperation::Transfer(transfer)) => self.alter(transfer, fault),
            _ => {}
        }
        self.queue.submit(operation);
    }

    fn enter(&mut self, wait: bool) -> io::Result<()> {
        if let Some(errno) = self.broken {
            return Err(io::Error::from_raw_os_error(errno));
        }
        let idle = wait && self.unsubmitted.is_empty() && !self.queue.has_work();
        self.release(idle);
        self.queue.enter(wait && self.unsubmitted.is_empty())
    }

    fn enter_for(&mut self, limit: Duration) -> io::Result<()> {
        if self.broken.is_some() || !self.unsubmitted.is_empty() || !self.delayed.is_empty() {
            return self.enter(true);
        }
        self.queue.enter_for(limit)
    }

    fn has_work(&mut self) -> bool {
        !self.unsubmitted.is_empty() || !self.delayed.is_empty() || self.queue.has_work()
    }

    fn reap(&mut self) -> Option<Event> {
        let mut event = self.unsubmitted.pop_front().or_else(|| self.queue.reap())?;
        for (events, _) in &mut self.delayed {
            *events = events.saturating_sub(1);
        }
        if let Event::Done(DeviceOperation::Transfer(transfer), _) = &mut event {
            self.restore(transfer);
        }
        Some(event)
    }
}

fn flip(transfer: &mut Transfer, bit: usize) {
    if let Some((data, _)) = transfer.parts_mut() {
        data[bit / 8] ^= 1 << (bit % 8);
    }
}
