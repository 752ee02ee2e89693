//! `stableblk accept`: a person accepts the blocks that a crash has left in doubt, or an image and
//! a sidecar of two moments.

use std::fmt;
use std::process::ExitCode;

use clap::Args;
use serde::Serialize;

use super::check::{LbaRange, Recovered, RecoveryReport};
use super::repair::{accept_blocks, parse_lbas};
use super::{ImageArgs, print};
use crate::storage::error::ImageError;
use crate::storage::image::{Access, DirectIo, Image};
use crate::storage::sidecar_file::{SidecarFile, load_error};

/// Accept blocks as they are: damaged ones, or those that a crash has left in doubt
///
/// After a crash, blocks whose content matches no known write are adopted: each gets a tuple for
/// its content, marked as adopted. `--adopted` removes the marks. `--lba` gives blocks that do not
/// match a new tuple, for the data present. `--force` also accepts an image
/// and a sidecar that are refused because they are of two moments. Each accepted range of blocks is
/// printed.
#[derive(Debug, Clone, Args)]
#[command(
    after_help = "Exit status: 0 when it is done, 1 when it was not possible, 4 when image and sidecar are of two moments and --force was not given."
)]
#[group(id = "what", required = true, multiple = true, args = ["adopted", "force", "lba"])]
pub struct AcceptArgs {
    #[command(flatten)]
    image: ImageArgs,
    /// Accept the blocks that were adopted after a crash
    #[arg(long)]
    adopted: bool,
    /// Accept an image and a sidecar of two moments as one pair, and adopt the blocks that do not
    /// match
    #[arg(long)]
    force: bool,
    /// Accept the present data of these blocks: one such as 5, or the first and the last of some
    /// such as 5-9
    #[arg(long, value_name = "A-B", value_parser = parse_lbas, value_delimiter = ',')]
    lba: Vec<LbaRange>,
}

/// Accepts what the options name. Of a pair that is refused, it prints first what will be adopted.
pub fn run(args: &AcceptArgs) -> Result<ExitCode, ImageError> {
    let image = Image::open(&args.image.image, Access::ReadWrite, DirectIo::WherePossible)?;
    let path = args.image.sidecar_path();
    let mut sidecar = SidecarFile::open(&path, &image, Access::ReadWrite)?;
    let name = image.path().display().to_string();
    let found = Recovered::dry_run(&sidecar).map_err(load_error("recover", &path))?;
    if let Some(reason) = found.refusal() {
        if !args.force {
            return Err(ImageError::TwoMoments { sidecar: path, reason });
        }
        print(&format!("{name}: image and sidecar are of two moments: {reason}\n"), false)?;
        if let Some((recovery, _)) = found.outcome() {
            print(&format!("{name}: {}", RecoveryReport::new(recovery, false)), false)?;
            let mut doubtful = BlockList::new(&name, "match nothing and are adopted");
            recovery.adoptions.iter().for_each(|adoption| doubtful.add(adoption.lba));
            doubtful.count = recovery.adopted_blocks;
            print(&doubtful, false)?;
        } else {
            let closed = "the sidecar was closed, so nothing is adopted: reads of blocks that do not match fail, and `stableblk \
                check` lists them";
            print(&format!("{name}: {closed}\n"), false)?;
        }
        sidecar.accept_image().map_err(load_error("recover", &path))?;
    } else {
        sidecar.recover().map_err(load_error("recover", &path))?;
    }
    if args.adopted {
        let mut accepted = BlockList::new(&name, "were adopted, and are accepted as they are");
        sidecar.accept_adopted(|lba| accepted.add(lba)).map_err(ImageError::io("write", &path))?;
        print(&accepted, false)?;
    }
    if !args.lba.is_empty() {
        let accepted = accept_blocks(&sidecar, &name, &args.lba)?;
        print(&accepted.to_string(), false)?;
        if !accepted.is_complete() {
            return Ok(ExitCode::FAILURE);
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Ranges of blocks, and what becomes of them.
#[derive(Debug, Serialize)]
struct BlockList<'a> {
    image: &'a str,
    ranges: Vec<LbaRange>,
    count: u64,
    what: &'static str,
}

impl<'a> BlockList<'a> {
    fn new(image: &'a str, what: &'static str) -> Self {
        Self { image, ranges: Vec::new(), count: 0, what }
    }

    fn add(&mut self, lba: u64) {
        self.count += 1;
        LbaRange::add(&mut self.ranges, lba);
    }
}

impl fmt::Display for BlockList<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for range in &self.ranges {
            writeln!(f, "{range}")?;
        }
        let listed: u64 = self.ranges.iter().map(|range| range.blocks()).sum();
        if listed < self.count {
            writeln!(f, "... and {} more blocks", self.count - listed)?;
        }
        writeln!(f, "{}: {} blocks {}", self.image, self.count, self.what)
    }
}
