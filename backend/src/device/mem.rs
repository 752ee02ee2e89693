//! A disk in memory, for tests: no files, no io_uring, but the order of a sidecar's steps, data
//! first and then tuples.

use std::ops::Range;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::{io, mem, thread};

use std::collections::VecDeque;
use std::time::Duration;

use integrity::IntegrityProfile;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

use super::{
    BlockDevice, Capacity, Damage, DeviceInfo, DeviceQueue, Event, EventSources, Protection, Zeroing,
};
use crate::device::bounce::{Arena, FOLIO_SIZE_MAX};
use crate::device::growth_error::GrowthError;
use crate::device::operation::{DeviceOperation, Transfer, TransferBuffer, TransferDirection, ZeroBy};
use crate::storage::durability::Durability;
use crate::storage::size::StorageSize;

/// Blocks and, where there is protection, tuples in memory.
#[derive(Debug)]
pub struct MemDevice {
    info: DeviceInfo,
    media: Mutex<MemMedia>,
}

/// The contents of a disk in memory.
#[derive(Debug)]
pub struct MemMedia {
    /// The blocks.
    pub data: Vec<u8>,
    /// The tuples of the blocks, without gaps; empty where there is no protection.
    pub tuples: Vec<u8>,
}

impl MemDevice {
    /// An unwritten disk of `capacity` bytes, protected as `profile` says, of whole intervals, or
    /// not at all.
    pub fn new(profile: Option<IntegrityProfile>, capacity: usize) -> Self {
        let tuples_len = profile.map_or(0, |profile| profile.metadata_len(capacity));
        let media = MemMedia { data: vec![0; capacity], tuples: vec![0; tuples_len] };
        let info = DeviceInfo {
            capacity: Capacity::new(capacity as u64),
            granule: profile.map_or(512, |profile| profile.interval_size()),
            transfer_max: FOLIO_SIZE_MAX,
            memory_alignment: 1,
            protection: profile.map(Protection::sidecar),
            zeroing: Zeroing { punch_hole: true, zero_range: false, deallocate: false },
            zeroing_max: u64::MAX,
            durability: Durability::default(),
            damage: Damage::default(),
        };
        Self { info, media: Mutex::new(media) }
    }

    /// This device, with transfers of whole multiples of `granule` bytes only, as direct I/O has
    /// them.
    #[must_use]
    pub fn with_granule(mut self, granule: usize) -> Self {
        self.info.granule = granule;
        self
    }

    /// This device, on a file system that can do `zeroing`.
    #[must_use]
    pub fn with_zeroing(mut self, zeroing: Zeroing) -> Self {
        self.info.zeroing = zeroing;
        self
    }

    /// The media, to look at or to damage.
    pub fn media(&self) -> MutexGuard<'_, MemMedia> {
        self.media.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Does the first step of an operation: on the data.
    fn step_data(&self, operation: &mut DeviceOperation) -> io::Result<()> {
        match operation {
            DeviceOperation::Transfer(transfer) => {
                let (direction, range) =
                    (transfer.direction(), self.bytes(transfer.offset(), transfer.len() as u64)?);
                let (data, _) = folio(transfer)?;
                move_bytes(direction, &mut self.media().data[range.clone()], &mut data[..range.len()]);
            }
            DeviceOperation::Zero { by: ZeroBy::Writing, .. } => {
                return Err(io::ErrorKind::InvalidInput.into());
            }
            DeviceOperation::Zero { offset, len, .. } => {
                let range = self.bytes(*offset, *len)?;
                self.media().data[range].fill(0);
            }
            DeviceOperation::Flush { .. } => {}
        }
        Ok(())
    }

    /// Does the second step: on the tuples. The media are unlocked in between, as two files have no
    /// lock in common.
    fn step_tuples(&self, operation: &mut DeviceOperation) -> io::Result<()> {
        let Some(protection) = self.info.protection else {
            return Ok(());
        };
        let tuples =
            |bytes: Range<usize>| protection.metadata_len(bytes.start)..protection.metadata_len(bytes.end);
        match operation {
            DeviceOperation::Transfer(transfer) => {
                let direction = transfer.direction();
                let range = tuples(self.bytes(transfer.offset(), transfer.len() as u64)?);
                let (_, metadata) = folio(transfer)?;
                move_bytes(direction, &mut self.media().tuples[range.clone()], &mut metadata[..range.len()]);
            }
            DeviceOperation::Zero { offset, len, .. } => {
                let range = tuples(self.bytes(*offset, *len)?);
                self.media().tuples[range].fill(0);
            }
            DeviceOperation::Flush { .. } => {}
        }
        Ok(())
    }

    /// `len` bytes at `offset`; an error unless they are whole granules of the disk.
    fn bytes(&self, offset: u64, len: u64) -> io::Result<Range<usize>> {
        let granule = self.info.granule as u64;
        let whole = offset.is_multiple_of(granule) && len.is_multiple_of(granule);
        let end = offset.checked_add(len).filter(|end| whole && *end <= self.info.capacity.get());
        let to_usize = |bytes: u64| usize::try_from(bytes).ok();
        match (to_usize(offset), end.and_then(to_usize)) {
            (Some(start), Some(end)) => Ok(start..end),
            _ => Err(io::ErrorKind::InvalidInput.into()),
        }
    }
}

/// Data and metadata of a transfer. This device cannot access guest memory, which takes pointers.
fn folio(transfer: &mut Transfer) -> io::Result<(&mut [u8], &mut [u8])> {
    if let TransferBuffer::Guest(..) = transfer.buffer() {
        return Err(io::ErrorKind::Unsupported.into());
    }
    transfer.parts_mut().ok_or(io::ErrorKind::Unsupported.into())
}

fn move_bytes(direction: TransferDirection, media: &mut [u8], folio: &mut [u8]) {
    match direction {
        TransferDirection::Read => folio.copy_from_slice(media),
        TransferDirection::Write => media.copy_from_slice(folio),
    }
}

impl BlockDevice for MemDevice {
    type Queue = MemQueue;

    fn info(&self) -> &DeviceInfo {
        &self.info
    }

    fn open_queue(self: &Arc<Self>, _arena: &Arena, sources: EventSources<'_>) -> io::Result<MemQueue> {
        let (kick, wake) = (sources.kick.clone(), sources.wake.clone());
        Ok(MemQueue { device: self.clone(), kick, wake, submitted: Vec::new(), events: VecDeque::new() })
    }

    fn measure(&self) -> io::Result<StorageSize> {
        Ok(StorageSize { bytes: self.info.capacity.get(), is_extensible: true })
    }

    fn grow(&self, size: u64) -> Result<(), GrowthError> {
        let len = usize::try_from(size).map_err(io::Error::other)?;
        let mut media = self.media();
        media.data.resize(len, 0);
        if let Some(protection) = self.info.protection {
            media.tuples.resize(protection.metadata_len(len), 0);
        }
        self.info.capacity.grow(size);
        Ok(())
    }

    fn close(&self) -> io::Result<()> {
        Ok(())
    }
}

/// A worker's access to a disk in memory. Operations are done when the worker enters, not before.
#[derive(Debug)]
pub struct MemQueue {
    device: Arc<MemDevice>,
    kick: Arc<OwnedFd>,
    wake: Arc<OwnedFd>,
    submitted: Vec<DeviceOperation>,
    events: VecDeque<Event>,
}

impl MemQueue {
    /// Does all submitted operations: first the data of each, then the tuples of each.
    fn perform(&mut self) {
        if self.submitted.is_empty() {
            return;
        }
        let mut operations = mem::take(&mut self.submitted);
        let results: Vec<_> =
            operations.iter_mut().map(|operation| self.device.step_data(operation)).collect();
        // now only the range lock keeps other workers away, so let them run
        thread::yield_now();
        for (mut operation, result) in operations.into_iter().zip(results) {
            let result = result.and_then(|()| self.device.step_tuples(&mut operation));
            self.events.push_back(Event::Done(operation, result));
        }
    }

    /// Polls both eventfds, until one is signalled or `limit` is over; without it, only once.
    fn poll(&mut self, limit: Option<Duration>) -> io::Result<()> {
        let mut fds = [PollFd::new(&self.kick, PollFlags::IN), PollFd::new(&self.wake, PollFlags::IN)];
        // a limit that is too long is none
        let limit = Timespec::try_from(limit.unwrap_or_default()).ok();
        match poll(&mut fds, limit.as_ref()) {
            // by a signal, as io_uring is too: the worker enters again
            Err(Errno::INTR) => return Ok(()),
            polled => polled?,
        };
        let [kicked, woken] = fds.map(|fd| fd.revents().contains(PollFlags::IN));
        for (signalled, fd, event) in [(kicked, &self.kick, Event::Kick), (woken, &self.wake, Event::Wake)] {
            if signalled {
                // a kick that does not block may be another queue's too, which read it first
                match rustix::io::read(fd, &mut [0; 8]) {
                    Ok(_) | Err(Errno::AGAIN) => self.events.push_back(event),
                    Err(error) => return Err(error.into()),
                }
            }
        }
        Ok(())
    }
}

impl DeviceQueue for MemQueue {
    fn submit(&mut self, operation: DeviceOperation) {
        self.submitted.push(operation);
    }

    fn enter(&mut self, wait: bool) -> io::Result<()> {
        self.perform();
        self.poll((wait && self.events.is_empty()).then_some(Duration::MAX))
    }

    fn enter_for(&mut self, limit: Duration) -> io::Result<()> {
        self.perform();
        self.poll(if self.events.is_empty() { Some(limit) } else { None })
    }

    fn has_work(&mut self) -> bool {
        !self.submitted.is_empty() || !self.events.is_empty()
    }

    fn reap(&mut self) -> Option<Event> {
        self.events.pop_front()
    }
}
