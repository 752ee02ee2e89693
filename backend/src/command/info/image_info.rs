//! The part of `stableblk info` that every image has, however it is protected.

use std::fmt;
use std::path::Path;

use indicatif::BinaryBytes;
use serde::Serialize;

use crate::control::log::escape;
use crate::storage::image::Image;

/// The text, for people, about an image whose durability was lost.
pub(in crate::command) const DURABILITY_LOST: &str = "lost: a sync of the image failed when it was served, so writes that were not flushed \
    before that may be missing; the next flush of its guest fails for it, once";

/// The properties of an image. Sizes are in bytes.
#[derive(Debug, Serialize)]
pub(super) struct ImageInfo {
    pub(super) image: String,
    pub(super) format: &'static str,
    pub(super) size: u64,
    pub(super) direct_io: bool,
    pub(super) in_use_by: Option<String>,
    /// Whether a sync of the image failed when it was served, and no flush of a guest has failed
    /// for that since.
    pub(super) durability_lost: bool,
}

impl ImageInfo {
    /// The properties of `image`, which was named by `path`.
    pub(super) fn new(image: &Image, path: &Path) -> Self {
        Self {
            image: path.to_string_lossy().into_owned(),
            format: if image.is_block_device() { "raw, on a block device" } else { "raw" },
            size: image.size(),
            direct_io: image.is_direct(),
            in_use_by: image.holder().map(|holder| holder.to_string()),
            durability_lost: image.durability_lost(),
        }
    }
}

impl fmt::Display for ImageInfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "image      {}", escape(&self.image))?;
        writeln!(f, "format     {}", self.format)?;
        writeln!(f, "size       {} ({} bytes)", BinaryBytes(self.size), self.size)?;
        writeln!(f, "I/O        {}", if self.direct_io { "direct" } else { "through the page cache" })?;
        writeln!(f, "in use by  {}", escape(self.in_use_by.as_deref().unwrap_or("no process")))?;
        if self.durability_lost {
            writeln!(f, "durability {DURABILITY_LOST}")?;
        }
        Ok(())
    }
}
