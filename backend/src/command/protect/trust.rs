//! Making tuples for data that has none. The content of the image is taken to be right.

use std::sync::{Mutex, PoisonError};

use integrity::sidecar::{generate_sparse, is_unwritten};

use super::super::scan::{Chunk, Unreadable, Visitor, scan};
use crate::storage::error::ImageError;
use crate::storage::image::Image;
use crate::storage::sidecar_file::SidecarFile;

/// Makes the tuples of all intervals from number `first` on, which are unwritten in `sidecar`.
/// Blocks of zeros stay unwritten.
pub(in crate::command) fn trust(
    image: &Image,
    sidecar: &SidecarFile,
    first: u64,
    title: &'static str,
) -> Result<(), ImageError> {
    scan(
        image,
        image.size(),
        sidecar.profile(),
        title,
        &Trust { image, sidecar, first, one_writer: Mutex::new(()) },
    )
}

struct Trust<'a> {
    image: &'a Image,
    sidecar: &'a SidecarFile,
    first: u64,
    /// Two chunks may share a page of the tuple array.
    one_writer: Mutex<()>,
}

impl Visitor for Trust<'_> {
    fn next_work(&self, offset: u64) -> Result<Option<u64>, ImageError> {
        let from = offset.max(self.first * self.sidecar.profile().interval_size() as u64);
        self.image.next_data(from).map_err(ImageError::io("find the holes of", self.image.path()))
    }

    fn visit(&self, chunk: Chunk<'_>) -> Result<(), ImageError> {
        let profile = self.sidecar.profile();
        // a chunk may begin before the first interval, and a part of one may end there
        let first = chunk.first_interval.max(self.first);
        let skipped = usize::try_from(first - chunk.first_interval).unwrap_or(usize::MAX);
        let skipped = skipped.min(chunk.data.len() / profile.interval_size());
        let data = &chunk.data[skipped * profile.interval_size()..];
        let tuples = &mut chunk.tuples[skipped * profile.tuple_size()..];
        generate_sparse(profile, first, data, tuples).expect("a chunk has room for the tuples of its data");
        if is_unwritten(tuples) {
            // the page stays a hole
            return Ok(());
        }
        let _alone = self.one_writer.lock().unwrap_or_else(PoisonError::into_inner);
        self.sidecar.write_tuples(first, tuples).map_err(ImageError::io("write", self.sidecar.path()))
    }

    fn unreadable(&self, unreadable: Unreadable) -> Result<(), ImageError> {
        if unreadable.intervals.end <= self.first { Ok(()) } else { Err(unreadable.error) }
    }
}
