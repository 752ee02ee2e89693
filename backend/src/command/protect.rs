//! `stableblk protect`: a sidecar for an image that exists.

use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::process::ExitCode;

use clap::Args;
use rustix::fs::{Gid, Mode, Uid};
use uuid::Uuid;

use super::trust::trust;
use super::unfinished::{Existing, UnfinishedFile};
use super::{ImageArgs, ProfileArgs, new_superblock, print, warn_of_missing_uuid};
use crate::error::Error;
use crate::image::{Access, DirectIo, Image};
use crate::sidecar_file::SidecarFile;

/// Make the sidecar of an existing raw image
#[derive(Debug, Clone, Args)]
pub struct ProtectArgs {
    #[command(flatten)]
    image: ImageArgs,
    #[command(flatten)]
    profile: ProfileArgs,
    /// Replace a sidecar that is there: what the image now holds is taken to be right
    #[arg(long)]
    force: bool,
}

/// Makes the sidecar whole before anyone can see it. Blocks of zeros become unwritten. The image is locked meanwhile.
pub fn run(args: &ProtectArgs) -> Result<ExitCode, Error> {
    let path = args.image.sidecar_path();
    let image = Image::open(&args.image.image, Access::ReadWrite, DirectIo::WherePossible)?;
    if image.is_block_device() && args.image.sidecar.is_none() {
        return Err(Error::NoPlaceForSidecar(args.image.image.clone()));
    }
    if !args.force && path.symlink_metadata().is_ok() {
        return Err(Error::Exists { path, cure: SIDECAR_EXISTS });
    }
    let profile = args.profile.profile();
    let (size, interval_size) = (image.size(), profile.interval_size());
    if size == 0 || !size.is_multiple_of(interval_size as u64) {
        return Err(Error::UnevenSize { image: args.image.image.clone(), size, interval_size });
    }
    let superblock = new_superblock(image.path(), size, profile)?;
    let uuid = Uuid::from_bytes(superblock.uuid());

    let unfinished = UnfinishedFile::new(&path).map_err(Error::io("create", &path))?;
    let file = unfinished.file().try_clone().map_err(Error::io("create", &path))?;
    if !image.is_block_device() {
        give_to_owner_of(image.file(), &file).map_err(Error::io("change the mode of", &path))?;
    }
    let image_file = image.file().try_clone().map_err(Error::io("open", image.path()))?;
    trust(&image, &SidecarFile::create(file, &path, image_file, &superblock)?, 0, "protecting")?;

    // where this fails, a crash before the image has its UUID makes another run necessary, and no more
    let _ = image.announce_uuid(uuid);
    let existing = if args.force { Existing::Replace } else { Existing::Keep };
    unfinished.publish(existing).map_err(Error::io("create", &path))?;
    // not before: the image must not part from a sidecar that could still be needed
    if let Err(error) = image.set_uuid(uuid) {
        warn_of_missing_uuid(image.path(), &error);
    }
    let done = format!("{}: protected by {}\n", image.path().display(), path.display());
    print(&done, false)?;
    Ok(ExitCode::SUCCESS)
}

const SIDECAR_EXISTS: &str = "the image is protected; to trust what it holds now, replace it with `--force`";

/// Whoever may use the image is to be able to use the sidecar, also when root makes it for them.
fn give_to_owner_of(image: &File, sidecar: &File) -> std::io::Result<()> {
    let metadata = image.metadata()?;
    rustix::fs::fchmod(sidecar, Mode::from_raw_mode(metadata.mode() & 0o666))?;
    // only root may give files away; the others keep what is theirs
    let _ =
        rustix::fs::fchown(sidecar, Some(Uid::from_raw(metadata.uid())), Some(Gid::from_raw(metadata.gid())));
    Ok(())
}
