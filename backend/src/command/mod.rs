//! The subcommands, one file or folder each.

use std::fmt::Display;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use integrity::sidecar::Superblock;
use integrity::{Guard, IntegrityProfile, PiType};
use parse_size::Config;
use serde::Serialize;
use tracing::warn;
use uuid::Uuid;

use crate::storage::error::ImageError;
use crate::storage::sidecar_path;

pub mod accept;
pub mod check;
pub mod completions;
pub mod copy;
pub mod create;
pub mod ctl;
pub mod exporter;
pub mod info;
pub mod list;
pub mod man;
pub mod protect;
pub mod repair;
pub mod resize;
pub mod serve;
pub mod top;

mod choose_device;
mod disks;
mod limit_args;
mod openmetrics;
mod scan;
mod unfinished;

/// The options by which every subcommand names an image and its sidecar.
#[derive(Debug, Clone, Args)]
pub struct ImageArgs {
    /// The raw image: a file or a block device
    #[arg(value_name = "IMAGE")]
    pub image: PathBuf,
    /// The sidecar with the image's protection information [default: IMAGE.pi]
    #[arg(long = "integrity", value_name = "PATH", value_parser = parse_sidecar)]
    pub sidecar: Option<PathBuf>,
}

impl ImageArgs {
    /// The path of the sidecar, which may not exist yet.
    #[must_use]
    pub fn sidecar_path(&self) -> PathBuf {
        self.sidecar.clone().unwrap_or_else(|| sidecar_path::default_path(&self.image))
    }
}

/// The options for the profile of a new sidecar.
#[derive(Debug, Clone, Copy, Args)]
pub struct ProfileArgs {
    /// The guard tag's checksum
    #[arg(long, value_enum, default_value_t = GuardName::Crc64)]
    pub guard: GuardName,
    /// Bytes of data that one tuple covers
    #[arg(long, value_enum, default_value_t = IntervalSize::Bytes4096)]
    pub interval: IntervalSize,
}

/// The guards by their short names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum GuardName {
    /// CRC-64/NVME in a 16-byte tuple
    Crc64,
    /// CRC-32C in a 16-byte tuple
    Crc32c,
    /// CRC-16/T10-DIF in an 8-byte tuple
    T10,
}

/// The sizes of intervals, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum IntervalSize {
    /// The block of virtio-blk
    #[value(name = "512")]
    Bytes512,
    /// The page
    #[value(name = "4096")]
    Bytes4096,
}

impl ProfileArgs {
    /// The profile that these options describe.
    #[must_use]
    #[expect(clippy::missing_panics_doc, reason = "the options name valid intervals only")]
    pub fn profile(self) -> IntegrityProfile {
        let guard = match self.guard {
            GuardName::Crc64 => Guard::Crc64Nvme,
            GuardName::Crc32c => Guard::Crc32c,
            GuardName::T10 => Guard::Crc16T10Dif,
        };
        let interval_size = match self.interval {
            IntervalSize::Bytes512 => 512,
            IntervalSize::Bytes4096 => 4096,
        };
        IntegrityProfile::new(guard, PiType::Type1, interval_size).expect("a valid interval")
    }
}

/// Parses the size of a disk, in bytes or with a unit of powers of 1024, for clap.
fn parse_size(text: &str) -> Result<u64, &'static str> {
    let size = Config::new().with_binary().parse_size(text);
    size.map_err(
        |_| "no size: give bytes, or a number with a unit of powers of 1024, such as 512M, 10G or 2T",
    )
}

/// Parses the path of a sidecar, for clap. The words that are no path when serving are none here.
fn parse_sidecar(text: &str) -> Result<PathBuf, String> {
    match text {
        "" => Err("an empty path: leave `--integrity` out for IMAGE.pi".to_owned()),
        "none" | "auto" => Err(format!(
            "`{text}` is an option of serving, not a path: leave `--integrity` out for IMAGE.pi, or give \
             ./{text} for a file of that name"
        )),
        path => Ok(path.into()),
    }
}

fn refuse_uneven_size(size: u64, interval_size: u64) -> Result<(), ImageError> {
    if size != 0 && size.is_multiple_of(interval_size) {
        return Ok(());
    }
    let rounded = size.max(1).checked_next_multiple_of(interval_size).unwrap_or(interval_size);
    Err(ImageError::UnevenNewSize { size, interval_size, rounded })
}

/// The superblock of a new sidecar, with a UUID of its own, for an image of `size` bytes.
fn new_superblock(image: &Path, size: u64, profile: IntegrityProfile) -> Result<Superblock, ImageError> {
    Superblock::new(Uuid::new_v4().into_bytes(), profile, size)
        .map_err(|source| ImageError::Unprotectable { image: image.to_owned(), source })
}

/// Prints a result to stdout. A reader that has gone away is an error like any other.
fn print(result: &(impl Display + Serialize), json: bool) -> Result<(), ImageError> {
    let mut stdout = io::stdout().lock();
    let printed = if json {
        serde_json::to_writer_pretty(&mut stdout, result)
            .map_err(io::Error::from)
            .and_then(|()| writeln!(stdout))
    } else {
        write!(stdout, "{result}")
    };
    printed.and_then(|()| stdout.flush()).map_err(ImageError::io("write to", Path::new("standard output")))
}

/// Warns that the image could not be given a UUID: its file system has no extended attributes, or
/// no room for one more.
fn warn_of_missing_uuid(image: &Path, error: &io::Error) {
    let image = image.display();
    warn!("{image} carries no UUID, so any sidecar for an image of its size will pass as its own: {error}");
}
