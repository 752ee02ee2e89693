//! `stableblk protect`: makes a sidecar for an image that exists, or tuples in the metadata of a
//! device that has room for them.

mod accepted;
mod old_sidecar;
mod take_over;
mod trust;

use std::process::ExitCode;
use std::sync::Arc;

use clap::Args;
use thiserror::Error;
use uuid::Uuid;

use self::accepted::Accepted;
use self::old_sidecar::OldSidecar;
pub use self::take_over::TakeOverError;
pub(super) use self::take_over::refuse_other_data;
use self::take_over::take_over;
pub(super) use self::trust::trust;
use super::choose_device::{DeviceError, DeviceKind, Integrity};
use super::unfinished::{Existing, UnfinishedFile, give_to_owner_of};
use super::{ImageArgs, ProfileArgs, new_superblock, print, warn_of_missing_uuid};
use crate::device::{KernelPiDevice, Namespace, NamespaceError, NvmePassthroughDevice};
use crate::storage::error::ImageError;
use crate::storage::image::{Access, DirectIo, Image};
use crate::storage::sidecar_file::SidecarFile;
use crate::storage::trace::Trace;

/// Make the sidecar of an existing raw image
///
/// A device with metadata but without protection information, named without --integrity, keeps the
/// tuples in its metadata: blocks that have data and no tuple get one. --guard and --interval then
/// follow from the format of the device.
#[derive(Debug, Clone, Args)]
pub struct ProtectArgs {
    #[command(flatten)]
    image: ImageArgs,
    #[command(flatten)]
    profile: ProfileArgs,
    /// Replace the sidecar or the tuples that the image has or had: its present content is taken to
    /// be right. Blocks that do not match the old sidecar are reported. Also accepts an image that
    /// looks like another format
    #[arg(long)]
    force: bool,
}

/// Why an image was not protected.
#[derive(Debug, Error)]
pub enum ProtectError {
    /// The image cannot be used, or its sidecar cannot be made.
    #[error(transparent)]
    Image(#[from] ImageError),
    /// The metadata of the device cannot be used.
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// The namespace cannot be used.
    #[error(transparent)]
    Namespace(#[from] NamespaceError),
    /// The device could not be given tuples.
    #[error(transparent)]
    TakeOver(#[from] TakeOverError),
}

/// Protects the present content of the image, which is locked meanwhile.
pub fn run(args: &ProtectArgs) -> Result<ExitCode, ProtectError> {
    let path = &args.image.image;
    let integrity = args.image.sidecar.clone().map_or(Integrity::Auto, Integrity::Path);
    let open = || Image::open(path, Access::ReadWrite, DirectIo::WherePossible).map_err(ProtectError::from);
    let taken = match DeviceKind::choose(path, &integrity, open)? {
        DeviceKind::NvmePassthrough => {
            let namespace = Namespace::open(path, Access::ReadWrite)?;
            take_over(&Arc::new(NvmePassthroughDevice::new(namespace)), path, args.force)?
        }
        DeviceKind::KernelPi { image, integrity } => {
            let device = KernelPiDevice::new(image, &integrity)
                .map_err(|reason| DeviceError::Access { path: path.clone(), reason })?;
            take_over(&Arc::new(device), path, args.force)?
        }
        DeviceKind::Plain { image, .. } | DeviceKind::Sidecar { image, .. } => {
            if args.image.sidecar.is_none() && image.is_block_device() {
                return Err(ImageError::NoPlaceForSidecar(path.clone()).into());
            }
            return Ok(make_sidecar(args, &image)?);
        }
    };
    print(&taken.report(path), false)?;
    Ok(ExitCode::SUCCESS)
}

/// Makes the sidecar, and gives it its name when it is complete. Blocks of zeros become unwritten.
fn make_sidecar(args: &ProtectArgs, image: &Image) -> Result<ExitCode, ImageError> {
    let old = OldSidecar::at(&args.image.sidecar_path(), image)?;
    if !args.force {
        refuse_without_force(args, image, old.as_ref())?;
    }
    // the target of a symbolic link, because the file is replaced, not the link
    let path = old.as_ref().map_or_else(|| Ok(args.image.sidecar_path()), OldSidecar::real_path)?;
    let profile = args.profile.profile();
    let (size, interval_size) = (image.size(), profile.interval_size());
    if size == 0 || !size.is_multiple_of(interval_size as u64) {
        return Err(ImageError::UnevenSize { image: args.image.image.clone(), size, interval_size });
    }
    if args.force {
        let old = old.as_ref().map(OldSidecar::path);
        if let Some(accepted) = Accepted::find(image, &path, old)? {
            print(&accepted, false)?;
        }
    }
    let superblock = new_superblock(image.path(), size, profile)?;
    let uuid = Uuid::from_bytes(superblock.uuid());

    let unfinished = UnfinishedFile::new(&path).map_err(ImageError::io("create", &path))?;
    let file = unfinished.file().try_clone().map_err(ImageError::io("create", &path))?;
    if !image.is_block_device() {
        give_to_owner_of(image.file(), &file).map_err(ImageError::io("change the mode of", &path))?;
    }
    let image_file = image.file().try_clone().map_err(ImageError::io("open", image.path()))?;
    trust(image, &SidecarFile::create(file, &path, image_file, &superblock)?, 0, "protecting")?;

    // if this fails, a crash before the image has its UUID only makes another run necessary
    let _ = image.announce_uuid(uuid);
    match &old {
        // the lock of the old sidecar is held until the new one has its place
        Some(old) => old.still_there().and_then(|()| unfinished.publish(Existing::Replace)),
        None => unfinished.publish(Existing::Keep),
    }
    .map_err(ImageError::io("create", &path))?;
    // last, because until here the image may still need the old sidecar
    if let Err(error) = image.set_uuid(uuid) {
        warn_of_missing_uuid(image.path(), &error);
    }
    let done = format!("{}: protected by {}\n", image.path().display(), path.display());
    print(&done, false)?;
    Ok(ExitCode::SUCCESS)
}

/// Refuses an image that is protected, that was protected before, or that is not raw.
fn refuse_without_force(
    args: &ProtectArgs,
    image: &Image,
    old: Option<&OldSidecar>,
) -> Result<(), ImageError> {
    if let Some(old) = old {
        return Err(ImageError::Exists { path: old.path().to_owned(), cure: SIDECAR_EXISTS });
    }
    let image_path = || args.image.image.clone();
    if let Some(trace) = Trace::of(image, &args.image.sidecar_path())? {
        return Err(ImageError::WasProtected { image: image_path(), trace: Box::new(trace) });
    }
    match image.foreign_format()? {
        Some(format) => Err(ImageError::ForeignFormat { image: image_path(), format }),
        None => Ok(()),
    }
}

const SIDECAR_EXISTS: &str = "the image is protected; to trust what it holds now, replace it with `--force`";
