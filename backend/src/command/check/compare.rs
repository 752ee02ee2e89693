//! The comparison of every block of an image with its tuple.

use std::sync::{Mutex, PoisonError};

use integrity::sidecar::{is_adopted, mismatches};

use super::super::scan::{Chunk, Unreadable, Visitor, scan};
use super::{Findings, Recovered};
use crate::storage::error::ImageError;
use crate::storage::image::Image;
use crate::storage::sidecar_file::SidecarFile;

/// Finds the blocks of `image` that do not match `sidecar`, with the tuples of `recovered`. The
/// part of a larger image that the sidecar does not cover is not compared. The image consists of
/// whole intervals.
pub(in crate::command) fn compare(
    image: &Image,
    sidecar: &SidecarFile,
    recovered: &Recovered,
    title: &'static str,
) -> Result<Findings, ImageError> {
    compare_and_take(image, sidecar, recovered, title, &|_| Ok(()))
}

/// The blocks of a chunk, with their tuples as they are, right or wrong.
pub(in crate::command) struct Compared<'a> {
    pub(in crate::command) first_interval: u64,
    /// None where the blocks cannot be read.
    pub(in crate::command) data: &'a [u8],
    pub(in crate::command) tuples: &'a [u8],
}

type Take<'a> = &'a (dyn Fn(Compared<'_>) -> Result<(), ImageError> + Sync);

/// As [`compare`], and passes all blocks to `take`, but for those that are unwritten and lie in a
/// hole.
pub(in crate::command) fn compare_and_take(
    image: &Image,
    sidecar: &SidecarFile,
    recovered: &Recovered,
    title: &'static str,
    take: Take<'_>,
) -> Result<Findings, ImageError> {
    let check = Comparison { image, sidecar, recovered, take, findings: Mutex::default() };
    let covered = sidecar.layout().image_size().min(image.size());
    scan(image, covered, sidecar.profile(), title, &check)?;
    Ok(check.findings.into_inner().unwrap_or_else(PoisonError::into_inner))
}

/// Compares the image, as the visitor of a scan.
struct Comparison<'a> {
    image: &'a Image,
    sidecar: &'a SidecarFile,
    recovered: &'a Recovered,
    take: Take<'a>,
    findings: Mutex<Findings>,
}

impl Comparison<'_> {
    fn find(&self, add: impl FnOnce(&mut Findings)) {
        // findings are consistent at any time
        add(&mut self.findings.lock().unwrap_or_else(PoisonError::into_inner));
    }
}

impl Visitor for Comparison<'_> {
    /// Where both files have holes, and recovery changes nothing, the blocks are unwritten and
    /// zero: they match without being read.
    fn next_work(&self, offset: u64) -> Result<Option<u64>, ImageError> {
        let Self { image, sidecar, recovered, .. } = self;
        let interval_size = sidecar.profile().interval_size() as u64;
        let interval = offset / interval_size;
        if interval >= sidecar.layout().intervals() {
            return Ok(None);
        }
        let data = image.next_data(offset).map_err(ImageError::io("find the holes of", image.path()))?;
        if data == Some(offset) {
            return Ok(data);
        }
        let written =
            sidecar.next_written(interval).map_err(ImageError::io("find the holes of", sidecar.path()))?;
        let changed = recovered.next_changed(sidecar.layout(), interval);
        let tuples = written.into_iter().chain(changed).map(|interval| interval * interval_size);
        Ok(data.into_iter().chain(tuples).min())
    }

    fn visit(&self, chunk: Chunk<'_>) -> Result<(), ImageError> {
        let profile = self.sidecar.profile();
        let Chunk { first_interval, data, tuples } = chunk;
        // the image may be larger than what the sidecar covers
        let covered = self.sidecar.layout().intervals().saturating_sub(first_interval);
        let covered =
            usize::try_from(covered).unwrap_or(usize::MAX).min(data.len() / profile.interval_size());
        let data = &data[..covered * profile.interval_size()];
        let tuples = &mut tuples[..covered * profile.tuple_size()];
        self.recovered
            .read_tuples(self.sidecar, first_interval, tuples)
            .map_err(ImageError::io("read", self.sidecar.path()))?;
        let adopted = (first_interval..)
            .zip(tuples.chunks_exact(profile.tuple_size()))
            .filter(|(_, tuple)| is_adopted(profile, tuple));
        let mismatches = mismatches(profile, first_interval, data, tuples)
            .expect("a chunk has room for the tuples of its data");
        self.find(|findings| {
            mismatches.for_each(|mismatch| findings.add_mismatch(&mismatch));
            adopted.for_each(|(lba, _)| findings.add_adopted(lba));
        });
        (self.take)(Compared { first_interval, data, tuples })
    }

    fn unreadable(&self, unreadable: Unreadable) -> Result<(), ImageError> {
        let intervals = &unreadable.intervals;
        self.find(|findings| findings.add_unreadable(intervals));
        let covered = intervals.start..intervals.end.min(self.sidecar.layout().intervals());
        let count = usize::try_from(covered.end.saturating_sub(covered.start)).unwrap_or_default();
        let mut tuples = vec![0; count * self.sidecar.profile().tuple_size()];
        self.recovered
            .read_tuples(self.sidecar, covered.start, &mut tuples)
            .map_err(ImageError::io("read", self.sidecar.path()))?;
        (self.take)(Compared { first_interval: covered.start, data: &[], tuples: &tuples })
    }
}
