//! A device that fails as told, for tests.

use std::collections::VecDeque;
use std::sync::Arc;
use std::{fmt, io};

use super::{BlockDevice, DeviceInfo, DeviceQueue, Event, EventSources};
use crate::bounce::Arena;
use crate::inflight::{Direction, Operation};

/// What goes wrong with one operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// It fails with this errno and is not done.
    Error(i32),
    /// It is reported done and is not: a lost write. A read finds what the folio held before.
    Lost,
    /// It goes to, or comes from, so many bytes further on.
    Misdirected(u64),
    /// One bit of the data changes on the way, counted from the start of the transfer.
    FlippedBit(usize),
    /// It is not done before so many later events have been reaped.
    Delayed(usize),
}

/// Decides the fate of an operation.
pub type Plan = dyn Fn(&Operation) -> Option<Fault> + Send + Sync;

/// Another device, with faults.
pub struct FaultyDevice<B> {
    device: Arc<B>,
    plan: Arc<Plan>,
}

impl<B: fmt::Debug> fmt::Debug for FaultyDevice<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FaultyDevice").field("device", &self.device).finish_non_exhaustive()
    }
}

impl<B> FaultyDevice<B> {
    /// `device`, failing as `plan` has it.
    pub fn new(device: Arc<B>, plan: Arc<Plan>) -> Self {
        Self { device, plan }
    }
}

impl<B: BlockDevice> BlockDevice for FaultyDevice<B> {
    type Queue = FaultyQueue<B::Queue>;

    fn info(&self) -> &DeviceInfo {
        self.device.info()
    }

    fn open_queue(self: &Arc<Self>, arena: &Arena, sources: EventSources<'_>) -> io::Result<Self::Queue> {
        let queue = self.device.open_queue(arena, sources)?;
        Ok(FaultyQueue { queue, plan: self.plan.clone(), delayed: VecDeque::new(), failed: VecDeque::new() })
    }

    fn close(&self) -> io::Result<()> {
        self.device.close()
    }
}

/// A queue of another device, with faults.
pub struct FaultyQueue<Q> {
    queue: Q,
    plan: Arc<Plan>,
    /// Not submitted yet, with the number of events to let pass.
    delayed: VecDeque<(usize, Operation)>,
    /// Never submitted.
    failed: VecDeque<Event>,
}

impl<Q: fmt::Debug> fmt::Debug for FaultyQueue<Q> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FaultyQueue").field("queue", &self.queue).finish_non_exhaustive()
    }
}

impl<Q: DeviceQueue> FaultyQueue<Q> {
    /// Submits delayed operations whose time has come, and all of them when nothing else is left to happen.
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
}

impl<Q: DeviceQueue> DeviceQueue for FaultyQueue<Q> {
    fn submit(&mut self, mut operation: Operation) {
        match ((self.plan)(&operation), &mut operation) {
            (Some(Fault::Error(errno)), _) => {
                self.failed.push_back(Event::Done(operation, Err(io::Error::from_raw_os_error(errno))));
            }
            (Some(Fault::Lost), _) => self.failed.push_back(Event::Done(operation, Ok(()))),
            (Some(Fault::Delayed(events)), _) => self.delayed.push_back((events, operation)),
            (Some(Fault::Misdirected(bytes)), Operation::Transfer(transfer)) => {
                transfer.offset += bytes;
                self.queue.submit(operation);
            }
            (Some(Fault::FlippedBit(bit)), Operation::Transfer(transfer))
                if transfer.direction == Direction::Write =>
            {
                flip(transfer.buffer.folio_mut(), bit);
                self.queue.submit(operation);
            }
            _ => self.queue.submit(operation),
        }
    }

    fn enter(&mut self, wait: bool) -> io::Result<()> {
        let idle = wait && self.failed.is_empty() && !self.queue.has_work();
        self.release(idle);
        self.queue.enter(wait && self.failed.is_empty())
    }

    fn has_work(&mut self) -> bool {
        !self.failed.is_empty() || !self.delayed.is_empty() || self.queue.has_work()
    }

    fn reap(&mut self) -> Option<Event> {
        let event = self.failed.pop_front().or_else(|| self.queue.reap())?;
        for (events, _) in &mut self.delayed {
            *events = events.saturating_sub(1);
        }
        Some(event)
    }
}

fn flip(folio: Option<&mut crate::bounce::BounceFolio>, bit: usize) {
    if let Some(folio) = folio {
        let data = folio.parts_mut().0;
        let at = bit / 8 % data.len();
        data[at] ^= 1 << (bit % 8);
    }
}
