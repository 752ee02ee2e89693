//! `stableblk info`: shows what an image and its sidecar are. It takes no lock, so the image may be
//! in use.

mod device_report;
mod image_info;

use std::borrow::Cow;
use std::fmt;
use std::process::ExitCode;

use clap::Args;
use integrity::sidecar::{IntentMode, State, VERSION, is_adopted, is_lost, is_unwritten};
use serde::Serialize;
use thiserror::Error;
use uuid::Uuid;

use self::device_report::DeviceReport;
pub(super) use self::image_info::DURABILITY_LOST;
use self::image_info::ImageInfo;
use super::{ImageArgs, print};
use crate::control::damage::DamageReport;
use crate::device::{Namespace, NamespaceError};
use crate::storage::error::ImageError;
use crate::storage::image::{Access, DirectIo, Image};
use crate::storage::sidecar_file::SidecarFile;

/// Show what an image and its sidecar are
#[derive(Debug, Clone, Args)]
pub struct InfoArgs {
    #[command(flatten)]
    image: ImageArgs,
    /// Print the result as JSON
    #[arg(long)]
    json: bool,
}

/// Why there is no result.
#[derive(Debug, Error)]
pub enum InfoError {
    /// The image or its sidecar cannot be used.
    #[error(transparent)]
    Image(#[from] ImageError),
    /// The namespace cannot be used.
    #[error(transparent)]
    Namespace(#[from] NamespaceError),
}

/// Prints the result. The counts of an image in use may be out of date.
pub fn run(args: &InfoArgs) -> Result<ExitCode, InfoError> {
    if Namespace::is_at(&args.image.image) {
        print(&DeviceReport::of_namespace(&args.image.image)?, args.json)?;
        return Ok(ExitCode::SUCCESS);
    }
    let image = Image::open(&args.image.image, Access::Inspect, DirectIo::WherePossible)?;
    if image.is_block_device() && args.image.sidecar.is_none() {
        print(&DeviceReport::of_block_device(&image, &args.image.image), args.json)?;
        return Ok(ExitCode::SUCCESS);
    }
    let sidecar = SidecarFile::open(&args.image.sidecar_path(), &image, Access::Inspect)?;
    let info = Info::new(&image, &sidecar)?;
    print(&info, args.json)?;
    Ok(ExitCode::SUCCESS)
}

/// The properties of an image and its sidecar. Sizes are in bytes, blocks in intervals.
#[derive(Debug, Serialize)]
struct Info<'a> {
    #[serde(flatten)]
    image: ImageInfo,
    sidecar: Cow<'a, str>,
    sidecar_version: u32,
    uuid: String,
    /// Whether the image has the same UUID; if not, it has none.
    image_has_uuid: bool,
    state: &'static str,
    /// The intent of writes while the sidecar is open, or was open when it was cut off.
    #[serde(skip_serializing_if = "Option::is_none")]
    intent: Option<&'static str>,
    /// The copy of the superblock that is damaged, and the damage.
    #[serde(skip_serializing_if = "Option::is_none")]
    damaged_superblock: Option<DamagedSuperblock>,
    #[serde(flatten)]
    profile: Profile,
    log: Log,
    blocks: u64,
    #[serde(flatten)]
    tuples: Tuples,
    damage: DamageReport,
}

/// The format of the tuples. Sizes are in bytes.
#[derive(Debug, Serialize)]
struct Profile {
    guard: &'static str,
    pi_type: u8,
    tuple_size: usize,
    interval_size: usize,
}

#[derive(Debug, Serialize)]
struct DamagedSuperblock {
    copy: usize,
    reason: String,
}

/// The tag intent log.
#[derive(Debug, Serialize)]
struct Log {
    pages: u64,
    /// The sequence number of the first valid page.
    tail: u64,
    epoch: u64,
    superblock_generation: u64,
}

/// The contents of the tuple array, in blocks.
#[derive(Debug, Default, Serialize)]
#[expect(clippy::struct_field_names, reason = "the names in the JSON, where they stand beside others")]
struct Tuples {
    written_blocks: u64,
    unwritten_blocks: u64,
    /// Blocks that a crash has left in doubt, and that were adopted.
    adopted_blocks: u64,
    /// Blocks whose tuples were lost with damaged sectors of the sidecar.
    lost_blocks: u64,
}

impl<'a> Info<'a> {
    fn new(image: &'a Image, sidecar: &'a SidecarFile) -> Result<Self, ImageError> {
        let (superblock, layout, profile) = (sidecar.superblock(), sidecar.layout(), sidecar.profile());
        let (state, intent) = match superblock.state() {
            State::Clean => ("clean", None),
            State::Open(IntentMode::Region) => ("dirty", Some("region")),
            State::Open(IntentMode::Block) => ("dirty", Some("block")),
        };
        let damaged = sidecar.loaded().damaged.as_ref();
        let mut image_info = ImageInfo::new(image, image.path());
        image_info.durability_lost |= superblock.durability_lost();
        Ok(Self {
            image: image_info,
            sidecar: sidecar.path().to_string_lossy(),
            sidecar_version: VERSION,
            uuid: Uuid::from_bytes(superblock.uuid()).to_string(),
            image_has_uuid: !image.uuids()?.is_empty(),
            state,
            intent,
            damaged_superblock: damaged
                .map(|(copy, reason)| DamagedSuperblock { copy: *copy, reason: reason.to_string() }),
            profile: Profile {
                guard: profile.guard().name(),
                pi_type: 1,
                tuple_size: profile.tuple_size(),
                interval_size: profile.interval_size(),
            },
            log: Log {
                pages: layout.log_pages(),
                tail: superblock.tail(),
                epoch: superblock.epoch(),
                superblock_generation: superblock.generation(),
            },
            blocks: layout.intervals(),
            tuples: Tuples::count(sidecar).map_err(ImageError::io("read", sidecar.path()))?,
            damage: DamageReport::new(&sidecar.damage().list, profile.interval_size()),
        })
    }

    fn state_for_people(&self) -> &'static str {
        match (self.state, &self.image.in_use_by) {
            ("dirty", Some(_)) => "dirty: open for writing",
            ("dirty", None) => "dirty: the last writer did not close it; it is recovered when it is served",
            (state, _) => state,
        }
    }
}

impl Tuples {
    /// Counts the tuples. Holes of the array are skipped, because their tuples are zero.
    fn count(sidecar: &SidecarFile) -> std::io::Result<Self> {
        let (layout, profile) = (sidecar.layout(), sidecar.profile());
        let mut counts = Self::default();
        let mut next = 0;
        while let Some(interval) = sidecar.next_written(next)?.filter(|&it| it < layout.intervals()) {
            let page = sidecar.read_page(layout.page_of(interval))?;
            let intervals = layout.intervals_of(page.page);
            next = intervals.end;
            let written = page.tuples[page.range(layout, &intervals)].chunks_exact(profile.tuple_size());
            for tuple in written.filter(|tuple| !is_unwritten(tuple)) {
                counts.written_blocks += 1;
                counts.adopted_blocks += u64::from(is_adopted(profile, tuple));
                counts.lost_blocks += u64::from(is_lost(profile, tuple));
            }
        }
        counts.unwritten_blocks = layout.intervals() - counts.written_blocks;
        Ok(counts)
    }
}

impl fmt::Display for Info<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.image)?;
        writeln!(f, "sidecar    {} (version {})", self.sidecar, self.sidecar_version)?;
        let has_uuid = if self.image_has_uuid { "" } else { ", which the image lacks" };
        writeln!(f, "UUID       {}{has_uuid}", self.uuid)?;
        writeln!(f, "state      {}", self.state_for_people())?;
        if let Some(DamagedSuperblock { copy, reason }) = &self.damaged_superblock {
            writeln!(f, "damaged    superblock {copy}: {reason}")?;
        }
        let Profile { guard, pi_type, tuple_size, interval_size } = self.profile;
        writeln!(
            f,
            "profile    PI type {pi_type}, {guard} guard, {tuple_size}-byte tuple, {interval_size}-byte interval"
        )?;
        let Log { pages, tail, epoch, superblock_generation } = self.log;
        let intent = self.intent.map(|intent| format!(", intents by {intent}")).unwrap_or_default();
        writeln!(
            f,
            "log        {pages} pages, tail {tail}, epoch {epoch}{intent}; superblock generation {superblock_generation}"
        )?;
        let Tuples { written_blocks, unwritten_blocks, adopted_blocks, lost_blocks } = self.tuples;
        write!(f, "blocks     {}: {written_blocks} written, {unwritten_blocks} unwritten", self.blocks)?;
        if adopted_blocks > 0 {
            write!(f, ", {adopted_blocks} of them adopted after a crash")?;
        }
        if lost_blocks > 0 {
            write!(f, ", {lost_blocks} with their tuples lost")?;
        }
        writeln!(f)?;
        if self.damage.is_empty() { Ok(()) } else { write!(f, "damage\n{}", self.damage) }
    }
}
