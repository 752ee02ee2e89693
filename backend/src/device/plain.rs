//! A raw image without PI, for `--integrity none`.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use super::uring::{Ring, RingEvent, Step};
use super::{
    BlockDevice, Capacity, Damage, DeviceInfo, DeviceQueue, Event, EventSources, Protection, Zeroing,
};
use crate::device::bounce::{Arena, FOLIO_SIZE_MAX};
use crate::device::growth_error::GrowthError;
use crate::device::operation::DeviceOperation;
use crate::storage::image::Image;
use crate::storage::size::StorageSize;

/// The unit of virtio-blk, in bytes.
const SECTOR_SIZE: usize = 512;

impl DeviceInfo {
    /// The properties of a device over `image`, protected or not.
    pub(super) fn of_image(image: &Image, protection: Option<Protection>) -> Self {
        let alignment = image.alignment();
        let (memory, offset) = (alignment.memory as usize, alignment.offset as usize);
        let zeroing = if image.is_block_device() {
            Zeroing::of_block_device(image.file())
        } else {
            Zeroing::of_regular_file(image)
        };
        Self {
            capacity: Capacity::new(image.size()),
            granule: protection.map_or(SECTOR_SIZE, |protection| protection.interval_size()).max(offset),
            transfer_max: FOLIO_SIZE_MAX,
            memory_alignment: memory.max(offset),
            protection,
            zeroing,
            zeroing_max: u64::MAX,
            durability: image.durability().clone(),
            damage: Damage::default(),
        }
    }
}

/// A raw image without protection.
#[derive(Debug)]
pub struct PlainDevice {
    image: Image,
    info: DeviceInfo,
}

impl PlainDevice {
    /// Serves `image` as it is.
    pub fn new(image: Image) -> Self {
        let info = DeviceInfo::of_image(&image, None);
        Self { image, info }
    }
}

impl BlockDevice for PlainDevice {
    type Queue = PlainQueue;

    fn info(&self) -> &DeviceInfo {
        &self.info
    }

    fn open_queue(self: &Arc<Self>, arena: &Arena, sources: EventSources<'_>) -> io::Result<PlainQueue> {
        Ring::over(&self.image, arena, sources).map(PlainQueue)
    }

    fn measure(&self) -> io::Result<StorageSize> {
        self.image.storage_size()
    }

    fn grow(&self, size: u64) -> Result<(), GrowthError> {
        self.image.extend(size)?;
        self.info.capacity.grow(size);
        Ok(())
    }

    fn close(&self) -> io::Result<()> {
        self.image.close()
    }
}

/// A worker's access to the image: a ring and nothing more.
#[derive(Debug)]
pub struct PlainQueue(Ring<Step>);

impl DeviceQueue for PlainQueue {
    fn submit(&mut self, operation: DeviceOperation) {
        let step = first_step(&operation);
        self.0.submit(operation, step);
    }

    fn enter(&mut self, wait: bool) -> io::Result<()> {
        self.0.enter(wait)
    }

    fn enter_for(&mut self, limit: Duration) -> io::Result<()> {
        self.0.enter_for(limit)
    }

    fn has_work(&mut self) -> bool {
        self.0.has_work()
    }

    fn reap(&mut self) -> Option<Event> {
        Some(match self.0.reap()? {
            RingEvent::Kick => Event::Kick,
            RingEvent::Wake => Event::Wake,
            RingEvent::Done(operation, _, result) => Event::Done(operation, result),
        })
    }
}

/// The step that does an operation to the image, of a ring [over](Ring::over) it.
pub(super) fn first_step(operation: &DeviceOperation) -> Step {
    match *operation {
        DeviceOperation::Transfer(_) => Step::Transfer,
        DeviceOperation::Zero { offset, len, by, .. } => Step::Fallocate { offset, len, by },
        DeviceOperation::Flush { .. } => Step::Sync,
    }
}
