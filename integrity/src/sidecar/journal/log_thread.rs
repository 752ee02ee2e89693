//! The work of the log's thread: commits make pages of the log durable, checkpoints bring their
//! records to the array.

use std::io;

use super::Journal;
use crate::sidecar::checkpoint::Checkpoint;
use crate::sidecar::commit::Commit;
use crate::sidecar::rules::Rules;

impl Journal {
    /// Begins a commit of all that has to become durable now, for the log's thread to run.
    pub fn begin_commit(&mut self) -> Option<Commit> {
        if self.given_up {
            return None;
        }
        if !std::mem::take(&mut self.work.commit.wanted) && !self.is_overfull() {
            return None;
        }
        if std::mem::take(&mut self.work.seal_wanted) {
            self.records.seal();
        }
        let regions = self.regions.begin_marking();
        if !self.records.has_volatile() && !self.regions.has_changes() {
            return None;
        }
        self.doubt.commit_begins();
        let layout = &self.layout;
        Some(Commit {
            attempt: self.work.begin(),
            map: self.regions.take_changes(layout),
            pages: self
                .records
                .take_volatile()
                .map(|(seq, page)| (layout.log_page_offset(seq), page))
                .collect(),
            through: self.records.next() - 1,
            regions,
        })
    }

    /// A commit is over.
    pub fn end_commit(&mut self, commit: Commit, result: &io::Result<()>) {
        self.work.commit.end(commit.attempt, result);
        if result.is_ok() {
            self.records.durable = commit.through;
            self.doubt.is_durable(commit.through);
            self.regions.are_marked(commit.regions);
            return;
        }
        if let Some(checkpoint) = &self.work.checkpointing {
            // a sync that fails may give up all that was written to the file, tuples too, and the
            // next one will not report it
            checkpoint.set();
        }
        // one that waits for the commit has failed with it, and is not to ask for it again and
        // again
        self.work.checkpoint.failing |= std::mem::take(&mut self.work.checkpoint.wanted);
        self.regions.are_not_marked(&self.layout, &commit);
        self.records.put_back(commit.pages.into_iter().map(|(_, page)| page));
    }

    /// Begins a checkpoint of all that can go to the array now, for the log's thread to run.
    pub fn begin_checkpoint(&mut self) -> Option<Checkpoint> {
        if self.given_up || !self.work.checkpoint.wanted || self.work.checkpointing.is_some() {
            return None;
        }
        let tail = self.records.tail;
        if self.work.goal < tail {
            self.records.seal();
            self.work.goal = self.complete_through();
        }
        if self.work.goal < tail && !self.loss_reported && !self.lost {
            // the goal can only be reached when some change is complete
            self.work.checkpoint.wanted = !self.is_empty();
            return None;
        }
        if self.work.goal.max(self.work.settled) > self.records.durable {
            // The checkpoint reads the log from the medium. A failed write may have been settled in
            // the open page since, and then the commit has to close that.
            self.work.seal_wanted |= self.work.settled == self.records.next();
            self.work.commit.wanted = true;
            return None;
        }
        let through = self.complete_through().min(self.records.durable);
        let attempt = self.work.begin();
        self.work.checkpoint.wanted = false;
        self.work.goal = 0;
        self.records.checkpoint_begins();
        let (id, superblock) = (self.records.id(), self.superblock.clone());
        let checkpoint =
            Checkpoint::new(attempt, id, superblock, tail..through + 1, self.rules, self.loss_reported);
        self.work.checkpointing = Some(checkpoint.spoiled());
        Some(checkpoint)
    }

    /// A checkpoint is over.
    pub fn end_checkpoint(&mut self, checkpoint: Checkpoint, result: &io::Result<()>) {
        self.work.checkpointing = None;
        let clean_all = std::mem::take(&mut self.work.clean_all);
        let (attempt, pages, superblock) = checkpoint.into_parts();
        self.superblock = superblock;
        self.work.checkpoint.end(attempt, result);
        self.lost &= !self.superblock.says_lost();
        if result.is_err() {
            return;
        }
        self.loss_reported &= self.superblock.superblock.durability_lost;
        self.records.forget_before(pages.end);
        self.cache.checkpointed(pages.end - 1);
        if clean_all {
            self.clean_regions(pages.end);
        } else {
            self.regions.clean_coldest_before(pages.end);
            self.work.commit.wanted |= self.regions.has_changes();
        }
    }

    /// Whether the log's thread has anything to do.
    #[must_use]
    pub fn has_work(&self) -> bool {
        if self.given_up {
            return false;
        }
        let checkpoint_helps = self.loss_reported
            || self.lost
            || self.records.is_open_page_complete()
            || self.complete_through() >= self.records.tail;
        self.work.commit.wanted
            || self.is_overfull()
            || self.is_data_sync_due()
            || (self.work.checkpoint.wanted && self.work.checkpointing.is_none() && checkpoint_helps)
    }

    /// The log's thread calls this about once a second while the log [is not
    /// empty](Self::is_empty): a pause is the time for a checkpoint.
    pub fn tick(&mut self) {
        if !std::mem::take(&mut self.work.busy) || self.work.checkpoint.failing {
            self.work.goal = 0;
            self.work.checkpoint.wanted = !self.is_empty();
            self.work.commit.wanted |= self.regions.has_changes();
        }
    }

    /// The log's thread calls this when the log has been [empty](Self::is_empty) for a long time:
    /// after a crash nothing is to be in doubt then.
    pub fn rest(&mut self) {
        self.clean_regions(self.records.tail);
    }

    /// Whether any region is marked, which a long [rest](Self::rest) would clean.
    #[must_use]
    pub fn has_marks(&self) -> bool {
        self.regions.dirty() > 0 && !self.given_up
    }

    /// Asks for a checkpoint of all that is complete, after which all regions become clean that
    /// can.
    pub fn want_checkpoint(&mut self) {
        self.work.clean_all = true;
        // regions that were marked for changes of which none was made
        self.clean_regions(self.records.tail);
        self.work.goal = 0;
        self.work.checkpoint.wanted = !self.is_empty();
    }

    /// Whether everything is in the array, and the superblock says nothing that is over.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        let is_written = self.records.is_empty() && !self.regions.has_changes();
        is_written && !self.loss_reported && !self.given_up
    }

    /// Takes the dirty bits of regions of which no page from `tail` on has a record.
    fn clean_regions(&mut self, tail: u64) {
        let all = !self.rules.contains(Rules::CLEAN_WHEN_CHECKPOINTED);
        self.regions.clean_before(if all { u64::MAX } else { tail });
        // no change waits for these bits, but the medium is to have them one day
        self.work.commit.wanted |= self.regions.has_changes();
    }

    /// Whether pages should be written although nothing needs that yet.
    fn is_overfull(&self) -> bool {
        self.records.is_overfull() && !self.work.commit.failing
    }
}
