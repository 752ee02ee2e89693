//! `stableblk info`: what an image and its sidecar are. It looks and locks nothing, so the image may be in use.

use std::borrow::Cow;
use std::fmt;
use std::process::ExitCode;

use clap::Args;
use indicatif::BinaryBytes;
use integrity::sidecar::{State, VERSION, is_unwritten};
use serde::Serialize;
use thiserror::Error;
use uuid::Uuid;

use super::device_info::DeviceInfo;
use super::{ImageArgs, print};
use crate::device::{Namespace, NamespaceError};
use crate::error::Error;
use crate::image::{Access, DirectIo, Image};
use crate::sidecar_file::SidecarFile;

/// Tuples that are read at a time.
const TUPLES_PER_READ: usize = 1 << 16;

/// Tell what an image and its sidecar are
#[derive(Debug, Clone, Args)]
pub struct InfoArgs {
    #[command(flatten)]
    image: ImageArgs,
    /// Print it as JSON
    #[arg(long)]
    json: bool,
}

/// Why there is nothing to tell.
#[derive(Debug, Error)]
pub enum InfoError {
    /// Of an image, or its sidecar.
    #[error(transparent)]
    Image(#[from] Error),
    /// Of a namespace.
    #[error(transparent)]
    Namespace(#[from] NamespaceError),
}

/// Prints what it finds. Of an image in use, the counts are of some moment in between.
pub fn run(args: &InfoArgs) -> Result<ExitCode, InfoError> {
    if Namespace::is_at(&args.image.image) {
        print(&DeviceInfo::of_namespace(&args.image.image)?, args.json)?;
        return Ok(ExitCode::SUCCESS);
    }
    let image = Image::open(&args.image.image, Access::Inspect, DirectIo::WherePossible)?;
    if image.is_block_device() && args.image.sidecar.is_none() {
        print(&DeviceInfo::of_block_device(&image, &args.image.image), args.json)?;
        return Ok(ExitCode::SUCCESS);
    }
    let sidecar = SidecarFile::open(&args.image.sidecar_path(), &image, Access::Inspect)?;
    let info = Info::new(&image, &sidecar)?;
    print(&info, args.json)?;
    Ok(ExitCode::SUCCESS)
}

/// Sizes are in bytes, blocks in intervals.
#[derive(Debug, Serialize)]
struct Info<'a> {
    image: Cow<'a, str>,
    format: &'static str,
    size: u64,
    direct_io: bool,
    in_use_by: Option<String>,
    sidecar: Cow<'a, str>,
    sidecar_version: u32,
    uuid: String,
    /// Whether the image carries the same UUID; if not, it carries none.
    image_has_uuid: bool,
    state: &'static str,
    guard: &'static str,
    pi_type: u8,
    tuple_size: usize,
    interval_size: usize,
    blocks: u64,
    written_blocks: u64,
    unwritten_blocks: u64,
}

impl<'a> Info<'a> {
    fn new(image: &'a Image, sidecar: &'a SidecarFile) -> Result<Self, Error> {
        let header = sidecar.header();
        let profile = sidecar.profile();
        let written_blocks = count_written(sidecar).map_err(Error::io("read", sidecar.path()))?;
        Ok(Self {
            image: image.path().to_string_lossy(),
            format: if image.is_block_device() { "raw, on a block device" } else { "raw" },
            size: image.size(),
            direct_io: image.is_direct(),
            in_use_by: image.holder().map(|holder| holder.to_string()),
            sidecar: sidecar.path().to_string_lossy(),
            sidecar_version: VERSION,
            uuid: Uuid::from_bytes(header.uuid()).to_string(),
            image_has_uuid: image.uuid()?.is_some(),
            state: match header.state() {
                State::Clean => "clean",
                State::Dirty => "dirty",
            },
            guard: profile.guard().name(),
            pi_type: 1,
            tuple_size: profile.tuple_size(),
            interval_size: profile.interval_size(),
            blocks: header.intervals(),
            written_blocks,
            unwritten_blocks: header.intervals() - written_blocks,
        })
    }

    fn state_for_people(&self) -> &'static str {
        match (self.state, &self.in_use_by) {
            ("dirty", Some(_)) => "dirty: open for writing",
            ("dirty", None) => "dirty: the last writer did not close it",
            (state, _) => state,
        }
    }
}

/// Goes by the holes of the array, which say that their tuples are zero.
fn count_written(sidecar: &SidecarFile) -> std::io::Result<u64> {
    let tuple_size = sidecar.profile().tuple_size();
    let end = sidecar.header().intervals();
    let mut buffer = vec![0; TUPLES_PER_READ * tuple_size];
    let (mut written, mut next) = (0, 0);
    while let Some(interval) = sidecar.next_written(next)?.filter(|&interval| interval < end) {
        let count = usize::try_from(end - interval).map_or(TUPLES_PER_READ, |left| left.min(TUPLES_PER_READ));
        let tuples = &mut buffer[..count * tuple_size];
        sidecar.read_tuples(interval, tuples)?;
        written += tuples.chunks_exact(tuple_size).filter(|tuple| !is_unwritten(tuple)).count() as u64;
        next = interval + count as u64;
    }
    Ok(written)
}

impl fmt::Display for Info<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "image      {}", self.image)?;
        writeln!(f, "format     {}", self.format)?;
        writeln!(f, "size       {} ({} bytes)", BinaryBytes(self.size), self.size)?;
        writeln!(f, "I/O        {}", if self.direct_io { "direct" } else { "through the page cache" })?;
        writeln!(f, "in use by  {}", self.in_use_by.as_deref().unwrap_or("nobody"))?;
        writeln!(f, "sidecar    {} (version {})", self.sidecar, self.sidecar_version)?;
        writeln!(
            f,
            "UUID       {}{}",
            self.uuid,
            if self.image_has_uuid { "" } else { ", which the image lacks" }
        )?;
        writeln!(f, "state      {}", self.state_for_people())?;
        writeln!(
            f,
            "profile    PI type {}, {} guard, {}-byte tuple, {}-byte interval",
            self.pi_type, self.guard, self.tuple_size, self.interval_size
        )?;
        writeln!(
            f,
            "blocks     {}: {} written, {} unwritten",
            self.blocks, self.written_blocks, self.unwritten_blocks
        )
    }
}
