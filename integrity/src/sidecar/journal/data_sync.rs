//! Syncs of the image for a guest that writes and does not flush. A recovery compares each block
//! with the log whose record is newer than the last sync, before the disk is served; so their
//! number is bounded.

use std::io;

use super::Journal;
use crate::sidecar::media::{File, Media, Reason};

/// A sync of the image, for the log's thread to run.
#[derive(Debug)]
#[must_use = "the journal waits for its end"]
pub struct DataSync {
    /// The last page of the log whose records have their data written.
    complete: u64,
}

impl DataSync {
    /// Makes the data durable.
    pub fn run(&self, media: &impl Media) -> io::Result<()> {
        media.sync(File::Image, Reason::DataOfLog)
    }
}

impl Journal {
    /// Begins a sync of the image, if the log has many records whose data may not be durable.
    pub fn begin_data_sync(&mut self) -> Option<DataSync> {
        let complete = self.durable_and_complete();
        self.is_data_sync_due().then_some(DataSync { complete })
    }

    /// A sync of the image is over. One that has failed is not tried again for the same records.
    pub fn end_data_sync(&mut self, sync: &DataSync, result: &io::Result<()>) {
        self.work.data_synced = sync.complete;
        if result.is_ok() {
            self.records.committed = self.records.committed.max(sync.complete);
        } else {
            if let Some(checkpoint) = &self.work.checkpointing {
                // it may be about to write a superblock that knows nothing of this
                checkpoint.set();
            }
            self.durability_was_lost();
        }
    }

    pub(super) fn is_data_sync_due(&self) -> bool {
        let since = self.records.committed.max(self.work.data_synced);
        // while commits fail, no page could say that the data is durable
        let is_possible = !self.given_up && !self.work.commit.failing;
        // a change that waits for a commit does not wait for this too, unless there is always one
        let patience = if self.work.commit.wanted { 2 } else { 1 };
        is_possible && self.durable_and_complete() > since + patience * self.layout.unsynced_pages_max()
    }

    /// The last page of the log up to which all is durable and all data is written.
    fn durable_and_complete(&self) -> u64 {
        self.complete_through().min(self.records.durable)
    }
}
