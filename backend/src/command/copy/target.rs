//! The two files of a copy, until they have their names.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use integrity::sidecar::Layout;
use rustix::fs::ioctl_ficlone;
use uuid::Uuid;

use super::super::unfinished::{Existing, UnfinishedFile, give_to_owner_of};
use super::super::{new_superblock, warn_of_missing_uuid};
use crate::storage::error::ImageError;
use crate::storage::image::{self, Image};
use crate::storage::sidecar_file::SidecarFile;
use crate::storage::sidecar_path;

/// Bytes of which none is written if all are zero.
const HOLE: usize = 64 << 10;

/// The files of a copy.
#[derive(Debug)]
pub(super) struct Target {
    path: PathBuf,
    sidecar_path: PathBuf,
    image: UnfinishedFile,
    unfinished_sidecar: UnfinishedFile,
    sidecar: SidecarFile,
    shares_blocks: bool,
}

const EXISTS: &str = "choose another name for the copy";

impl Target {
    /// Makes the files of a copy of `image`, of which the sidecar has this `layout`: the image has
    /// its blocks already or is one hole, and all tuples are unwritten.
    pub(super) fn make(path: &Path, image: &Image, layout: &Layout) -> Result<Self, ImageError> {
        let create = |path: &Path| {
            if path.symlink_metadata().is_ok() {
                return Err(ImageError::Exists { path: path.to_owned(), cure: EXISTS });
            }
            UnfinishedFile::new(path).map_err(ImageError::io("create", path))
        };
        let sidecar_path = sidecar_path::default_path(path);
        let (copy, unfinished_sidecar) = (create(path)?, create(&sidecar_path)?);
        if !image.is_block_device() {
            for (file, path) in [(&copy, path), (&unfinished_sidecar, &sidecar_path)] {
                give_to_owner_of(image.file(), file.file())
                    .map_err(ImageError::io("change the mode of", path))?;
            }
        }
        let shares_blocks = ioctl_ficlone(copy.file(), image.file()).is_ok();
        copy.file().set_len(layout.image_size()).map_err(ImageError::io("size", path))?;
        let superblock = new_superblock(path, layout.image_size(), *layout.profile())?;
        if let Err(error) = image::set_uuid(copy.file(), Uuid::from_bytes(superblock.uuid())) {
            warn_of_missing_uuid(path, &error);
        }
        let clone = |file: &UnfinishedFile| file.file().try_clone().map_err(ImageError::io("create", path));
        let (file, image_file) = (clone(&unfinished_sidecar)?, clone(&copy)?);
        let sidecar = SidecarFile::create(file, &sidecar_path, image_file, &superblock)?;
        let path = path.to_owned();
        Ok(Self { path, sidecar_path, image: copy, unfinished_sidecar, sidecar, shares_blocks })
    }

    /// Whether the file system has made the copy share the blocks of the image.
    pub(super) fn shares_blocks(&self) -> bool {
        self.shares_blocks
    }

    pub(super) fn sidecar(&self) -> &SidecarFile {
        &self.sidecar
    }

    /// Writes `data` at byte `offset` of the image, which is a hole there, and leaves holes where
    /// it is zero.
    pub(super) fn write(&self, offset: u64, data: &[u8]) -> Result<(), ImageError> {
        if self.shares_blocks {
            return Ok(());
        }
        let written = (offset..).step_by(HOLE).zip(data.chunks(HOLE)).try_for_each(|(offset, part)| {
            if part.iter().all(|&byte| byte == 0) { Ok(()) } else { self.file().write_all_at(part, offset) }
        });
        written.map_err(ImageError::io("write", &self.path))
    }

    /// Gives both files their names, durably.
    pub(super) fn publish(self) -> Result<(), ImageError> {
        let Self { path, sidecar_path, image, unfinished_sidecar, .. } = self;
        publish(image, &path)?;
        publish(unfinished_sidecar, &sidecar_path).inspect_err(|_| {
            let _ = fs::remove_file(&path);
        })
    }

    fn file(&self) -> &File {
        self.image.file()
    }
}

fn publish(file: UnfinishedFile, path: &Path) -> Result<(), ImageError> {
    file.publish(Existing::Keep).map_err(|error| match error.kind() {
        io::ErrorKind::AlreadyExists => ImageError::Exists { path: path.to_owned(), cure: EXISTS },
        _ => ImageError::io("create", path)(error),
    })
}
