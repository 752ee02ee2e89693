//! A protected disk in memory, for tests: the same rules as a sidecar's, no files, no io_uring.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use integrity::IntegrityProfile;
use rustix::event::{PollFd, PollFlags, poll};

use super::{BlockDevice, DeviceInfo, DeviceQueue, Event, EventSources, Protection, Zeroing};
use crate::active::ZeroBy;
use crate::bounce::Arena;
use crate::inflight::{Buffer, Direction, Operation, Transfer};

/// Blocks and tuples in memory.
#[derive(Debug)]
pub struct MemDevice {
    info: DeviceInfo,
    protection: Protection,
    media: Mutex<Media>,
}

/// What a disk in memory holds.
#[derive(Debug)]
pub struct Media {
    /// The blocks.
    pub data: Vec<u8>,
    /// Their tuples, without gaps.
    pub tuples: Vec<u8>,
}

impl MemDevice {
    /// An unwritten disk of `intervals` intervals.
    pub fn new(profile: IntegrityProfile, intervals: usize) -> Self {
        let protection = Protection::sidecar(profile);
        let capacity = intervals * profile.interval_size();
        let media = Media { data: vec![0; capacity], tuples: vec![0; profile.metadata_len(capacity)] };
        let info = DeviceInfo {
            capacity: capacity as u64,
            granule: profile.interval_size(),
            memory_alignment: 1,
            protection: Some(protection),
            zeroing: Zeroing { punch_hole: true, zero_range: false },
        };
        Self { info, protection, media: Mutex::new(media) }
    }

    /// The media, to look at or to damage.
    pub fn media(&self) -> MutexGuard<'_, Media> {
        self.media.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn transfer(&self, transfer: &mut Transfer) -> io::Result<()> {
        let Buffer::Bounce(folio) = &mut transfer.buffer else {
            return Err(io::ErrorKind::Unsupported.into());
        };
        let (data, tuples) = self.place(transfer.offset, transfer.len as u64)?;
        let mut media = self.media();
        let (folio_data, folio_tuples) = folio.parts_mut();
        let (folio_data, folio_tuples) = (&mut folio_data[..data.len()], &mut folio_tuples[..tuples.len()]);
        match transfer.direction {
            Direction::Read => {
                folio_data.copy_from_slice(&media.data[data]);
                folio_tuples.copy_from_slice(&media.tuples[tuples]);
            }
            Direction::Write => {
                media.data[data].copy_from_slice(folio_data);
                media.tuples[tuples].copy_from_slice(folio_tuples);
            }
        }
        Ok(())
    }

    fn zero(&self, offset: u64, len: u64) -> io::Result<()> {
        let (data, tuples) = self.place(offset, len)?;
        let mut media = self.media();
        media.data[data].fill(0);
        media.tuples[tuples].fill(0);
        Ok(())
    }

    /// Where `len` bytes at `offset` and their tuples are; an error unless they are whole intervals of the disk.
    fn place(&self, offset: u64, len: u64) -> io::Result<(std::ops::Range<usize>, std::ops::Range<usize>)> {
        let interval = self.protection.interval_size() as u64;
        let end = offset.checked_add(len).filter(|end| *end <= self.info.capacity);
        let whole = offset.is_multiple_of(interval) && len.is_multiple_of(interval);
        let end = end.filter(|_| whole).ok_or(io::ErrorKind::InvalidInput)?;
        let to_usize =
            |bytes| usize::try_from(bytes).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput));
        let (start, end) = (to_usize(offset)?, to_usize(end)?);
        Ok((start..end, self.protection.metadata_len(start)..self.protection.metadata_len(end)))
    }
}

impl BlockDevice for MemDevice {
    type Queue = MemQueue;

    fn info(&self) -> &DeviceInfo {
        &self.info
    }

    fn open_queue(self: &Arc<Self>, _arena: &Arena, sources: EventSources<'_>) -> io::Result<MemQueue> {
        let own = |fd: BorrowedFd<'_>| fd.try_clone_to_owned();
        let (kick, wake) = (own(sources.kick)?, own(sources.wake)?);
        Ok(MemQueue { device: self.clone(), kick, wake, submitted: VecDeque::new(), events: VecDeque::new() })
    }

    fn close(&self) -> io::Result<()> {
        Ok(())
    }
}

/// A worker's access to a disk in memory. Operations are done when the worker enters, not before.
#[derive(Debug)]
pub struct MemQueue {
    device: Arc<MemDevice>,
    kick: OwnedFd,
    wake: OwnedFd,
    submitted: VecDeque<Operation>,
    events: VecDeque<Event>,
}

impl MemQueue {
    fn perform(&self, mut operation: Operation) -> Event {
        let result = match &mut operation {
            Operation::Transfer(transfer) => self.device.transfer(transfer),
            Operation::Zero { by: ZeroBy::Writing, .. } => Err(io::ErrorKind::InvalidInput.into()),
            Operation::Zero { offset, len, .. } => self.device.zero(*offset, *len),
            Operation::Flush { .. } => Ok(()),
        };
        Event::Done(operation, result)
    }

    fn wait(&mut self) -> io::Result<()> {
        let mut fds = [PollFd::new(&self.kick, PollFlags::IN), PollFd::new(&self.wake, PollFlags::IN)];
        poll(&mut fds, None)?;
        let [kicked, woken] = fds.map(|fd| fd.revents().contains(PollFlags::IN));
        for (signalled, fd, event) in [(kicked, &self.kick, Event::Kick), (woken, &self.wake, Event::Wake)] {
            if signalled {
                // both eventfds are ours alone in a test, so they can be reset by reading
                rustix::io::read(fd, &mut [0; 8])?;
                self.events.push_back(event);
            }
        }
        Ok(())
    }
}

impl DeviceQueue for MemQueue {
    fn submit(&mut self, operation: Operation) {
        self.submitted.push_back(operation);
    }

    fn enter(&mut self, wait: bool) -> io::Result<()> {
        while let Some(operation) = self.submitted.pop_front() {
            let done = self.perform(operation);
            self.events.push_back(done);
        }
        if wait && self.events.is_empty() { self.wait() } else { Ok(()) }
    }

    fn has_work(&mut self) -> bool {
        !self.submitted.is_empty() || !self.events.is_empty()
    }

    fn reap(&mut self) -> Option<Event> {
        self.events.pop_front()
    }
}
