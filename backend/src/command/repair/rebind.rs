//! `stableblk rebind`: gives an image the UUID of its sidecar, after it was copied without its
//! extended attributes.

use std::process::ExitCode;

use clap::Args;
use uuid::Uuid;

use crate::command::check::{Recovered, compare, write_range};
use crate::command::{ImageArgs, print};
use crate::storage::error::ImageError;
use crate::storage::image::{Access, DirectIo, Image};
use crate::storage::sidecar_file::{SidecarFile, load_error};

/// Give an image that has lost its UUID that of its sidecar
///
/// Copies without `--preserve=xattr` lose the extended attribute by which an image and its sidecar
/// know each other. Every block is verified first: the image gets the UUID only if all of them
/// match.
#[derive(Debug, Clone, Args)]
#[command(
    after_help = "Exit status: 0 when the image has the UUID, 1 when blocks do not match or it was not possible, 4 when image and sidecar are of two moments."
)]
pub struct RebindArgs {
    #[command(flatten)]
    image: ImageArgs,
}

/// The exit status when blocks do not match.
const EXIT_MISMATCH: u8 = 1;

/// Verifies every block, and sets the UUID.
pub fn run(args: &RebindArgs) -> Result<ExitCode, ImageError> {
    let image = Image::open(&args.image.image, Access::ReadWrite, DirectIo::WherePossible)?;
    let path = args.image.sidecar_path();
    let name = image.path().display();
    let mut sidecar = SidecarFile::open(&path, &image, Access::ReadWrite)?;
    let uuid = Uuid::from_bytes(sidecar.superblock().uuid());
    if !image.uuids()?.is_empty() {
        print(&format!("{name}: has the UUID {uuid} of its sidecar already\n"), false)?;
        return Ok(ExitCode::SUCCESS);
    }
    let found = Recovered::dry_run(&sidecar).map_err(load_error("recover", &path))?;
    if let Some(reason) = found.refusal() {
        return Err(ImageError::TwoMoments { sidecar: path, reason });
    }
    // a recovery would make such blocks match, whatever image this is
    let adopted = found.outcome().map_or(0, |(recovery, _)| recovery.adopted_blocks);
    let findings = compare(&image, &sidecar, &found, "verifying")?.sorted();
    if !findings.all_match() || adopted > 0 {
        let (bad, unreadable) = (findings.mismatched_blocks, findings.unreadable_blocks);
        let ranges = Ranges { findings: &findings.bad, interval_size: sidecar.profile().interval_size() };
        let refused = format!(
            "{ranges}{name}: not given the UUID: {bad} blocks do not match {}, {unreadable} cannot be read, and \
             {adopted} would be adopted; find the sidecar of this image, or restore those blocks\n",
            path.display()
        );
        print(&refused, false)?;
        return Ok(ExitCode::from(EXIT_MISMATCH));
    }
    sidecar.recover().map_err(load_error("recover", &path))?;
    image.set_uuid(uuid).map_err(ImageError::io("set the UUID of", image.path()))?;
    image.file().sync_all().map_err(ImageError::io("write", image.path()))?;
    let blocks = sidecar.layout().intervals();
    print(
        &format!("{name}: all {blocks} blocks match, and it has the UUID {uuid} of {} now\n", path.display()),
        false,
    )?;
    Ok(ExitCode::SUCCESS)
}

/// The blocks that do not match, one line for each range.
struct Ranges<'a> {
    findings: &'a [crate::command::check::BadRange],
    interval_size: usize,
}

impl std::fmt::Display for Ranges<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.findings.iter().try_for_each(|range| write_range(range, self.interval_size, f))
    }
}
