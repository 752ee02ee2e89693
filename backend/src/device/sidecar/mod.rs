//! A raw image and the sidecar that holds its tuples.
//!
//! A change of blocks asks the tag intent log for leave, writes the data, and then gives the log
//! the new tuples. A read gets the tuples from the log, or fetches their pages at the same time as
//! the data. The range lock keeps other requests away from the intervals in between. A flush makes
//! the image durable, and the log as far as its mode promises.
//!
//! ```text
//! write  submit -> intend ~log~ -> data ~ring~ -> complete
//! read   submit -> tuples -> data ~ring~
//!        submit -> pages of tuples and data ~ring~ -> tuples
//! flush  submit -> begin_flush -> sync of the image ~ring~ -> is_flushed ~log~
//! ```

mod device;
mod doubt;
mod fetches;
mod grants;
mod kept_damage;
mod pauses;
mod queue;
mod reading;
mod report;
mod tag_log;
mod written_since;

use std::io;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};

use integrity::sidecar::Growth;

pub use self::device::{SidecarDevice, SidecarOptions};
use self::queue::SidecarQueue;
use crate::device::bounce::Arena;
use crate::device::growth_error::GrowthError;
use crate::device::{BlockDevice, DeviceInfo, DoubtfulBytes, EventSources};
use crate::metrics::TagLogMetrics;
use crate::storage::image::next_data;
use crate::storage::size::StorageSize;

impl BlockDevice for SidecarDevice {
    type Queue = SidecarQueue;

    fn info(&self) -> &DeviceInfo {
        &self.info
    }

    fn open_queue(self: &Arc<Self>, arena: &Arena, sources: EventSources<'_>) -> io::Result<SidecarQueue> {
        SidecarQueue::open(self.clone(), arena, sources)
    }

    fn crash_doubt(&self) -> Option<DoubtfulBytes> {
        Some(self.log.doubt().get()).filter(|doubt| doubt.limit > 0)
    }

    fn tag_log(&self) -> Option<Arc<TagLogMetrics>> {
        Some(self.log.metrics().clone())
    }

    fn next_data(&self, offset: u64) -> io::Result<Option<u64>> {
        if self.only_reads {
            // the tuples of a recovery that was not written are in no file
            return Ok(Some(offset));
        }
        let data = next_data(self.image.file(), offset)?;
        if data == Some(offset) {
            return Ok(data);
        }
        let interval_size = self.protection.interval_size() as u64;
        let layout = self.log.lock().journal.layout().clone();
        let interval = self.protection.interval(offset);
        let written = self.log.media().next_written(&layout, interval)?;
        let written = written.map(|interval| interval * interval_size);
        Ok(data.into_iter().chain(written).min().map(|next| next.max(offset)))
    }

    fn measure(&self) -> io::Result<StorageSize> {
        self.image.storage_size()
    }

    fn prepare_growth(&self, size: u64) -> Result<(), GrowthError> {
        if self.only_reads {
            return Err(GrowthError::ReadOnly);
        }
        let growth = Growth::to(&self.log.lock().journal, size).map_err(GrowthError::Sidecar)?;
        let media = self.log.media().for_another_thread()?;
        // drops what a growth that was cut off has left there
        let file = media.sidecar();
        file.set_len(growth.old_size())?;
        file.set_len(growth.new_size())?;
        growth.prepare(&media, |offset| {
            if self.growth_interrupted.load(Ordering::Relaxed) {
                return Err(io::Error::other("the disk is handed over"));
            }
            next_data(self.image.file(), offset)
        })?;
        // so that less is left to do while the queues are stopped
        let mut log = self.log.lock();
        log.journal.want_checkpoint();
        self.log.unlock(log);
        *self.growth.lock().unwrap_or_else(PoisonError::into_inner) = Some(growth);
        Ok(())
    }

    fn interrupt_growth(&self) {
        self.growth_interrupted.store(true, Ordering::Relaxed);
    }

    fn grow(&self, size: u64) -> Result<(), GrowthError> {
        let prepared = self.growth.lock().unwrap_or_else(PoisonError::into_inner).take();
        let growth = prepared.ok_or_else(|| io::Error::other("nothing was made ready"))?;
        // first: after a crash in between, the image is like one that another program has made
        // larger
        self.image.extend(size)?;
        self.log.grow(growth, self.cache_bytes)?;
        self.info.capacity.grow(size);
        Ok(())
    }

    fn close(&self) -> io::Result<()> {
        match self.thread().take() {
            Some(thread) => {
                self.log.stop(thread);
                if self.only_reads {
                    return Ok(());
                }
                self.info.durability.settle();
                self.log.close()
            }
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests;
