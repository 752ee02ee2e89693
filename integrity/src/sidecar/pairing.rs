//! Whether image and sidecar are of one moment.
//!
//! A sidecar that was copied while it was open, or one that was put beside an image of another
//! time, would be recovered like one that a crash has left: what does not match would be adopted.
//! Two things distinguish them. The image carries a [`Stamp`], which says in which session it was
//! written last. And the number of blocks that a crash leaves without the log naming them is
//! limited: see [`Superblock::doubt_max`].

use std::fmt;
use std::io;

use super::log::LogId;
use super::media::Media;
use super::recovery::Recovery;
use super::replay::Replay;
use super::rules::Rules;
use super::superblock::{State, Superblock};

/// The session in which an image, or a sidecar, was written last.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct WriteSession {
    /// The epoch of the sidecar's log in that session.
    pub epoch: u64,
    /// Whether it has not been closed.
    pub is_open: bool,
}

/// The stamp of an image: the last session that could write it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Stamp {
    /// The UUID of the sidecar. A stamp with another UUID says nothing.
    pub uuid: [u8; 16],
    /// The session.
    pub session: WriteSession,
}

/// Why an image and a sidecar with the same UUID are not served together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TwoMoments {
    /// The image was written in another session than the sidecar.
    #[error("the sidecar is of session {sidecar}, the image of session {image}")]
    OtherSession {
        /// The last session of the sidecar.
        sidecar: WriteSession,
        /// The last session of the image, by its stamp.
        image: WriteSession,
    },
    /// More blocks match nothing than a crash can leave.
    #[error(
        "{blocks} blocks match none of the tuples that they may have, and a crash leaves no more than {most} such blocks"
    )]
    TooMuchInDoubt {
        /// Blocks that match nothing, and that the log does not name.
        blocks: u64,
        /// Blocks that can have been in doubt.
        most: u64,
    },
}

impl fmt::Display for WriteSession {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.epoch, if self.is_open { "open" } else { "closed" })
    }
}

impl Superblock {
    /// The session in which the sidecar was written last.
    #[must_use]
    pub fn session(&self) -> WriteSession {
        WriteSession { epoch: self.epoch, is_open: self.state != State::Clean }
    }

    /// The stamp that the image gets in that session.
    #[must_use]
    pub fn stamp(&self) -> Stamp {
        Stamp { uuid: self.uuid, session: self.session() }
    }
}

impl TwoMoments {
    /// Finds out whether the image is of another moment than the sidecar with this `superblock`.
    /// `recovery` is what a recovery has found, or found that it would do; `None` for a clean
    /// sidecar.
    pub fn find(
        media: &impl Media,
        superblock: &Superblock,
        recovery: Option<&Recovery>,
        rules: Rules,
    ) -> io::Result<Option<Self>> {
        if rules.contains(Rules::SAME_SESSION) {
            let stamp = media.stamp()?.filter(|stamp| stamp.uuid == superblock.uuid);
            if let Some(Stamp { session: image, .. }) = stamp {
                let sidecar = superblock.session();
                let is_same = image.epoch == sidecar.epoch && (image.is_open || !sidecar.is_open);
                if !is_same && !is_before_first_write(media, superblock, image, recovery)? {
                    return Ok(Some(Self::OtherSession { sidecar, image }));
                }
            }
        }
        if rules.contains(Rules::BOUNDED_ADOPTION)
            && let Some(recovery) = recovery
            && superblock.doubt_max > 0
        {
            let most = superblock.doubt_max.saturating_add(recovery.behind_gap);
            if recovery.unnamed_adoptions > most {
                return Ok(Some(Self::TooMuchInDoubt { blocks: recovery.unnamed_adoptions, most }));
            }
        }
        Ok(None)
    }
}

/// Whether the sidecar was opened for a session that has not written the image: it ended before the
/// image had its stamp.
fn is_before_first_write(
    media: &impl Media,
    superblock: &Superblock,
    image: WriteSession,
    recovery: Option<&Recovery>,
) -> io::Result<bool> {
    let Some(recovery) = recovery.filter(|_| image.epoch.checked_add(1) == Some(superblock.epoch)) else {
        return Ok(false);
    };
    if recovery.log_pages > 0 || recovery.log_gap.is_some() {
        return Ok(false);
    }
    // pages of this session that a checkpoint has passed
    let id = LogId { uuid: superblock.uuid, epoch: superblock.epoch };
    let before = superblock.tail - 1;
    Ok(Replay::read(superblock.layout(), media, id, before..superblock.tail)?.pages == 0)
}
