//! Traces of the protection of an image that has no sidecar in its place.

use std::fmt;
use std::path::{Path, PathBuf};

use uuid::Uuid;

/// Evidence that an image was protected: the UUID it carries, and a sidecar with that UUID.
#[derive(Debug)]
pub struct Trace {
    pub(super) image: PathBuf,
    pub(super) uuid: Uuid,
    pub(super) found: Option<PathBuf>,
}

impl Trace {
    /// The sidecar that was found, if there is one.
    pub(crate) fn found(&self) -> Option<&Path> {
        self.found.as_deref()
    }
}

impl fmt::Display for Trace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { image, uuid, found } = self;
        write!(
            f,
            "it was protected before, with the UUID {uuid}; `stableblk protect --force {}` takes what it \
             holds now as right; ",
            image.display()
        )?;
        match found {
            Some(path) => write!(f, "its sidecar was found: use `--integrity {}`", path.display()),
            None => f.write_str(
                "no sidecar with that UUID is beside it: restore it, or name it with `--integrity PATH`",
            ),
        }
    }
}
