//! The blocks that `protect --force` accepts although they do not match the old sidecar.

use std::borrow::Cow;
use std::fmt;
use std::path::{Path, PathBuf};

use serde::{Serialize, Serializer};

use super::super::check::{Findings, Recovered, compare, write_range};
use super::take_over::Taken;
use crate::report;
use crate::storage::error::ImageError;
use crate::storage::image::{Access, Image};
use crate::storage::sidecar_file::{SidecarFile, load_error};
use crate::storage::trace::Trace;

/// The number of ranges that are listed; the others are counted.
const RANGES_MAX: usize = 100;

/// The comparison of an image with its old sidecar.
#[derive(Debug)]
pub(super) struct Accepted<'a> {
    image: &'a Image,
    sidecar: PathBuf,
    outcome: Result<Compared, ImageError>,
}

#[derive(Debug)]
struct Compared {
    findings: Findings,
    interval_size: usize,
    /// The number of blocks that both files cover.
    blocks: u64,
}

impl<'a> Accepted<'a> {
    /// Compares `image` with its sidecar `old`. Without that, compares it with a sidecar of its own
    /// that is found although the new one will be at `path`; none where there is neither.
    pub(super) fn find(
        image: &'a Image,
        path: &Path,
        old: Option<&Path>,
    ) -> Result<Option<Self>, ImageError> {
        let found = match old {
            Some(old) => Some(old.to_owned()),
            None => Trace::of(image, path)?.and_then(|trace| trace.found().map(ToOwned::to_owned)),
        };
        Ok(found.map(|sidecar| Self { image, outcome: compare_with(image, &sidecar), sidecar }))
    }
}

fn compare_with(image: &Image, path: &Path) -> Result<Compared, ImageError> {
    let sidecar = SidecarFile::open_for_any_size(path, image, Access::Inspect)?;
    let interval_size = sidecar.profile().interval_size();
    if !image.size().is_multiple_of(interval_size as u64) {
        sidecar.refuse_truncated(image)?;
    }
    let recovered = Recovered::dry_run(&sidecar).map_err(load_error("recover", path))?;
    let findings = compare(image, &sidecar, &recovered, "comparing")?.sorted();
    let blocks = sidecar.layout().intervals().min(image.size() / interval_size as u64);
    Ok(Compared { findings, interval_size, blocks })
}

impl fmt::Display for Accepted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (image, sidecar) = (self.image.path().display(), self.sidecar.display());
        let Compared { findings, interval_size, blocks } = match &self.outcome {
            Ok(compared) => compared,
            Err(error) => {
                return writeln!(
                    f,
                    "{image}: cannot be compared with the old sidecar {sidecar}, so all of its content is \
                     accepted: {}",
                    report::chain(error)
                );
            }
        };
        write!(f, "{}", List { findings, interval_size: *interval_size })?;
        match findings.mismatched_blocks + findings.unreadable_blocks {
            0 => writeln!(f, "{image}: all of {blocks} blocks match the old sidecar {sidecar}"),
            bad => writeln!(
                f,
                "{image}: {bad} of {blocks} blocks do not match the old sidecar {sidecar} and are accepted \
                 as they are"
            ),
        }
    }
}

/// Blocks that are accepted although their tuples are wrong.
struct List<'a> {
    findings: &'a Findings,
    interval_size: usize,
}

impl fmt::Display for List<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bad = &self.findings.bad;
        for bad in bad.iter().take(RANGES_MAX) {
            write_range(bad, self.interval_size, f)?;
        }
        match bad.len().saturating_sub(RANGES_MAX) {
            0 => Ok(()),
            more => writeln!(f, "... and {more} more ranges"),
        }
    }
}

impl Taken {
    /// The report about the device at `path`.
    pub(super) fn report(&self, path: &Path) -> String {
        let (path, accepted) = (path.display(), self.accepted.mismatched_blocks);
        let list = List { findings: &self.accepted, interval_size: self.block_size };
        let summary = match accepted {
            0 => String::new(),
            _ => {
                format!("{path}: blocks accepted although their tuples do not match: {accepted}\n")
            }
        };
        let blocks = self.blocks;
        format!("{list}{summary}{path}: protected by its own metadata, {blocks} blocks were given tuples\n")
    }
}

impl Serialize for Accepted<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&Cow::from(self.to_string()))
    }
}
