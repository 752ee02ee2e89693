//! The file at the path of a new sidecar. Only the image's own sidecar is ever replaced, and only
//! while it is not in use.

use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::storage::error::ImageError;
use crate::storage::image::{self, Access, Format, Image};
use crate::storage::sidecar_path;
use crate::storage::sidecar_search::{claimed_uuids, open_to_look};

/// The sidecar that the image has now, locked.
#[derive(Debug)]
pub(super) struct OldSidecar {
    path: PathBuf,
    /// The open file, which holds the lock.
    file: File,
}

impl OldSidecar {
    /// The sidecar of `image` at `path`; none where there is no file. Refuses any other file. An
    /// image without a UUID, for example on a file system without attributes, has its sidecar at
    /// the default path alone.
    pub(super) fn at(path: &Path, image: &Image) -> Result<Option<Self>, ImageError> {
        let left_alone =
            |what: &str| ImageError::NotReplaced { path: path.to_owned(), what: what.to_owned() };
        let metadata = match path.metadata() {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return if path.is_symlink() { Err(left_alone("a link to nothing")) } else { Ok(None) };
            }
            metadata => metadata.map_err(ImageError::io("look at", path))?,
        };
        if is_same(&metadata, image.file()).map_err(ImageError::io("look at", image.path()))? {
            return Err(left_alone("the image itself"));
        }
        if !metadata.is_file() {
            return Err(left_alone(image::kind(metadata.file_type())));
        }
        let file = open_to_look(path).map_err(ImageError::io("read", path))?;
        let claimed = claimed_uuids(&file).map_err(ImageError::io("read", path))?;
        let Some(&first) = claimed.first() else {
            return Err(left_alone(&what_else(&file, metadata.len())));
        };
        let carried = image.uuids()?;
        if carried.is_empty() && path != sidecar_path::default_path(image.path()) {
            return Err(left_alone(
                "a sidecar, but the image has no UUID by which it could be known as its own",
            ));
        }
        if !carried.is_empty() && !claimed.iter().any(|uuid| carried.contains(uuid)) {
            return Err(left_alone(&format!("the sidecar of another image (its UUID is {first})")));
        }
        image::lock(&file, Access::ReadWrite).map_err(ImageError::lock(path))?;
        Ok(Some(Self { path: path.to_owned(), file }))
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// The path of the file after symbolic links.
    pub(super) fn real_path(&self) -> Result<PathBuf, ImageError> {
        if self.path.is_symlink() {
            self.path.canonicalize().map_err(ImageError::io("look at", &self.path))
        } else {
            Ok(self.path.clone())
        }
    }

    /// Fails when another file has taken its place since it was locked.
    pub(super) fn still_there(&self) -> io::Result<()> {
        if is_same(&self.path.metadata()?, &self.file)? {
            Ok(())
        } else {
            Err(io::Error::other("another file has taken the place of the old sidecar meanwhile"))
        }
    }
}

fn is_same(metadata: &std::fs::Metadata, file: &File) -> io::Result<bool> {
    let file = file.metadata()?;
    Ok((metadata.dev(), metadata.ino()) == (file.dev(), file.ino()))
}

/// A description of a file that is no sidecar.
fn what_else(file: &File, len: u64) -> String {
    let uuid = image::carried_uuids(file).ok().and_then(|uuids| uuids.first().copied());
    let format = Format::of(file, len).ok().flatten();
    let kind = match (uuid, format) {
        (Some(uuid), _) => format!("another image (its UUID is {uuid}), not a sidecar"),
        (None, Some(format)) => format!("{}, not a sidecar", format.name()),
        (None, None) => "not a sidecar".to_owned(),
    };
    match image::holder(file) {
        Some(holder) => format!("{kind}, in use by {holder}"),
        None => kind,
    }
}
