//! A raw image without PI, for `--integrity none`.

use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;

use super::uring::{self, RegisteredFile, Ring, Submission};
use super::{BlockDevice, DeviceInfo, DeviceQueue, Event, EventSources};
use crate::bounce::Arena;
use crate::image::Image;
use crate::inflight::Operation;

/// A raw image, nothing else.
#[derive(Debug)]
pub struct PlainDevice {
    image: Image,
    info: DeviceInfo,
}

impl PlainDevice {
    /// Serves `image` as it is.
    pub fn new(image: Image) -> Self {
        let alignment = image.alignment();
        let (memory, offset) = (alignment.memory as usize, alignment.offset as usize);
        let info = DeviceInfo {
            capacity: image.size(),
            granule: offset.max(512),
            memory_alignment: memory.max(offset),
            protection: None,
        };
        Self { image, info }
    }
}

impl BlockDevice for PlainDevice {
    type Queue = PlainQueue;

    fn info(&self) -> &DeviceInfo {
        &self.info
    }

    fn open_queue(self: &Arc<Self>, arena: &Arena, sources: EventSources<'_>) -> io::Result<PlainQueue> {
        Ring::new(arena, &[self.image.file().as_fd()], sources.kick, sources.wake).map(PlainQueue)
    }

    fn close(&self) -> io::Result<()> {
        self.image.file().sync_data()
    }
}

/// The ring and nothing more.
#[derive(Debug)]
pub struct PlainQueue(Ring);

impl DeviceQueue for PlainQueue {
    fn submit(&mut self, operation: Operation) {
        self.0.submit(match operation {
            Operation::Transfer(transfer) => Submission::Transfer(transfer),
            Operation::Flush { request } => Submission::Sync { file: RegisteredFile(0), request },
        });
    }

    fn enter(&mut self, wait: bool) -> io::Result<()> {
        self.0.enter(wait)
    }

    fn has_work(&mut self) -> bool {
        self.0.has_work()
    }

    fn reap(&mut self) -> Option<Event> {
        Some(match self.0.reap()? {
            uring::Event::Kick => Event::Kick,
            uring::Event::Wake => Event::Wake,
            uring::Event::Done(Submission::Transfer(transfer), result) => {
                Event::Done(Operation::Transfer(transfer), result)
            }
            uring::Event::Done(Submission::Sync { request, .. }, result) => {
                Event::Done(Operation::Flush { request }, result)
            }
        })
    }
}
