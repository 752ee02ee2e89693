//! A host that serves the image: requests, and the thread of the log, one after the other.

use std::io;
use std::ops::Range;

use stableblk_integrity::sidecar::{
    self, Change, File, Intent, IntentMode, LoadError, Media, PAGE_SIZE, Permission, Recovery, Rules,
};

use super::medium::Medium;
use super::served::Served;

/// Rounds of the log's thread after which what is not done will never be.
const PATIENCE: usize = 1000;
/// Pages of the tuple cache: fewer than the array has.
const CACHE_PAGES: usize = 4;

/// The outcome of a change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    Done,
    /// Half of it is written when the process is killed.
    CutOff,
    /// Half of it is written, and the guest gets an error.
    Failed,
}

/// A sidecar that is served.
#[derive(Debug)]
pub(super) struct Host<'m>(Served<'m, Medium>);

impl<'m> Host<'m> {
    pub(super) fn open(media: &'m Medium, mode: IntentMode) -> Result<(Self, Option<Recovery>), LoadError> {
        let opened = sidecar::open(media, mode, CACHE_PAGES * PAGE_SIZE, Rules::all())?;
        Ok((Self(Served::new(media, opened.journal)), opened.recovered))
    }

    /// Writes `data` to the intervals that it fills, from `first` on; `None` discards `count` of
    /// them.
    pub(super) fn change(
        &mut self,
        intervals: Range<u64>,
        data: Option<&[u8]>,
        fate: Fate,
    ) -> io::Result<()> {
        let profile = *self.0.journal.layout().profile();
        let mut tuples = vec![0; self.tuples_len(&intervals)];
        if let Some(data) = data {
            sidecar::generate(&profile, intervals.start, data, &mut tuples).expect("a tuple for each");
        }
        let change = if data.is_some() { Change::Written(&tuples) } else { Change::Unwritten };
        let mut intent = Intent::new(intervals.clone());
        self.until(|host| Ok(host.0.journal.intend(&mut intent, change)? == Permission::Granted))?;
        let zeros = vec![0; count(&intervals) * profile.interval_size()];
        let data = data.unwrap_or(&zeros);
        let written = if fate == Fate::Done { data.len() } else { data.len() / 2 };
        self.0.media.write_image(intervals.start * profile.interval_size() as u64, &data[..written]);
        match fate {
            Fate::Done => self.0.journal.complete(&intent, change),
            Fate::CutOff => {}
            Fate::Failed => {
                let there = self.tuples_of_what_is_there(&intervals)?;
                self.0.journal.settle(&intent, &there);
            }
        }
        Ok(())
    }

    pub(super) fn flush(&mut self) -> io::Result<()> {
        let mut flush = self.0.journal.begin_flush();
        self.0.journal.image_synced(&flush);
        self.until(|host| host.0.journal.is_flushed(&mut flush))
    }

    pub(super) fn commit(&mut self) -> io::Result<()> {
        let Some(commit) = self.0.journal.begin_commit() else { return Ok(()) };
        let result = commit.run(self.0.media);
        self.0.journal.end_commit(commit, &result);
        result
    }

    pub(super) fn sync_data(&mut self) -> io::Result<()> {
        let Some(sync) = self.0.journal.begin_data_sync() else { return Ok(()) };
        let result = sync.run(self.0.media);
        self.0.journal.end_data_sync(&sync, &result);
        result
    }

    pub(super) fn want_checkpoint(&mut self) {
        self.0.journal.want_checkpoint();
    }

    pub(super) fn step_checkpoint(&mut self) -> io::Result<()> {
        self.0.step_checkpoint().map_or(Ok(()), |step| step.map(drop))
    }

    pub(super) fn close(mut self) -> io::Result<()> {
        self.until(|host| Ok(!host.0.is_checkpointing()))?;
        sidecar::close(&mut self.0.journal, self.0.media)
    }

    /// The tuples of `intervals`, as a read gets them.
    pub(super) fn tuples(&mut self, intervals: &Range<u64>) -> io::Result<Vec<u8>> {
        self.0.tuples(intervals)
    }

    fn tuples_of_what_is_there(&self, intervals: &Range<u64>) -> io::Result<Vec<u8>> {
        let profile = self.0.journal.layout().profile();
        let mut data = vec![0; count(intervals) * profile.interval_size()];
        self.0.media.read(File::Image, intervals.start * profile.interval_size() as u64, &mut data)?;
        let mut tuples = vec![0; self.tuples_len(intervals)];
        sidecar::generate(profile, intervals.start, &data, &mut tuples).expect("a tuple for each");
        Ok(tuples)
    }

    fn tuples_len(&self, intervals: &Range<u64>) -> usize {
        count(intervals) * self.0.journal.layout().profile().tuple_size()
    }

    /// Until `done`, with the log's thread at work.
    fn until(&mut self, mut done: impl FnMut(&mut Self) -> io::Result<bool>) -> io::Result<()> {
        for _ in 0..PATIENCE {
            if done(self)? {
                return Ok(());
            }
            self.commit()?;
            self.sync_data()?;
            self.step_checkpoint()?;
        }
        panic!("it waits for what never comes");
    }
}

fn count(intervals: &Range<u64>) -> usize {
    usize::try_from(intervals.end - intervals.start).expect("few")
}
