//! The medium of the log, the array and recovery: two files, seen through a few calls.

use std::io;
use std::ops::Range;

use super::pairing::Stamp;

/// One of the two files.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum File {
    /// The raw image. It is never written here.
    Image,
    /// The sidecar.
    Sidecar,
}

/// The purpose of a sync.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Reason {
    /// Intents, and flushed tags, before anything relies on them.
    Commit,
    /// The data of many records, so that a recovery need not look at it.
    DataOfLog,
    /// The data of a checkpoint's tuples, before its tuples.
    CheckpointData,
    /// A checkpoint's tuples, before the log forgets them.
    CheckpointTuples,
    /// A superblock, before anything relies on what it says.
    Superblock,
    /// All data, before the image is let go of.
    Close,
    /// The data that a killed process left in the page cache, before it is judged.
    RecoveryLeftovers,
    /// Recovered tuples, before the log forgets them.
    RecoveryTuples,
    /// The tuples of what is new in an image that grows, before the superblock has its new size.
    Growth,
}

/// Image and sidecar. Reads see all earlier writes; a power cut leaves each 512-byte sector as one
/// of the writes since the last sync made it, or as it was.
pub trait Media {
    /// Fills `buffer` from byte `offset` of `file`.
    fn read(&self, file: File, offset: u64, buffer: &mut [u8]) -> io::Result<()>;

    /// The first byte of the image at or after `offset` that may be other than zero; the bytes
    /// before it read as zeros. `None`: there is none. A medium that does not know skips nothing.
    fn next_data(&self, offset: u64) -> io::Result<Option<u64>> {
        Ok(Some(offset))
    }

    /// The same of the sidecar.
    fn next_sidecar_data(&self, offset: u64) -> io::Result<Option<u64>> {
        Ok(Some(offset))
    }

    /// The stamp of the last session that could write the image; `None` where it carries
    /// nothing.
    fn stamp(&self) -> io::Result<Option<Stamp>> {
        Ok(None)
    }

    /// Has the image carry `stamp`, durably. An image that cannot carry any has to carry none
    /// afterwards.
    fn set_stamp(&self, stamp: &Stamp) -> io::Result<()> {
        let _ = stamp;
        Ok(())
    }

    /// When the image was written last, in nanoseconds since 1970; 0 where that is not known.
    fn image_modified(&self) -> io::Result<u64> {
        Ok(0)
    }

    /// Writes all of `bytes` at byte `offset` of the sidecar.
    fn write(&self, offset: u64, bytes: &[u8]) -> io::Result<()>;

    /// Writes `parts`, one behind the other, from byte `offset` of the sidecar, and makes them
    /// durable. Other bytes that were written need not be durable then, but if one of them was
    /// lost, and no sync has failed for it, this fails.
    fn write_durably(&self, offset: u64, parts: &[&[u8]], reason: Reason) -> io::Result<()> {
        let mut at = offset;
        for part in parts {
            self.write(at, part)?;
            at += part.len() as u64;
        }
        self.sync(File::Sidecar, reason)
    }

    /// Makes `len` bytes at byte `offset` of the sidecar read as zeros, and gives their space back
    /// where that can be.
    fn zero(&self, offset: u64, len: u64) -> io::Result<()>;

    /// Forgets what is cached of the sidecar, but for what the next sync makes durable: a sync that
    /// has failed may have left more there than the medium has.
    fn forget_lost(&self) -> io::Result<()> {
        Ok(())
    }

    /// Bytes of the sidecar that are read soon: a medium may read many such ranges at once.
    fn will_read(&self, range: Range<u64>) {
        let _ = range;
    }

    /// Gives the writes to this range of the sidecar to the medium, and waits for them, so that
    /// the next sync has little left to do. Nothing is durable before that. Fails as a sync does:
    /// then the next sync may succeed though something was lost.
    fn write_back(&self, range: Range<u64>) -> io::Result<()> {
        let _ = range;
        Ok(())
    }

    /// Makes everything written to `file` so far durable.
    fn sync(&self, file: File, reason: Reason) -> io::Result<()>;
}
