//! `stableblk check`: every block against its tuple.

use std::borrow::Cow;
use std::fmt;
use std::process::ExitCode;
use std::sync::{Mutex, PoisonError};

use clap::Args;
use integrity::sidecar::{Mismatch, mismatches};
use integrity::{PiError, Tag};
use serde::Serialize;

use super::scan::scan;
use super::{ImageArgs, print};
use crate::error::Error;
use crate::image::{Access, DirectIo, Image};
use crate::sidecar_file::SidecarFile;

/// Ranges that are remembered; of an image that is bad all over, the rest is only counted.
const RANGES_MAX: usize = 1 << 20;

/// Verify every block of an image against its tuple
///
/// An LBA counts intervals of the image, 4096 bytes each unless the sidecar was made with `--interval 512`.
#[derive(Debug, Clone, Args)]
#[command(
    after_help = "Exit status: 0 when every block matches, 1 when some do not, 2 when the check was not possible."
)]
pub struct CheckArgs {
    #[command(flatten)]
    image: ImageArgs,
    /// Print the result as JSON
    #[arg(long)]
    json: bool,
}

/// Prints the blocks that do not match; exit code 1 when there are any. An error means that the check was not possible.
pub fn run(args: &CheckArgs) -> Result<ExitCode, Error> {
    let image = Image::open(&args.image.image, Access::Read, DirectIo::WherePossible)?;
    let sidecar = SidecarFile::open(&args.image.sidecar_path(), &image, Access::Read)?;
    let report = Report::new(&image, &sidecar, find_mismatches(&image, &sidecar)?);
    print(&report, args.json)?;
    Ok(ExitCode::from(u8::from(report.mismatched_blocks != 0)))
}

fn find_mismatches(image: &Image, sidecar: &SidecarFile) -> Result<Findings, Error> {
    let profile = sidecar.profile();
    let findings = Mutex::new(Findings::default());
    scan(
        image,
        profile,
        "checking",
        |offset| next_work(image, sidecar, offset),
        |chunk| {
            sidecar
                .read_tuples(chunk.first_interval, chunk.tuples)
                .map_err(Error::io("read", sidecar.path()))?;
            for mismatch in mismatches(profile, chunk.first_interval, chunk.data, chunk.tuples)
                .expect("a chunk has the tuples of its data")
            {
                findings.lock().unwrap_or_else(PoisonError::into_inner).add(&mismatch);
            }
            Ok(())
        },
    )?;
    Ok(findings.into_inner().unwrap_or_else(PoisonError::into_inner))
}

/// Where both files have holes, the blocks are unwritten and zero: nothing has to be read to know that they match.
fn next_work(image: &Image, sidecar: &SidecarFile, offset: u64) -> Result<Option<u64>, Error> {
    let interval_size = sidecar.profile().interval_size() as u64;
    let data = image.next_data(offset).map_err(Error::io("find the holes of", image.path()))?;
    if data == Some(offset) {
        return Ok(data);
    }
    let written = sidecar
        .next_written(offset / interval_size)
        .map_err(Error::io("find the holes of", sidecar.path()))?
        .map(|interval| interval * interval_size);
    Ok(data.into_iter().chain(written).min())
}

/// What all threads found so far, in no order.
#[derive(Debug, Default)]
struct Findings {
    ranges: Vec<BadRange>,
    mismatched_blocks: u64,
    unlisted_blocks: u64,
}

impl Findings {
    fn add(&mut self, mismatch: &Mismatch) {
        self.mismatched_blocks += 1;
        if !append(&mut self.ranges, mismatch.into()) {
            self.unlisted_blocks += 1;
        }
    }

    /// In the order of LBAs, ranges joined that were found by different threads.
    fn sorted(mut self) -> Self {
        self.ranges.sort_unstable_by_key(|range| range.first_lba);
        let mut joined = Vec::new();
        for range in self.ranges {
            append(&mut joined, range);
        }
        Self { ranges: joined, ..self }
    }
}

/// Whether there was room for it.
fn append(ranges: &mut Vec<BadRange>, range: BadRange) -> bool {
    if let Some(last) = ranges.last_mut()
        && last.check == range.check
        && last.last_lba + 1 == range.first_lba
    {
        last.last_lba = range.last_lba;
        return true;
    }
    let room = ranges.len() < RANGES_MAX;
    if room {
        ranges.push(range);
    }
    room
}

/// Neighbouring blocks that fail the same check.
#[derive(Debug, Clone, Serialize)]
struct BadRange {
    first_lba: u64,
    last_lba: u64,
    check: Check,
    /// Tags of the first block, in hexadecimal, for JSON's numbers do not hold 64 bits everywhere.
    #[serde(skip_serializing_if = "Option::is_none")]
    first_tag: Option<TagValues>,
}

/// Which check failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Check {
    GuardTag,
    ApplicationTag,
    ReferenceTag,
    StorageTag,
    UnwrittenNotZero,
}

#[derive(Debug, Clone, Serialize)]
struct TagValues {
    expected: String,
    actual: String,
}

impl From<&Mismatch> for BadRange {
    fn from(mismatch: &Mismatch) -> Self {
        let (check, first_tag) = match mismatch {
            Mismatch::UnwrittenNotZero { .. } => (Check::UnwrittenNotZero, None),
            Mismatch::Pi(error) => (Check::of(error.tag), Some(TagValues::of(error))),
        };
        Self { first_lba: mismatch.lba(), last_lba: mismatch.lba(), check, first_tag }
    }
}

impl Check {
    fn of(tag: Tag) -> Self {
        match tag {
            Tag::Guard => Self::GuardTag,
            Tag::Application => Self::ApplicationTag,
            Tag::Reference => Self::ReferenceTag,
            Tag::Storage => Self::StorageTag,
        }
    }
}

impl TagValues {
    fn of(error: &PiError) -> Self {
        let digits = error.tag_size.div_ceil(4) as usize;
        let hexadecimal = |tag| format!("{tag:0digits$x}");
        Self { expected: hexadecimal(error.expected), actual: hexadecimal(error.actual) }
    }
}

impl fmt::Display for Check {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::GuardTag => "guard tag error",
            Self::ApplicationTag => "application tag error",
            Self::ReferenceTag => "reference tag error",
            Self::StorageTag => "storage tag error",
            Self::UnwrittenNotZero => "unwritten block not zero",
        })
    }
}

/// The result, for people and as JSON. Sizes are in bytes, LBAs and blocks in intervals.
#[derive(Debug, Serialize)]
struct Report<'a> {
    image: Cow<'a, str>,
    sidecar: Cow<'a, str>,
    interval_size: usize,
    blocks: u64,
    mismatched_blocks: u64,
    ranges: Vec<BadRange>,
    /// Mismatched blocks in none of the ranges, because there were too many.
    unlisted_blocks: u64,
}

impl<'a> Report<'a> {
    fn new(image: &'a Image, sidecar: &'a SidecarFile, findings: Findings) -> Self {
        let Findings { ranges, mismatched_blocks, unlisted_blocks } = findings.sorted();
        Self {
            image: image.path().to_string_lossy(),
            sidecar: sidecar.path().to_string_lossy(),
            interval_size: sidecar.profile().interval_size(),
            blocks: sidecar.header().intervals(),
            mismatched_blocks,
            ranges,
            unlisted_blocks,
        }
    }

    fn write_range(&self, range: &BadRange, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let BadRange { first_lba, last_lba, check, first_tag } = range;
        let byte = first_lba * self.interval_size as u64;
        match last_lba - first_lba {
            0 => write!(f, "LBA {first_lba} (byte {byte}): {check}")?,
            more => write!(f, "LBA {first_lba}-{last_lba} ({} blocks from byte {byte}): {check}", more + 1)?,
        }
        if let Some(TagValues { expected, actual }) = first_tag {
            let of_first = if first_lba == last_lba { "" } else { " in the first" };
            write!(f, ",{of_first} expected {expected}, actual {actual}")?;
        }
        writeln!(f)
    }
}

impl fmt::Display for Report<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for range in &self.ranges {
            self.write_range(range, f)?;
        }
        if self.unlisted_blocks != 0 {
            writeln!(f, "... and {} more blocks", self.unlisted_blocks)?;
        }
        let Self { image, interval_size, blocks, mismatched_blocks, .. } = self;
        write!(f, "{image}: {blocks} blocks of {interval_size} bytes, ")?;
        match mismatched_blocks {
            0 => writeln!(f, "all match"),
            bad => writeln!(f, "{bad} do not match"),
        }
    }
}
