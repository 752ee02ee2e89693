//! `stableblk restore`: takes damaged blocks from a backup, if they are what their tuples say.

use std::fmt;
use std::fs::File;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args;
use integrity::sidecar::{DamagedRange, verify};

use super::lbas::intervals;
use super::{Blocks, parse_lbas, refuse_outside};
use crate::command::check::LbaRange;
use crate::command::{ImageArgs, print};
use crate::storage::error::ImageError;
use crate::storage::image::{Access, DirectIo, Image, read_at_least};
use crate::storage::sidecar_file::{SidecarFile, load_error};

/// Restore damaged blocks from a backup
///
/// A block that does not match its tuple is taken from the backup, which is a raw image, if the
/// block there has the guard that the tuple says. So an older backup restores all blocks that have
/// not been written since, and no other.
#[derive(Debug, Clone, Args)]
#[command(
    after_help = "Exit status: 0 when every block matches now, 1 when some do not or it was not possible, 4 when image and sidecar are of two moments."
)]
pub struct RestoreArgs {
    #[command(flatten)]
    image: ImageArgs,
    /// The backup: a raw image, or a block device with one
    #[arg(long, value_name = "BACKUP")]
    from: PathBuf,
    /// The blocks: one such as 5, or the first and the last of some such as 5-9 [default: those in
    /// the damage list]
    #[arg(long, value_name = "A-B", value_parser = parse_lbas, value_delimiter = ',')]
    lba: Vec<LbaRange>,
}

/// The exit status when blocks remain that do not match.
const EXIT_LEFT: u8 = 1;

/// Restores what can be restored, and prints what became of each block.
pub fn run(args: &RestoreArgs) -> Result<ExitCode, ImageError> {
    // through the page cache: single blocks are written
    let image = Image::open(&args.image.image, Access::ReadWrite, DirectIo::Never)?;
    let path = args.image.sidecar_path();
    let mut sidecar = SidecarFile::open(&path, &image, Access::ReadWrite)?;
    let backup = open_backup(&args.from, &image)?;
    let name = image.path().display().to_string();
    refuse_outside(&sidecar, &name, &args.lba)?;
    sidecar.recover().map_err(load_error("recover", &path))?;
    let ranges = if args.lba.is_empty() { listed(&sidecar) } else { args.lba.clone() };
    let mut outcome = Restored { image: name, ..Restored::default() };
    for range in &ranges {
        restore(&image, &sidecar, &backup, *range, &mut outcome)?;
    }
    image.file().sync_all().map_err(ImageError::io("write", image.path()))?;
    let good = outcome.taken.intervals().chain(outcome.matching.intervals());
    sidecar.clear_damage(good).map_err(ImageError::io("write", &path))?;
    if outcome.taken.count > 0 {
        // the image was changed after the sidecar was closed: the two are closed again
        sidecar.close_again().map_err(load_error("close", &path))?;
    }
    sidecar.sync().map_err(ImageError::io("write", &path))?;
    print(&outcome.to_string(), false)?;
    Ok(if outcome.left.count == 0 { ExitCode::SUCCESS } else { ExitCode::from(EXIT_LEFT) })
}

/// The blocks in the damage list.
fn listed(sidecar: &SidecarFile) -> Vec<LbaRange> {
    let damage = sidecar.damage();
    let lbas = damage.list.ranges().map(DamagedRange::lbas);
    lbas.map(|lbas| LbaRange { first_lba: lbas.start, last_lba: lbas.end - 1 }).collect()
}

fn open_backup(path: &Path, image: &Image) -> Result<File, ImageError> {
    let file = File::open(path).map_err(ImageError::io("open", path))?;
    let metadata = file.metadata().map_err(ImageError::io("look at", path))?;
    let own = image.file().metadata().map_err(ImageError::io("look at", image.path()))?;
    if (metadata.dev(), metadata.ino()) == (own.dev(), own.ino()) {
        return Err(ImageError::OwnBackup(path.to_owned()));
    }
    Ok(file)
}

/// Restores the blocks of one range.
fn restore(
    image: &Image,
    sidecar: &SidecarFile,
    backup: &File,
    range: LbaRange,
    outcome: &mut Restored,
) -> Result<(), ImageError> {
    let profile = sidecar.profile();
    let interval_size = profile.interval_size();
    let mut data = vec![0; interval_size];
    let visited = sidecar.visit_blocks(&intervals(range), |lba, present, tuple| {
        if present.is_ok_and(|present| verify(profile, lba, present, tuple).is_ok()) {
            outcome.matching.add(lba);
            return Ok(());
        }
        let offset = lba * interval_size as u64;
        let is_there = read_at_least(backup, offset, interval_size, &mut data).is_ok();
        if is_there && verify(profile, lba, &data, tuple).is_ok() {
            image.file().write_all_at(&data, offset)?;
            outcome.taken.add(lba);
        } else {
            outcome.left.add(lba);
        }
        Ok(())
    });
    visited.map_err(ImageError::io("restore blocks of", image.path()))
}

/// The blocks by what became of them.
#[derive(Debug, Default)]
struct Restored {
    image: String,
    taken: Blocks,
    matching: Blocks,
    left: Blocks,
}

impl fmt::Display for Restored {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.taken.write("restored from the backup", f)?;
        self.left.write("left as it is: the backup has other data than its tuple says", f)?;
        let Self { image, taken, matching, left } = self;
        let (restored, matching, left) = (taken.count, matching.count, left.count);
        write!(f, "{image}: {restored} blocks restored, {matching} matched before, {left} left")?;
        if left > 0 {
            write!(f, "; accept those with `stableblk accept --lba`, or have the guest write them")?;
        }
        writeln!(f)
    }
}
