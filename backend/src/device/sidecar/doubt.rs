//! Blocks whose write failed: they may hold the old data, the new data, or a part of each. They are
//! read to find out, by the log's thread, since that may take long.

use std::io;
use std::ops::Range;
use std::sync::{Arc, OnceLock};

use integrity::IntegrityProfile;
use integrity::sidecar::{Candidates, Change, File, Intent, Journal, Media};

use crate::device::operation::DeviceOperation;

/// Bytes of the image that are read at once.
const READ_MAX: usize = 1 << 20;

/// A change that has failed, and whose blocks are to be read. It does not need its queue.
#[derive(Debug)]
pub(super) struct Doubt {
    intent: Intent,
    /// The tuples that the blocks were to have; none for blocks that were to become unwritten.
    new: Option<Vec<u8>>,
    is_settled: Arc<OnceLock<()>>,
}

/// The failed changes of a queue that wait until the log knows what their blocks hold.
#[derive(Debug, Default)]
pub(super) struct FailedChanges(Vec<(DeviceOperation, io::Error, Arc<OnceLock<()>>)>);

impl Doubt {
    pub(super) fn new(intent: Intent, change: Change<'_>) -> Self {
        let new = match change {
            Change::Written(tuples) => Some(tuples.to_vec()),
            Change::Unwritten => None,
        };
        Self { intent, new, is_settled: Arc::default() }
    }

    /// The tuples of what the blocks hold. `old` copies the tuples that they had.
    pub(super) fn look(
        &self,
        profile: &IntegrityProfile,
        media: &impl Media,
        old: impl FnOnce(&Range<u64>, &mut [u8]) -> io::Result<()>,
    ) -> Vec<u8> {
        let change = self.new.as_deref().map_or(Change::Unwritten, Change::Written);
        tuples_of_what_is_there(profile, media, self.intent.intervals(), change, old)
    }

    /// Gives the log the tuples of what the blocks hold. It is locked, and a queue looks for that
    /// and asks under the same lock, so it misses nothing.
    pub(super) fn settle(self, journal: &mut Journal, tuples: &[u8]) {
        journal.settle(&self.intent, tuples);
        let _ = self.is_settled.set(());
    }
}

impl FailedChanges {
    /// A change has failed, and `doubt` is on its way to the log's thread.
    pub(super) fn wait_for(&mut self, doubt: &Doubt, operation: DeviceOperation, error: io::Error) {
        self.0.push((operation, error, doubt.is_settled.clone()));
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The changes whose blocks the log knows again.
    pub(super) fn take_settled(&mut self) -> Vec<(DeviceOperation, io::Error)> {
        let settled = self.0.extract_if(.., |(_, _, is_settled)| is_settled.get().is_some());
        settled.map(|(operation, error, _)| (operation, error)).collect()
    }
}

/// The tuples of what `intervals` hold after `change` of them has failed. Blocks that cannot be
/// read keep the tuples that they had, and a later read verifies them.
fn tuples_of_what_is_there(
    profile: &IntegrityProfile,
    media: &impl Media,
    intervals: &Range<u64>,
    change: Change<'_>,
    old: impl FnOnce(&Range<u64>, &mut [u8]) -> io::Result<()>,
) -> Vec<u8> {
    let (interval_size, tuple_size) = (profile.interval_size(), profile.tuple_size());
    let mut new = vec![0; intervals.clone().count() * tuple_size];
    change.apply(&mut new);
    let mut tuples = new.clone();
    if old(intervals, &mut tuples).is_err() {
        // the old tuples are not known, so a block matches the new ones or none
        tuples.copy_from_slice(&new);
    }
    let mut data = vec![0; interval_size.max(READ_MAX)];
    let per_read = data.len() / interval_size;
    let mut adopted = 0;
    for (first, (tuples, new)) in (intervals.start..)
        .step_by(per_read)
        .zip(tuples.chunks_mut(per_read * tuple_size).zip(new.chunks(per_read * tuple_size)))
    {
        let data = &mut data[..tuples.len() / tuple_size * interval_size];
        if media.read(File::Image, first * interval_size as u64, data).is_err() {
            continue;
        }
        let blocks = data.chunks_exact(interval_size).zip(new.chunks_exact(tuple_size));
        for (interval, (tuple, (data, new))) in (first..).zip(tuples.chunks_exact_mut(tuple_size).zip(blocks))
        {
            let mut candidates = Candidates::default();
            candidates.push(new);
            candidates.push(tuple);
            let verdict = candidates.judge(profile, interval, data);
            tuple.copy_from_slice(verdict.tuple());
            adopted += u64::from(verdict.adopted);
        }
    }
    if adopted > 0 {
        let (first, last) = (intervals.start, intervals.end - 1);
        tracing::warn!(
            "{adopted} blocks of LBA {first} to {last} were written in part, and are adopted as they are"
        );
    }
    tuples
}
