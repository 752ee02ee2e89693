//! The rules of the log, by name, so that tests can take one away.

use bitflags::bitflags;

bitflags! {
    /// The rules of the log that no sync stands for. A served sidecar has all of them; tests take
    /// one away to see that it is needed.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub struct Rules: u32 {
        /// Data is written only when the dirty bit of its region is durable.
        const BIT_BEFORE_DATA = 1 << 0;
        /// A record is made only when the dirty bit of its region is durable: recovery trusts
        /// records of clean regions.
        const BIT_BEFORE_RECORD = 1 << 1;
        /// With intents by block, data is written only when its record, and all before it, are
        /// durable.
        const RECORD_BEFORE_DATA = 1 << 2;
        /// With intents by region, a flush waits for the records of the writes that it flushes.
        const FLUSH_WAITS_FOR_RECORDS = 1 << 3;
        /// A record counts as committed only when its data, and that of all before it, was written
        /// before a sync of the image.
        const COMMIT_WHEN_COMPLETE = 1 << 4;
        /// A region becomes clean only when all its records are in the array.
        const CLEAN_WHEN_CHECKPOINTED = 1 << 5;
        /// A page of the ring is used again only when the tail has passed it.
        const NO_OVERTAKING = 1 << 6;
        /// A new session has a new epoch.
        const NEW_EPOCH = 1 << 7;
        /// Recovery gives a block that holds no candidate the tuple of what it holds.
        const ADOPTION = 1 << 8;
        /// Recovery cleans the dirty map after the superblock has given up the log.
        const MAP_AFTER_SUPERBLOCK = 1 << 9;
        /// A write whose data failed is settled by a record of what the blocks hold.
        const SETTLE_FAILED_WRITES = 1 << 10;
        /// The image is stamped with a session before that session writes it.
        const STAMP_BEFORE_DATA = 1 << 11;
        /// The image is stamped as closed when the superblock says so, not before.
        const STAMP_AFTER_CLOSE = 1 << 12;
        /// An image that was written in another session than its sidecar is refused.
        const SAME_SESSION = 1 << 13;
        /// With intents by region, the number of blocks that are written before their records are
        /// durable is limited.
        const BOUNDED_DOUBT = 1 << 14;
        /// More adoptions than blocks can have been in doubt are refused.
        const BOUNDED_ADOPTION = 1 << 15;
        /// That a sync of the image has failed is written down before the image is let go of.
        const LOSS_WRITTEN_DOWN = 1 << 16;
        /// The note of lost durability stays until a flush of the guest's has failed for it.
        const LOSS_KEPT = 1 << 17;
        /// Blocks that a crash has left in doubt without a record are verified before they are
        /// used, if not before the sidecar is open.
        const VERIFY_LATER = 1 << 18;
        /// A region in doubt stays dirty until it is verified.
        const DIRTY_UNTIL_VERIFIED = 1 << 19;
    }
}
