//! The superblock: the description of a sidecar, of its image and of the state in which it was
//! left.
//!
//! [`encoding`] has its bytes, [`copies`] the two places where it lies.

mod copies;
mod encoding;

use std::io;

pub use self::copies::{LoadError, Loaded};
pub use self::encoding::VERSION;

use self::encoding::{interval_size, pif};
use super::layout::{Layout, LayoutError};
use crate::{IntegrityProfile, PiType};

/// The limit of blocks in doubt for the smallest images and for the largest ones.
const DOUBT_MAX_LEAST: u64 = 1 << 10;
const DOUBT_MAX_MOST: u64 = 1 << 15;

/// The way in which a write notes durably that it is about to change blocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IntentMode {
    /// By the dirty bit of each region, which lasts over many writes: almost no cost; after a crash
    /// a block of a dirty region that is damaged cannot be distinguished from one whose write was
    /// cut off.
    Region,
    /// By its tags in the log, made durable before its data: one wait more a batch; after a crash
    /// only blocks with a write in flight are in doubt.
    Block,
}

/// The state in which the last session that could write the image left it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// Closed: the log is empty and every tuple is in the array.
    Clean,
    /// Open now, or cut off: the log counts.
    Open(IntentMode),
}

/// The description of a sidecar and of its image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Superblock {
    pub(super) uuid: [u8; 16],
    pub(super) layout: Layout,
    pub(super) state: State,
    pub(super) epoch: u64,
    pub(super) tail: u64,
    pub(super) generation: u64,
    pub(super) durability_lost: bool,
    pub(super) doubt_max: u64,
    pub(super) image_modified: u64,
}

/// Why bytes are not a superblock, or values cannot make one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SuperblockError {
    /// The magic is not there.
    #[error("not a sidecar: it does not begin with STABLEPI")]
    NotASidecar,
    /// There are fewer bytes than a superblock has.
    #[error("only {len} bytes long, shorter than a superblock")]
    TooShort {
        /// Bytes there are.
        len: usize,
    },
    /// Another release wrote it.
    #[error("format version {0} is unknown; this program reads version {VERSION}")]
    UnknownVersion(u32),
    /// The superblock's own CRC does not match its bytes.
    #[error("damaged superblock: CRC-64 is {actual:#018x}, should be {expected:#018x}")]
    Damaged {
        /// Computed over the bytes.
        expected: u64,
        /// Found in the superblock.
        actual: u64,
    },
    /// The medium cannot read it.
    #[error("unreadable superblock: {}", io::Error::from_raw_os_error(*errno))]
    Unreadable {
        /// The errno of the read.
        errno: i32,
    },
    /// A field has a value that this version does not define.
    #[error("unsupported {field} {value}")]
    Unsupported {
        /// The name of the field.
        field: &'static str,
        /// The value of the field.
        value: u64,
    },
    /// The profile is not type 1 with a CRC guard and bare tuples.
    #[error("unsupported profile: not PI type 1 with a CRC guard and bare tuples")]
    UnsupportedProfile,
    /// The areas of the file cannot lie as they should.
    #[error(transparent)]
    Layout(#[from] LayoutError),
}

impl Superblock {
    /// A clean superblock for an image of `image_size` bytes.
    ///
    /// Fails with [`SuperblockError::UnsupportedProfile`] for a profile other than type 1 with a
    /// CRC guard and nothing but the tuple in its metadata, and with [`SuperblockError::Layout`]
    /// for an image that is empty, ends within an interval or is too large.
    pub fn new(uuid: [u8; 16], profile: IntegrityProfile, image_size: u64) -> Result<Self, SuperblockError> {
        let bare = IntegrityProfile::new(profile.guard(), PiType::Type1, interval_size(&profile));
        if bare != Ok(profile) || pif(profile.guard()).is_none() {
            return Err(SuperblockError::UnsupportedProfile);
        }
        let layout = Layout::new(profile, image_size)?;
        let doubt_max = doubt_max(&layout);
        Ok(Self {
            uuid,
            layout,
            state: State::Clean,
            epoch: 1,
            tail: 1,
            generation: 1,
            durability_lost: false,
            doubt_max,
            image_modified: 0,
        })
    }

    /// The UUID that image and sidecar share.
    #[must_use]
    pub fn uuid(&self) -> [u8; 16] {
        self.uuid
    }

    /// The places of everything in the sidecar.
    #[must_use]
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// The state in which the last session left it.
    #[must_use]
    pub fn state(&self) -> State {
        self.state
    }

    /// The log's epoch: how often it was opened.
    #[must_use]
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// Sequence number of the first page of the log that counts.
    #[must_use]
    pub fn tail(&self) -> u64 {
        self.tail
    }

    /// The number of superblocks that were written.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// Whether a sync of the image has failed, so that writes which a guest takes for durable after
    /// its next flush may be lost, and no flush of a guest has failed for that yet.
    #[must_use]
    pub fn durability_lost(&self) -> bool {
        self.durability_lost
    }

    /// The most intervals that may be written, with intents by region, while the records of these
    /// writes are not durable. After a crash no more blocks match nothing without being named by
    /// the log. 0: the last session kept to no limit.
    #[must_use]
    pub fn doubt_max(&self) -> u64 {
        self.doubt_max
    }

    /// When the image had been written last as the sidecar was closed, in nanoseconds since 1970; 0
    /// where that is not known.
    #[must_use]
    pub fn image_modified(&self) -> u64 {
        self.image_modified
    }

    /// The same for an image that has grown to `image_size` bytes.
    pub fn grown_to(&self, image_size: u64) -> Result<Self, SuperblockError> {
        let layout = self.layout.grown_to(image_size)?;
        let doubt_max = self.doubt_max.max(doubt_max(&layout));
        Ok(Self { layout, doubt_max, ..self.clone() })
    }

    /// The same with a limit of blocks in doubt, if it has none yet.
    pub(super) fn with_doubt_max(self) -> Self {
        let doubt_max = if self.doubt_max == 0 { doubt_max(&self.layout) } else { self.doubt_max };
        Self { doubt_max, ..self }
    }
}

/// The limit of blocks in doubt, in proportion to the image: a small image that is nearly all in
/// doubt looks like one of another moment. With a lower limit, writes would wait for syncs of the
/// log.
pub(super) fn doubt_max(layout: &Layout) -> u64 {
    (layout.intervals() / 16).clamp(DOUBT_MAX_LEAST, DOUBT_MAX_MOST)
}
