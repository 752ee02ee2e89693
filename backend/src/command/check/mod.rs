//! `stableblk check`: compares every block with its tuple.

mod compare;
mod findings;
mod map;
mod recovered;
mod report;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args;

pub(super) use self::compare::{compare, compare_and_take};
pub(super) use self::findings::{BadRange, Findings, LbaRange};
use self::map::DiskMap;
pub(super) use self::recovered::Recovered;
pub(super) use self::report::RecoveryReport;
use self::report::Report;
pub(super) use self::report::write_range;
use super::{ImageArgs, print};
use crate::storage::error::{EXIT_TWO_MOMENTS, ImageError};
use crate::storage::image::{Access, DirectIo, Image};
use crate::storage::sidecar_file::{SidecarFile, load_error};

/// Verify every block of an image against its tuple
///
/// An image whose writer was cut off is checked as recovery would leave it. An LBA counts intervals
/// of the image, which have 4096 bytes unless the sidecar was made with `--interval 512`.
#[derive(Debug, Clone, Args)]
#[command(
    after_help = "Exit status: 0 when every block matches, 1 when some do not or cannot be read, 2 when the check was not possible, 3 when every block matches and some were adopted after a crash and not accepted yet (`stableblk accept --adopted`), 4 when image and sidecar are of two moments, which serving refuses (`stableblk accept --force`), 5 when every block matches but writes may be missing because a sync of the image failed when it was served."
)]
pub struct CheckArgs {
    #[command(flatten)]
    image: ImageArgs,
    /// Recover an image whose writer was cut off, as serving it would, before the check
    #[arg(long)]
    recover: bool,
    /// Print the result as JSON
    #[arg(long)]
    json: bool,
    /// Also draw a map of the disk as a picture (SVG): written, adopted and damaged parts
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
}

/// The exit status when some blocks do not match, or cannot be read.
const EXIT_MISMATCH: u8 = 1;
/// The exit status when all blocks match, and some were adopted after a crash.
const EXIT_ADOPTED: u8 = 3;
/// The exit status when all blocks match, but writes may be missing.
const EXIT_DURABILITY_LOST: u8 = 5;

/// Prints the blocks that do not match, and those that were adopted. An error means that the check
/// was not possible.
pub fn run(args: &CheckArgs) -> Result<ExitCode, ImageError> {
    let access = if args.recover { Access::ReadWrite } else { Access::Read };
    let image = Image::open(&args.image.image, access, DirectIo::WherePossible)?;
    let mut sidecar = SidecarFile::open(&args.image.sidecar_path(), &image, access)?;
    let path = sidecar.path().to_owned();
    let recovered = if args.recover { Recovered::now(&mut sidecar) } else { Recovered::dry_run(&sidecar) }
        .map_err(load_error("recover", &path))?;
    let findings = compare(&image, &sidecar, &recovered, "checking")?;
    if let Some(file) = &args.svg {
        draw(file, &sidecar, &findings, &image.path().to_string_lossy())?;
    }
    let (all_match, adopted_blocks) = (findings.all_match(), findings.adopted_blocks);
    let report = Report::new(&image, &sidecar, &recovered, findings);
    print(&report, args.json)?;
    Ok(ExitCode::from(match recovered.refusal() {
        Some(_) => EXIT_TWO_MOMENTS,
        None if !all_match => EXIT_MISMATCH,
        None if report.durability_lost() => EXIT_DURABILITY_LOST,
        None if adopted_blocks > 0 => EXIT_ADOPTED,
        None => 0,
    }))
}

/// Writes the map of the findings to `file`.
fn draw(file: &Path, sidecar: &SidecarFile, findings: &Findings, image: &str) -> Result<(), ImageError> {
    let map = DiskMap::new(sidecar, findings).map_err(ImageError::io("read", sidecar.path()))?;
    fs::write(file, map.to_svg(image)).map_err(ImageError::io("write", file))
}
