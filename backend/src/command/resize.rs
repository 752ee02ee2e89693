//! `stableblk resize`: makes an image larger, and its sidecar with it.
//!
//! One write puts the new size into the sidecar's superblock. Until then the sidecar covers the
//! smaller image. If the run is killed before, the image may have grown already; another run of the
//! command finishes the growth.

use std::process::ExitCode;

use clap::Args;
use indicatif::BinaryBytes;

use super::protect::trust;
use super::{ImageArgs, parse_size, print, refuse_uneven_size};
use crate::storage::error::ImageError;
use crate::storage::image::{Access, DirectIo, Image};
use crate::storage::sidecar_file::{SidecarFile, load_error};

/// Grow an image and its sidecar
///
/// The new part reads as zeros. If the image or the device has grown already, the content of its
/// new part is taken to be right. If a run is cut off, another one finishes it.
#[derive(Debug, Clone, Args)]
pub struct ResizeArgs {
    #[command(flatten)]
    image: ImageArgs,
    /// The new size in bytes, or with a unit of powers of 1024: 512M, 10G, 2T [default: the size of
    /// the image, which has grown already]
    #[arg(long, value_parser = parse_size)]
    size: Option<u64>,
}

/// Recovers the image first if it was not closed. If the new size is refused, nothing else changes.
pub fn run(args: &ResizeArgs) -> Result<ExitCode, ImageError> {
    let mut image = Image::open(&args.image.image, Access::ReadWrite, DirectIo::WherePossible)?;
    let path = args.image.sidecar_path();
    let mut sidecar = SidecarFile::open_for_any_size(&path, &image, Access::ReadWrite)?;
    let covered = sidecar.layout().image_size();
    let size = args.size.unwrap_or(image.size());
    refuse_new_size(&image, &sidecar, size)?;
    sidecar.recover().map_err(load_error("recover", &path))?;
    if size > covered {
        let grown = sidecar.superblock().grown_to(size).map_err(|source| ImageError::CannotGrow {
            image: image.path().to_owned(),
            size,
            source,
        })?;
        let first_new = sidecar.layout().intervals();
        let grown = sidecar.make_room(grown).map_err(ImageError::io("extend", &path))?;
        if size > image.size() {
            image.grow(size).map_err(ImageError::io("extend", &args.image.image))?;
        }
        trust(&image, grown.sidecar(), first_new, "resizing")?;
        grown.commit().map_err(ImageError::io("write", &path))?;
    }
    let (name, size) = (image.path().display(), BinaryBytes(size));
    let done = match BinaryBytes(covered) {
        BinaryBytes(before) if before == size.0 => format!("{name}: {size}, as before\n"),
        before => format!("{name}: grown from {before} to {size}\n"),
    };
    print(&done, false)?;
    Ok(ExitCode::SUCCESS)
}

fn refuse_new_size(image: &Image, sidecar: &SidecarFile, size: u64) -> Result<(), ImageError> {
    let (covered, now) = (sidecar.layout().image_size(), image.size());
    if now < covered {
        // the end of the disk is gone, and zeros in its place would differ from the guest's data
        sidecar.refuse_truncated(image)?;
    }
    if size < now {
        return Err(ImageError::Shrinks { image: image.path().to_owned(), now, size });
    }
    if size > now && image.is_block_device() {
        return Err(ImageError::GrowDeviceFirst { device: image.path().to_owned(), now, size });
    }
    refuse_uneven_size(size, sidecar.profile().interval_size() as u64)
}
