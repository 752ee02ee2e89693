//! The log of the device mapper's log-writes target:
//! `Documentation/admin-guide/device-mapper/log-writes.rst` of the kernel.
//!
//! All numbers are little-endian. The first sector is the superblock: magic, version, number of
//! entries, bytes in a sector (32 bits). Each entry has a sector that says first sector, number of
//! sectors, flags and length of a mark; the data follows. Writes are logged when they are complete:
//! those with FUA at once, the others before the next flush.

const MAGIC: u64 = 0x006a_7366_7773_6872;
const VERSION: u64 = 1;
const FLUSH: u64 = 1 << 0;
const FUA: u64 = 1 << 1;
const DISCARD: u64 = 1 << 2;
const MARK: u64 = 1 << 3;

/// A write that was logged.
#[derive(Debug)]
pub(crate) struct Write<'a> {
    /// The place on the disk, in bytes.
    pub(crate) offset: usize,
    pub(crate) data: &'a [u8],
    /// It was durable when it was complete.
    pub(crate) fua: bool,
}

/// The writes that were logged between two flushes. The second flush makes them durable.
pub(crate) type Epoch<'a> = Vec<Write<'a>>;

/// The epochs of `log`, in order.
pub(crate) fn epochs(log: &[u8]) -> Vec<Epoch<'_>> {
    assert_eq!((number(log, 0), number(log, 1)), (MAGIC, VERSION), "not a log of writes");
    let sector = size(number(log, 3) & 0xffff_ffff);
    let (mut epochs, mut epoch, mut at) = (Vec::new(), Vec::new(), sector);
    for _ in 0..number(log, 2) {
        let entry = &log[at..];
        let (offset, len, flags) =
            (size(number(entry, 0)) * sector, size(number(entry, 1)) * sector, number(entry, 2));
        at += sector;
        if flags & FLUSH != 0 {
            epochs.push(std::mem::take(&mut epoch));
        }
        assert_eq!(flags & DISCARD, 0, "no discard was requested");
        if flags & MARK == 0 && len > 0 {
            epoch.push(Write { offset, data: &log[at..at + len], fua: flags & FUA != 0 });
            at += len;
        }
    }
    epochs
}

/// The 64-bit number at `index`.
fn number(bytes: &[u8], index: usize) -> u64 {
    u64::from_le_bytes(*bytes[8 * index..].first_chunk().expect("the log is whole"))
}

fn size(number: u64) -> usize {
    usize::try_from(number).expect("a size")
}
