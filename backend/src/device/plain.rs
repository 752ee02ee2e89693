//! A raw image without PI, for `--integrity none`.

use std::io;
use std::sync::Arc;

use super::uring::{self, IMAGE, IMAGE_FOR_SYNC, Ring, Step};
use super::{
    BlockDevice, Capacity, DeviceInfo, DeviceQueue, Event, EventSources, Protection, StorageSize, Zeroing,
};
use crate::bounce::{Arena, FOLIO_SIZE_MAX};
use crate::growth::GrowthError;
use crate::image::Image;
use crate::inflight::Operation;

/// The unit of virtio-blk, in bytes.
const SECTOR_SIZE: usize = 512;

impl DeviceInfo {
    /// What a device over `image` is, protected or not.
    pub(super) fn of_image(image: &Image, protection: Option<Protection>) -> Self {
        let alignment = image.alignment();
        let (memory, offset) = (alignment.memory as usize, alignment.offset as usize);
        let zeroing = if image.is_block_device() {
            Zeroing::of_block_device(image.file())
        } else {
            Zeroing::of_regular_file(image.file(), image.size())
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
        }
    }
}

/// A raw image, nothing else.
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
        self.image.sync_data()
    }
}

/// The ring and nothing more.
#[derive(Debug)]
pub struct PlainQueue(Ring<Step>);

impl DeviceQueue for PlainQueue {
    fn submit(&mut self, operation: Operation) {
        let step = first_step(&operation);
        self.0.submit(operation, step);
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
            uring::Event::Done(operation, _, result) => Event::Done(operation, result),
        })
    }
}

/// The step that does an operation to the image, of a ring [over](Ring::over) it.
pub(super) fn first_step(operation: &Operation) -> Step {
    match *operation {
        Operation::Transfer(_) => Step::Transfer,
        Operation::Zero { offset, len, by, .. } => Step::Fallocate { file: IMAGE, offset, len, by },
        Operation::Flush { .. } => Step::Sync { file: IMAGE_FOR_SYNC },
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::fd::AsFd;
    use std::os::unix::fs::FileExt;
    use std::sync::Barrier;
    use std::thread;

    use rustix::event::{EventfdFlags, eventfd};

    use super::*;
    use crate::image::{Access, DirectIo};
    use crate::thin_device::ThinDevice;

    /// What two flushes of each of two queues return, begun at the same time, after `write`.
    fn flush_by_both(device: &Arc<PlainDevice>, write: impl Fn()) -> Vec<io::Result<()>> {
        let opened = Barrier::new(3);
        let flush = || {
            let arena = Arena::reserve(0).unwrap();
            let [kick, wake] = [(), ()].map(|()| eventfd(0, EventfdFlags::CLOEXEC).unwrap());
            let mut queue =
                device.open_queue(&arena, EventSources { kick: kick.as_fd(), wake: wake.as_fd() }).unwrap();
            opened.wait();
            opened.wait();
            (0..2).for_each(|request| queue.submit(Operation::Flush { request }));
            let mut results = Vec::new();
            while results.len() < 2 {
                queue.enter(true).unwrap();
                if let Some(Event::Done(_, result)) = queue.reap() {
                    results.push(result);
                }
            }
            results
        };
        thread::scope(|scope| {
            let flushing = [(); 2].map(|()| scope.spawn(flush));
            opened.wait();
            write();
            opened.wait();
            flushing.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
        })
    }

    #[test]
    fn of_flushes_at_the_same_time_each_tells_of_what_was_lost() {
        let Some(thin) = ThinDevice::attach() else { return };
        let other = fs::OpenOptions::new().write(true).open(thin.path()).unwrap();
        for attempt in 0..50 {
            let image = Image::open(thin.path(), Access::Inspect, DirectIo::Never).unwrap();
            let device = Arc::new(PlainDevice::new(image));
            let results =
                flush_by_both(&device, || other.write_all_at(&vec![attempt; 4 << 20], 2 << 20).unwrap());
            assert!(results.iter().all(Result::is_err), "attempt {attempt}: {results:?}");
        }
    }
}
