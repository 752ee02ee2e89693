//! `stableblk copy`: copies an image with its sidecar, and verifies each block on the way.

mod copying;
mod report;
mod target;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args;

pub(super) use self::report::CopyReport;
use self::target::Target;
use super::check::Recovered;
use super::{ImageArgs, print};
use crate::storage::error::ImageError;
use crate::storage::image::{Access, DirectIo, Image};
use crate::storage::sidecar_file::{SidecarFile, load_error};

/// Copy a protected image and its sidecar, and verify each block
///
/// The copy has a UUID of its own. It shares the blocks of the image where the file system can do
/// that (a reflink), and has holes where the image has holes or zeros. Damaged blocks are copied as
/// they are, with their tuples: reads of the copy fail as those of the image do. An image whose
/// writer was cut off is copied as recovery would leave it.
#[derive(Debug, Clone, Args)]
#[command(
    after_help = "Exit status: 0 when every block matches, 1 when the copy was made and some blocks of it do not match or could not be read, 2 when no copy was made."
)]
pub struct CopyArgs {
    #[command(flatten)]
    image: ImageArgs,
    /// The file to make; its sidecar is COPY.pi
    #[arg(value_name = "COPY")]
    copy: PathBuf,
    /// Print the result as JSON
    #[arg(long)]
    json: bool,
}

/// Makes the copy: both files, or neither.
pub fn run(args: &CopyArgs) -> Result<ExitCode, ImageError> {
    let report = copy(&args.image.image, &args.image.sidecar_path(), &args.copy)?;
    print(&report, args.json)?;
    Ok(report.exit_code())
}

/// Copies the image at `image` with its sidecar.
pub(super) fn copy(image: &Path, sidecar: &Path, to: &Path) -> Result<CopyReport, ImageError> {
    let image = Image::open(image, Access::Read, DirectIo::WherePossible)?;
    let sidecar = SidecarFile::open(sidecar, &image, Access::Read)?;
    let path = sidecar.path();
    let recovered = Recovered::dry_run(&sidecar).map_err(load_error("recover", path))?;
    if let Some(reason) = recovered.refusal() {
        return Err(load_error("copy", path)(reason.into()));
    }
    let target = Target::make(to, &image, sidecar.layout())?;
    let findings = copying::copy(&image, &sidecar, &recovered, &target)?;
    let shares_blocks = target.shares_blocks();
    target.publish()?;
    Ok(CopyReport::new(to, sidecar.profile(), shares_blocks, findings))
}
