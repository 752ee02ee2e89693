//! `stableblk create`: makes a sparse image and its sidecar, with all blocks unwritten.

use std::fs;
use std::io;
use std::path::Path;
use std::process::ExitCode;

use clap::Args;
use indicatif::BinaryBytes;
use integrity::sidecar::Superblock;
use uuid::Uuid;

use super::unfinished::{Existing, UnfinishedFile};
use super::{
    ImageArgs, ProfileArgs, new_superblock, parse_size, print, refuse_uneven_size, warn_of_missing_uuid,
};
use crate::storage::error::ImageError;
use crate::storage::group::group_id;
use crate::storage::image;
use crate::storage::sidecar_file::SidecarFile;

/// Make a sparse raw image and its sidecar
#[derive(Debug, Clone, Args)]
pub struct CreateArgs {
    #[command(flatten)]
    image: ImageArgs,
    /// Size of the disk in bytes, or with a unit of powers of 1024: 512M, 10G, 2T
    #[arg(long, value_parser = parse_size)]
    size: u64,
    #[command(flatten)]
    profile: ProfileArgs,
    /// Group that may read both files, by name or number; without it, only their owner may
    #[arg(long, value_name = "GROUP")]
    socket_group: Option<String>,
}

/// Makes both files, or neither. Fails when one of them exists already.
pub fn run(args: &CreateArgs) -> Result<ExitCode, ImageError> {
    let (image_path, sidecar_path) = (&args.image.image, args.image.sidecar_path());
    let profile = args.profile.profile();
    refuse_uneven_size(args.size, profile.interval_size() as u64)?;
    let group = args.socket_group.as_deref().map(find_group).transpose()?;
    let superblock = new_superblock(image_path, args.size, profile)?;
    refuse_existing(image_path, IMAGE_EXISTS)?;
    refuse_existing(&sidecar_path, SIDECAR_EXISTS)?;

    let image = new_image(image_path, &superblock)?;
    let sidecar = UnfinishedFile::new(&sidecar_path).map_err(ImageError::io("create", &sidecar_path))?;
    let file = sidecar.file().try_clone().map_err(ImageError::io("create", &sidecar_path))?;
    let image_file = image.file().try_clone().map_err(ImageError::io("open", image_path))?;
    SidecarFile::create(file, &sidecar_path, image_file, &superblock)?;

    if let Some(group) = group {
        for (file, path) in [(&image, image_path), (&sidecar, &sidecar_path)] {
            file.share_with(group).map_err(ImageError::io("change the group of", path))?;
        }
    }
    publish(image, image_path, IMAGE_EXISTS)?;
    publish(sidecar, &sidecar_path, SIDECAR_EXISTS).inspect_err(|_| {
        let _ = fs::remove_file(image_path);
    })?;
    let done = format!(
        "{}: {}, protected by {}\n",
        image_path.display(),
        BinaryBytes(args.size),
        sidecar_path.display()
    );
    print(&done, false)?;
    Ok(ExitCode::SUCCESS)
}

const IMAGE_EXISTS: &str = "choose another name, or protect it as it is with `stableblk protect`";
const SIDECAR_EXISTS: &str = "remove it, or name another file with `--integrity PATH`";

fn find_group(name: &str) -> Result<u32, ImageError> {
    group_id(name).ok_or_else(|| ImageError::NoGroup(name.to_owned()))
}

fn new_image(path: &Path, superblock: &Superblock) -> Result<UnfinishedFile, ImageError> {
    let image = UnfinishedFile::new(path).map_err(ImageError::io("create", path))?;
    image.file().set_len(superblock.layout().image_size()).map_err(ImageError::io("size", path))?;
    if let Err(error) = image::set_uuid(image.file(), Uuid::from_bytes(superblock.uuid())) {
        warn_of_missing_uuid(path, &error);
    }
    Ok(image)
}

fn refuse_existing(path: &Path, cure: &'static str) -> Result<(), ImageError> {
    match path.symlink_metadata() {
        Ok(_) => Err(ImageError::Exists { path: path.to_owned(), cure }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(ImageError::io("create", path)(error)),
    }
}

fn publish(file: UnfinishedFile, path: &Path, cure: &'static str) -> Result<(), ImageError> {
    file.publish(Existing::Keep).map_err(|error| match error.kind() {
        io::ErrorKind::AlreadyExists => ImageError::Exists { path: path.to_owned(), cure },
        _ => ImageError::io("create", path)(error),
    })
}
