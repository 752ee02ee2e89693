//! Durability that was lost, written down for the next owner of the image.
//!
//! The kernel reports data that it could not write to one sync only. If that sync is not a guest's
//! flush, or no flush follows it in the same session, the guest takes writes for durable after its
//! next flush although they are gone. So before the image is let go of, the superblock says that
//! durability was lost. It keeps saying so, whatever recovers or opens the sidecar, until a guest's
//! flush has failed for it: [`Journal::loss_was_reported`](super::Journal::loss_was_reported).

use std::io;

use super::media::Media;
use super::rules::Rules;
use super::superblock::{Loaded, Superblock};

/// A sync of the image has failed, and the sidecar could not be made to say so.
#[derive(Debug, thiserror::Error)]
#[error("{sync}; that durability was lost could not be written down in the sidecar either, {write}")]
struct Unwritten {
    sync: io::Error,
    write: io::Error,
}

impl Loaded {
    /// Whether the superblock on the medium is known to say that durability was lost.
    pub(super) fn says_lost(&self) -> bool {
        self.superblock.durability_lost && self.is_durable
    }

    /// Writes down that a sync of the image has failed with `error`. Returns what has failed, which
    /// is more if that is not durable.
    pub(super) fn lose_durability(
        &mut self,
        media: &impl Media,
        rules: Rules,
        error: io::Error,
    ) -> io::Error {
        if self.says_lost() || !rules.contains(Rules::LOSS_WRITTEN_DOWN) {
            return error;
        }
        let lost = Superblock { durability_lost: true, ..self.superblock.clone() };
        match self.replace(media, lost) {
            Ok(()) => error,
            Err(write) => io::Error::new(error.kind(), Unwritten { sync: error, write }),
        }
    }
}
