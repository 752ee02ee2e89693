//! The sidecar: PI for an image that has no room of its own for it, in a file beside it.
//!
//! The image itself stays raw. The [`Superblock`] names the image, the profile and how the last
//! session ended; the [`Layout`] says where everything lies. [`generate`] and [`verify`] are the
//! rules for tuples, to which a sidecar adds one: a tuple of zero bytes says that its interval was
//! never written, and the interval must then read as zeros. So the tuple array can be sparse, and a
//! tuple that was lost is noticed.
//!
//! Data and tuple are two writes to two files, so a crash can fall between them. The tag intent log
//! closes that gap without ever writing data twice: before a block changes there is a durable trace
//! of it, and recovery finds out from the data itself which write it holds. [`Journal`] is that log
//! while the image is served, [`Recovery`] what follows a crash.
//!
//! This module knows bytes, not files or threads: all it does to a medium goes through [`Media`].

mod array;
mod cache;
mod checkpoint;
mod commit;
mod damage;
mod dirty_map;
mod growth;
mod holes;
mod journal;
mod layout;
mod log;
mod loss;
mod media;
mod open_close;
mod pairing;
mod read_ahead;
mod recovery;
mod regions;
mod replay;
mod rules;
mod superblock;
mod tuples;
mod unreadable;
mod unverified;
mod verdict;

pub use array::{Change, PageBytes, TuplePage, change_tuples, read_tuples};
pub use cache::{KeptPages, Miss};
pub use checkpoint::Checkpoint;
pub use commit::Commit;
pub use damage::{
    DAMAGED_RANGES_MAX, DamageArea, DamageList, DamageNotes, DamagedRange, FailedCheck, Finding, FoundBy,
    ScrubRecord, ScrubState, TagValues,
};
pub use growth::{Growth, grow};
pub use journal::{DataSync, Flush, Intent, Journal, Marks, Permission, RegionFindings, Usage, Waits};
pub use layout::{Layout, LayoutError, PAGE_SIZE, REGION_SIZE, SECTOR_SIZE, SUPERBLOCK_SIZE};
pub use media::{File, Media, Reason};
pub use open_close::{Opened, Verify, close, open, open_and_verify};
pub use pairing::{Stamp, TwoMoments, WriteSession};
pub use recovery::{Adoption, RecoveredPages, Recovery};
pub use rules::Rules;
pub use superblock::{IntentMode, LoadError, Loaded, State, Superblock, SuperblockError, VERSION};
pub use tuples::{
    APPLICATION_TAG, Mismatch, Mismatches, SidecarError, accept, generate, generate_sparse, is_adopted,
    is_lost, is_unwritten, mismatches, verify,
};
pub use unverified::{CheckedRegion, RegionCheck, Verification};
pub use verdict::{Candidates, Verdict};

use crate::Guard;

/// The checksum of everything in a sidecar but its tuples' own guards.
fn crc_of(bytes: &[u8]) -> u64 {
    Guard::Crc64Nvme.compute(bytes)
}

/// `N` bytes at `at`, which lie within `bytes`.
fn field<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    *bytes[at..].first_chunk().expect("fields lie within their block")
}

fn put(bytes: &mut [u8], at: usize, value: &[u8]) {
    bytes[at..at + value.len()].copy_from_slice(value);
}

/// Whether all bytes are zero. The pieces compile to wide compares; one byte at a time would be
/// slower than the guard.
fn is_zero(data: &[u8]) -> bool {
    data.chunks(256).all(|piece| piece.iter().fold(0, |bits, byte| bits | byte) == 0)
}
