//! A raw image and the sidecar that holds its tuples.
//!
//! A write is done when its data, and then its tuples, are with the kernel; a read when both have been fetched. The range
//! lock keeps others away from the interval in between. A flush makes first the data and then the tuples durable.

use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;

use super::plain::{first_step, image_zeroing};
use super::uring::{self, RegisteredFile, Ring, Step};
use super::{BlockDevice, DeviceInfo, DeviceQueue, Event, EventSources, Protection, Zeroing};
use crate::active::ZeroBy;
use crate::bounce::{Arena, FOLIO_SIZE_MAX};
use crate::image::Image;
use crate::inflight::{Direction, Operation, Transfer};
use crate::sidecar_file::SidecarFile;

const IMAGE: RegisteredFile = RegisteredFile(0);
const SIDECAR: RegisteredFile = RegisteredFile(1);

/// A raw image protected by a sidecar.
#[derive(Debug)]
pub struct SidecarDevice {
    image: Image,
    sidecar: SidecarFile,
    protection: Protection,
    info: DeviceInfo,
}

impl SidecarDevice {
    /// Serves `image` with the tuples of `sidecar`, which was opened for it.
    pub fn new(image: Image, sidecar: SidecarFile) -> Self {
        let protection = Protection::sidecar(*sidecar.profile());
        let alignment = image.alignment();
        let (memory, offset) = (alignment.memory as usize, alignment.offset as usize);
        let info = DeviceInfo {
            capacity: image.size(),
            granule: protection.interval_size().max(offset),
            transfer_max: FOLIO_SIZE_MAX,
            memory_alignment: memory.max(offset),
            protection: Some(protection),
            zeroing: zeroing(&image, &sidecar),
        };
        Self { image, sidecar, protection, info }
    }

    /// What follows `step` of `operation`: what was done to the image is done to its tuples.
    fn next_step(&self, operation: &Operation, step: Step) -> Option<Step> {
        match (operation, step) {
            (Operation::Zero { offset, len, .. }, Step::Fallocate { file: IMAGE, .. }) => {
                Some(self.forget_tuples(*offset, *len))
            }
            (Operation::Flush { .. }, Step::Sync { file: IMAGE }) => Some(Step::Sync { file: SIDECAR }),
            _ => None,
        }
    }

    /// Fetches or stores the tuples of a transfer that succeeded.
    fn finish(&self, mut operation: Operation, result: io::Result<()>) -> Event {
        let result = result.and_then(|()| match &mut operation {
            Operation::Transfer(transfer) => match transfer.direction {
                Direction::Read => self.read_tuples(transfer),
                Direction::Write => self.write_tuples(transfer),
            },
            Operation::Zero { .. } | Operation::Flush { .. } => Ok(()),
        });
        Event::Done(operation, result)
    }

    fn write_tuples(&self, transfer: &Transfer) -> io::Result<()> {
        let folio = transfer.buffer.folio().ok_or(io::ErrorKind::InvalidInput)?;
        let tuples = &folio.metadata()[..self.protection.metadata_len(transfer.len)];
        self.sidecar.write_tuples(self.protection.interval(transfer.offset), tuples)
    }

    /// Zeroed blocks are unwritten blocks: their tuples go, and the space of those too.
    fn forget_tuples(&self, offset: u64, len: u64) -> Step {
        let tuple = |offset| self.sidecar.header().tuple_offset(self.protection.interval(offset));
        let (start, end) = (tuple(offset), tuple(offset + len));
        Step::Fallocate { file: SIDECAR, offset: start, len: end - start, by: ZeroBy::PunchHole }
    }

    fn read_tuples(&self, transfer: &mut Transfer) -> io::Result<()> {
        let (first, len) =
            (self.protection.interval(transfer.offset), self.protection.metadata_len(transfer.len));
        let folio = transfer.buffer.folio_mut().ok_or(io::ErrorKind::InvalidInput)?;
        self.sidecar.read_tuples(first, &mut folio.parts_mut().1[..len])
    }
}

/// Zeroing blocks zeroes their tuples too, so both files must be able to.
fn zeroing(image: &Image, sidecar: &SidecarFile) -> Zeroing {
    let tuples = Zeroing::of_regular_file(sidecar, sidecar.header().sidecar_size());
    if tuples.punch_hole { image_zeroing(image) } else { Zeroing::none() }
}

impl BlockDevice for SidecarDevice {
    type Queue = SidecarQueue;

    fn info(&self) -> &DeviceInfo {
        &self.info
    }

    fn open_queue(self: &Arc<Self>, arena: &Arena, sources: EventSources<'_>) -> io::Result<SidecarQueue> {
        let files = [self.image.file().as_fd(), self.sidecar.as_fd()];
        let ring = Ring::new(arena, &files, sources.kick, sources.wake)?;
        Ok(SidecarQueue { device: self.clone(), ring })
    }

    fn close(&self) -> io::Result<()> {
        self.image.file().sync_data()?;
        self.sidecar.close()
    }
}

/// A worker's access to image and sidecar.
#[derive(Debug)]
pub struct SidecarQueue {
    device: Arc<SidecarDevice>,
    ring: Ring<Step>,
}

impl DeviceQueue for SidecarQueue {
    fn submit(&mut self, operation: Operation) {
        let step = first_step(&operation, IMAGE);
        self.ring.submit(operation, step);
    }

    fn enter(&mut self, wait: bool) -> io::Result<()> {
        self.ring.enter(wait)
    }

    fn has_work(&mut self) -> bool {
        self.ring.has_work()
    }

    fn reap(&mut self) -> Option<Event> {
        loop {
            let (operation, step, result) = match self.ring.reap()? {
                uring::Event::Kick => return Some(Event::Kick),
                uring::Event::Wake => return Some(Event::Wake),
                uring::Event::Done(operation, step, result) => (operation, step, result),
            };
            match self.device.next_step(&operation, step).filter(|_| result.is_ok()) {
                Some(next) => self.ring.submit(operation, next),
                None => return Some(self.device.finish(operation, result)),
            }
        }
    }
}
