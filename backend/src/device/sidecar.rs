//! A raw image and the sidecar that holds its tuples.
//!
//! A write is done when its data, and then its tuples, are with the kernel; a read when both have been fetched. The range
//! lock keeps others away from the interval in between. A flush makes first the data and then the tuples durable.

use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;

use super::uring::{self, RegisteredFile, Ring, Submission};
use super::{BlockDevice, DeviceInfo, DeviceQueue, Event, EventSources, Protection};
use crate::bounce::Arena;
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
            memory_alignment: memory.max(offset),
            protection: Some(protection),
        };
        Self { image, sidecar, protection, info }
    }

    fn write_tuples(&self, transfer: &Transfer) -> io::Result<()> {
        let folio = transfer.buffer.folio().ok_or(io::ErrorKind::InvalidInput)?;
        let tuples = &folio.metadata()[..self.protection.metadata_len(transfer.len)];
        self.sidecar.write_tuples(self.protection.interval(transfer.offset), tuples)
    }

    fn read_tuples(&self, transfer: &mut Transfer) -> io::Result<()> {
        let (first, len) =
            (self.protection.interval(transfer.offset), self.protection.metadata_len(transfer.len));
        let folio = transfer.buffer.folio_mut().ok_or(io::ErrorKind::InvalidInput)?;
        self.sidecar.read_tuples(first, &mut folio.parts_mut().1[..len])
    }
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
    ring: Ring,
}

impl DeviceQueue for SidecarQueue {
    fn submit(&mut self, operation: Operation) {
        self.ring.submit(match operation {
            Operation::Transfer(transfer) => Submission::Transfer(transfer),
            Operation::Flush { request } => Submission::Sync { file: IMAGE, request },
        });
    }

    fn enter(&mut self, wait: bool) -> io::Result<()> {
        self.ring.enter(wait)
    }

    fn has_work(&mut self) -> bool {
        self.ring.has_work()
    }

    fn reap(&mut self) -> Option<Event> {
        loop {
            return Some(match self.ring.reap()? {
                uring::Event::Kick => Event::Kick,
                uring::Event::Wake => Event::Wake,
                uring::Event::Done(Submission::Transfer(mut transfer), result) => {
                    let result = result.and_then(|()| match transfer.direction {
                        Direction::Read => self.device.read_tuples(&mut transfer),
                        Direction::Write => self.device.write_tuples(&transfer),
                    });
                    Event::Done(Operation::Transfer(transfer), result)
                }
                uring::Event::Done(Submission::Sync { file: IMAGE, request }, Ok(())) => {
                    self.ring.submit(Submission::Sync { file: SIDECAR, request });
                    continue;
                }
                uring::Event::Done(Submission::Sync { request, .. }, result) => {
                    Event::Done(Operation::Flush { request }, result)
                }
            });
        }
    }
}
