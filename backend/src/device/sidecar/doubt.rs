//! Blocks whose write failed: they may hold the old data, the new data, or a part of each. They are
//! read to find out.

use std::ops::Range;

use integrity::sidecar::{Candidates, Change, File, Media};

use super::tag_log::TagLog;

/// Bytes of the image that are read at once.
const READ_MAX: usize = 1 << 20;

/// The tuples of what `intervals` hold after `change` of them has failed. Blocks that cannot be
/// read keep the tuples that they had, and a later read verifies them.
pub(super) fn tuples_of_what_is_there(log: &TagLog, intervals: &Range<u64>, change: Change<'_>) -> Vec<u8> {
    let profile = *log.lock().journal.layout().profile();
    let (interval_size, tuple_size) = (profile.interval_size(), profile.tuple_size());
    let mut new = vec![0; intervals.clone().count() * tuple_size];
    change.apply(&mut new);
    let mut tuples = new.clone();
    if log.tuples(intervals, &mut tuples).is_err() {
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
        if log.media().read(File::Image, first * interval_size as u64, data).is_err() {
            continue;
        }
        let blocks = data.chunks_exact(interval_size).zip(new.chunks_exact(tuple_size));
        for (interval, (tuple, (data, new))) in (first..).zip(tuples.chunks_exact_mut(tuple_size).zip(blocks))
        {
            let mut candidates = Candidates::default();
            candidates.push(new);
            candidates.push(tuple);
            let verdict = candidates.judge(&profile, interval, data);
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
