//! Serving an image without its tuples (`--integrity none`), after which its sidecar is wrong.

use std::path::PathBuf;

use thiserror::Error;
use uuid::Uuid;

use crate::storage::image::{Access, Image};
use crate::storage::sidecar_path;
use crate::storage::sidecar_search::{claimed_uuids, open_to_look};
use crate::storage::trace::Trace;

/// Why a protected image is not served without its tuples.
#[derive(Debug, Error)]
pub enum UnprotectedError {
    /// The image cannot be examined.
    #[error(transparent)]
    Image(#[from] crate::storage::error::ImageError),
    /// The guest's writes would look like damage later.
    #[error(
        "{protected}, and writes under `--integrity none` would not match it: leave `--integrity none` out, or \
         give up the sidecar by `--force`"
    )]
    Protected {
        /// The sidecar that protects it.
        protected: Protected,
    },
    /// The sidecar cannot be marked in the image.
    #[error(
        "{protected}, which cannot be marked as stale because the image has no UUID: move its sidecar \
         away first"
    )]
    Unmarkable {
        /// The sidecar that protects it.
        protected: Protected,
    },
}

/// An image and the sidecar that protects it.
#[derive(Debug)]
pub struct Protected {
    image: PathBuf,
    sidecar: Option<PathBuf>,
    uuids: Vec<Uuid>,
}

impl std::fmt::Display for Protected {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} is protected by ", self.image.display())?;
        match (&self.sidecar, self.uuids.first()) {
            (Some(sidecar), _) => write!(f, "{}", sidecar.display()),
            (None, Some(uuid)) => write!(f, "the sidecar with the UUID {uuid}"),
            (None, None) => f.write_str("a sidecar"),
        }
    }
}

/// The sidecar of an image that is served without it, and what becomes of it.
#[derive(Debug)]
#[must_use = "a sidecar must be marked before the image is written"]
pub(super) enum UnusedSidecar {
    /// The image has none.
    None,
    /// It stays right, because nothing is written.
    StaysRight(Protected),
    /// It becomes wrong. It is marked already, or will be.
    BecomesStale(Protected),
}

/// Checks that `image` may be served without tuples. An image that is protected is refused unless
/// it is only read, its sidecar is marked already, or the sidecar is given up. Changes nothing.
pub(super) fn check(image: &Image, give_up_sidecar: bool) -> Result<UnusedSidecar, UnprotectedError> {
    if let Some(format) = image.foreign_format()? {
        let path = image.path();
        tracing::warn!(
            "{} is {} and is served as if it were raw: {}",
            path.display(),
            format.name(),
            format.cure(path)
        );
    }
    let Some(protected) = protection(image)? else { return Ok(UnusedSidecar::None) };
    if image.access() == Access::Read {
        return Ok(UnusedSidecar::StaysRight(protected));
    }
    match (give_up_sidecar, protected.uuids.is_empty()) {
        (false, _) if !is_marked(image, &protected)? => Err(UnprotectedError::Protected { protected }),
        (true, true) => Err(UnprotectedError::Unmarkable { protected }),
        _ => Ok(UnusedSidecar::BecomesStale(protected)),
    }
}

fn is_marked(image: &Image, protected: &Protected) -> Result<bool, crate::storage::error::ImageError> {
    let marked = image.stale_sidecars()?;
    Ok(!protected.uuids.is_empty() && protected.uuids.iter().all(|uuid| marked.contains(uuid)))
}

impl UnusedSidecar {
    /// Marks the sidecar that becomes stale, and logs that. An image that another process still
    /// serves is marked when it is taken over.
    pub(super) fn mark(self, image: &Image) -> Result<(), UnprotectedError> {
        match self {
            Self::None => {}
            Self::StaysRight(protected) => {
                tracing::warn!("{protected}, which `--integrity none` does not use: reads are not checked");
            }
            Self::BecomesStale(protected) => {
                if image.access() == Access::ReadWrite && !is_marked(image, &protected)? {
                    image
                        .mark_stale(&protected.uuids)
                        .map_err(crate::storage::error::ImageError::io("mark", image.path()))?;
                }
                tracing::warn!(
                    "{protected}, which is stale from now on: `stableblk protect --force {}` makes another",
                    image.path().display()
                );
            }
        }
        Ok(())
    }
}

/// The protection of an image, if it has one. The image has the UUID of its sidecar, or a sidecar
/// at the default path.
fn protection(image: &Image) -> Result<Option<Protected>, crate::storage::error::ImageError> {
    if image.is_block_device() {
        return Ok(None);
    }
    let path = sidecar_path::default_path(image.path());
    let is_sidecar = path.metadata().is_ok_and(|metadata| metadata.is_file())
        && open_to_look(&path).and_then(|file| claimed_uuids(&file)).is_ok_and(|it| !it.is_empty());
    let trace = Trace::of(image, &path)?;
    if trace.is_none() && !is_sidecar {
        return Ok(None);
    }
    let sidecar = match &trace {
        Some(trace) => trace.found().map(ToOwned::to_owned),
        None => Some(path),
    };
    Ok(Some(Protected { image: image.path().to_owned(), sidecar, uuids: image.uuids()? }))
}
