//! Data of other programs on a device whose metadata is for tuples of our own. It is noticed before
//! the device is served, and `stableblk protect` gives it tuples.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use integrity::Tag;
use integrity::sidecar::{Mismatch, is_unwritten, mismatches};
use thiserror::Error;

use super::super::check::Findings;
use crate::device::bounce::{BounceFolio, FOLIO_SIZE_MAX};
use crate::device::{BlockDevice, DeviceInfo, OneByOne, Protection, TupleRule};

/// Why a device is not served, or not taken over.
#[derive(Debug, Error)]
pub enum TakeOverError {
    /// Blocks at the beginning of the device have data and no tuples.
    #[error(
        "{device} holds data that stableblk has not written ({found}): take it over as it is now with `stableblk protect {device}`, \
        or make the device read as zeros, as by `blkdiscard --zeroout` of its block device",
        device = device.display()
    )]
    HasOtherData {
        /// The device.
        device: PathBuf,
        /// The mismatch of the first such block.
        found: Mismatch,
    },
    /// Blocks have tuples that do not match.
    #[error(
        "{left} blocks of {device} have tuples that do not match, first {found}, and were left as they are ({taken} others were given \
        tuples): to accept their present content, use `--force`",
        device = device.display()
    )]
    Mismatches {
        /// The device.
        device: PathBuf,
        /// The number of blocks.
        left: u64,
        /// The mismatch of the first block.
        found: Mismatch,
        /// The number of blocks that had data and no tuple, and have a tuple now.
        taken: u64,
    },
    /// The device keeps tuples that other programs write too.
    #[error(
        "{} has protection information of its own, which every writer keeps: there is nothing to protect, serve it as it is",
        .0.display()
    )]
    HasProtectionInformation(PathBuf),
    /// A transfer failed.
    #[error("cannot {action} {} at byte {offset}", device.display())]
    Transfer {
        /// The direction, as a verb.
        action: &'static str,
        /// The device.
        device: PathBuf,
        /// The offset in bytes.
        offset: u64,
        /// The device's error.
        #[source]
        source: io::Error,
    },
    /// Transfers could not be set up.
    #[error("cannot set up transfers to {}", device.display())]
    SetUp {
        /// The device.
        device: PathBuf,
        /// The system's error.
        #[source]
        source: io::Error,
    },
    /// The tuples that were written may not be durable.
    #[error("cannot flush {}", device.display())]
    Flush {
        /// The device.
        device: PathBuf,
        /// The system's error.
        #[source]
        source: io::Error,
    },
}

/// Returns `device`, which is at `path`. Refuses it if its tuples would be our own, but its first
/// MiB has data and not one tuple: then it has never been a disk of ours. A tuple that is wrong
/// among others is damage to one block; the guest gets an error when it reads that block.
pub(in crate::command) fn refuse_other_data<B: BlockDevice>(
    device: B,
    path: &Path,
) -> Result<B, TakeOverError> {
    let Some(protection) = own_tuples(&device) else {
        return Ok(device);
    };
    let device = Arc::new(device);
    let mut blocks = DeviceBlocks::open(&device, protection, path)?;
    let (mut first_wrong, mut has_tuple) = (None, false);
    for (offset, len) in parts(device.info(), FOLIO_SIZE_MAX as u64) {
        let folio = blocks.read(offset, len)?;
        let wrong = blocks.mismatches(offset, len, &folio);
        let tuples = folio.metadata().chunks_exact(protection.profile().metadata_size());
        let blocks_with_metadata =
            tuples.take(len / protection.interval_size()).filter(|tuple| !is_unwritten(tuple)).count();
        has_tuple |= blocks_with_metadata > wrong.iter().filter(|wrong| !is_unwritten_block(wrong)).count();
        first_wrong = first_wrong.or(wrong.first().copied());
        blocks.queue.put(folio);
    }
    drop(blocks);
    match first_wrong {
        Some(found) if !has_tuple => Err(TakeOverError::HasOtherData { device: path.to_owned(), found }),
        _ => Ok(Arc::into_inner(device).expect("its one queue is closed")),
    }
}

/// The result of a take-over.
#[derive(Debug)]
pub(super) struct Taken {
    /// The number of blocks that were given tuples.
    pub(super) blocks: u64,
    /// Those of the blocks that had a tuple, which was wrong.
    pub(super) accepted: Findings,
    /// The size of a block, in bytes.
    pub(super) block_size: usize,
}

/// Gives each block of `device`, at `path`, that has data and no tuple a tuple for its present
/// content; with `force`, also each block whose tuple is wrong. Each block is written whole, with
/// its tuple, so this can be interrupted and repeated.
pub(super) fn take_over<B: BlockDevice>(
    device: &Arc<B>,
    path: &Path,
    force: bool,
) -> Result<Taken, TakeOverError> {
    let Some(protection) = own_tuples(&**device) else {
        return Err(TakeOverError::HasProtectionInformation(path.to_owned()));
    };
    let mut blocks = DeviceBlocks::open(device, protection, path)?;
    let (mut taken, mut left, mut first_left) = (0, 0, None);
    let mut accepted = Findings::default();
    for (offset, len) in parts(device.info(), u64::MAX) {
        let mut folio = blocks.read(offset, len)?;
        let (to_take, to_leave): (Vec<_>, Vec<_>) = blocks
            .mismatches(offset, len, &folio)
            .into_iter()
            .partition(|wrong| force || has_no_tuple(wrong));
        for wrong in &to_take {
            blocks.give_tuple(wrong.lba(), offset, &mut folio);
            if !has_no_tuple(wrong) {
                accepted.add_mismatch(wrong);
            }
        }
        if !to_take.is_empty() {
            folio = blocks.write(offset, len, folio)?;
        }
        taken += to_take.len() as u64;
        left += to_leave.len() as u64;
        first_left = first_left.or(to_leave.first().copied());
        blocks.queue.put(folio);
    }
    drop(blocks);
    device.close().map_err(|source| TakeOverError::Flush { device: path.to_owned(), source })?;
    match first_left {
        Some(found) => Err(TakeOverError::Mismatches { device: path.to_owned(), left, found, taken }),
        None => {
            Ok(Taken { blocks: taken, accepted: accepted.sorted(), block_size: protection.interval_size() })
        }
    }
}

fn own_tuples<B: BlockDevice>(device: &B) -> Option<Protection> {
    device.info().protection.filter(|protection| protection.rule() == TupleRule::Own)
}

/// The offsets and lengths of transfers that cover a device from its start up to `end`.
fn parts(info: &DeviceInfo, end: u64) -> impl Iterator<Item = (u64, usize)> + use<> {
    let (end, step) = (end.min(info.capacity.get()), info.transfer_max);
    let starts = (0..end).step_by(step);
    starts.map(move |offset| (offset, usize::try_from(end - offset).map_or(step, |left| left.min(step))))
}

/// Whether the block has data, but was never written by us.
fn is_unwritten_block(mismatch: &Mismatch) -> bool {
    matches!(mismatch, Mismatch::UnwrittenNotZero { .. })
}

/// Whether the block has no tuple. Metadata of all ones is none: some controllers return it for
/// blocks that were never written.
fn has_no_tuple(mismatch: &Mismatch) -> bool {
    let is_escape =
        matches!(mismatch, Mismatch::Pi(error) if error.tag == Tag::Application && error.actual == 0xFFFF);
    is_escape || is_unwritten_block(mismatch)
}

/// Access to the blocks of a device, with errors that name the block.
struct DeviceBlocks<'a, B: BlockDevice> {
    queue: OneByOne<B::Queue>,
    protection: Protection,
    path: &'a Path,
}

impl<'a, B: BlockDevice> DeviceBlocks<'a, B> {
    fn open(device: &Arc<B>, protection: Protection, path: &'a Path) -> Result<Self, TakeOverError> {
        let queue = OneByOne::open(device);
        let queue = queue.map_err(|source| TakeOverError::SetUp { device: path.to_owned(), source })?;
        Ok(Self { queue, protection, path })
    }

    fn read(&mut self, offset: u64, len: usize) -> Result<BounceFolio, TakeOverError> {
        self.queue.read(offset, len).map_err(failed("read", self.path, offset))
    }

    fn write(&mut self, offset: u64, len: usize, folio: BounceFolio) -> Result<BounceFolio, TakeOverError> {
        self.queue.write(offset, len, folio).map_err(failed("write", self.path, offset))
    }

    /// Makes the tuple of block `lba`. The folio begins at byte `offset` of the device.
    fn give_tuple(&self, lba: u64, offset: u64, folio: &mut BounceFolio) {
        let (data, metadata) = folio.parts_mut();
        let interval = usize::try_from(lba - self.protection.interval(offset)).unwrap_or(usize::MAX);
        let start = interval * self.protection.interval_size();
        let part = start..start + self.protection.interval_size();
        self.protection.generate(offset, part, data, metadata).expect("the block lies in the folio");
    }

    fn mismatches(&self, offset: u64, len: usize, folio: &BounceFolio) -> Vec<Mismatch> {
        let (data, metadata) = folio.parts();
        let (profile, first) = (self.protection.profile(), self.protection.interval(offset));
        let metadata = &metadata[..self.protection.metadata_len(len)];
        mismatches(profile, first, &data[..len], metadata)
            .expect("a folio has room for the tuples of its data")
            .collect()
    }
}

fn failed(action: &'static str, path: &Path, offset: u64) -> impl FnOnce(io::Error) -> TakeOverError {
    let device = path.to_owned();
    move |source| TakeOverError::Transfer { action, device, offset, source }
}

#[cfg(test)]
mod tests {
    use integrity::{Guard, IntegrityProfile, PiType};

    use super::*;
    use crate::device::mem::MemDevice;

    const BLOCK: usize = 512;
    /// Two parts with the length of the first MiB.
    const CAPACITY: usize = 2 << 20;

    fn disk() -> MemDevice {
        let profile = IntegrityProfile::new(Guard::Crc64Nvme, PiType::Type1, 512).unwrap();
        MemDevice::new(Some(profile), CAPACITY)
    }

    fn write(disk: &MemDevice, lba: usize, value: u8) {
        disk.media().data[lba * BLOCK..][..BLOCK].fill(value);
    }

    fn taken(disk: &Arc<MemDevice>, force: bool) -> u64 {
        let taken = take_over(disk, Path::new("disk"), force).unwrap();
        assert_eq!(taken.accepted.mismatched_blocks, 0);
        taken.blocks
    }

    fn refused(disk: MemDevice) -> Option<u64> {
        match refuse_other_data(disk, Path::new("disk")) {
            Ok(_) => None,
            Err(TakeOverError::HasOtherData { found, .. }) => Some(found.lba()),
            Err(other) => panic!("{other}"),
        }
    }

    #[test]
    fn a_disk_with_data_and_no_tuple_is_refused() {
        let others = disk();
        write(&others, 7, 1);
        assert_eq!(refused(others), Some(7));
        assert_eq!(refused(disk()), None, "nothing was written");
        let ours = Arc::new(disk());
        write(&ours, 9, 1);
        assert_eq!(taken(&ours, false), 1);
        write(&ours, 7, 1);
        assert_eq!(refused(Arc::into_inner(ours).unwrap()), None, "one block of a disk of ours");
        let beyond = disk();
        write(&beyond, 3000, 1);
        assert_eq!(refused(beyond), None, "found when it is read");
    }

    #[test]
    fn blocks_without_tuples_are_taken_over_and_damaged_ones_only_by_force() {
        let disk = Arc::new(disk());
        write(&disk, 3, 1);
        write(&disk, 4000, 2);
        assert_eq!(taken(&disk, false), 2);
        assert_eq!(taken(&disk, false), 0, "all have tuples");
        write(&disk, 4000, 3);
        // as some controllers return blocks that were never written
        write(&disk, 5, 0xFF);
        disk.media().tuples[5 * 16..6 * 16].fill(0xFF);
        match take_over(&disk, Path::new("disk"), false) {
            Err(TakeOverError::Mismatches { left: 1, taken: 1, found, .. }) => assert_eq!(found.lba(), 4000),
            other => panic!("{other:?}"),
        }
        let forced = take_over(&disk, Path::new("disk"), true).unwrap();
        assert_eq!((forced.blocks, forced.accepted.mismatched_blocks), (1, 1));
        assert_eq!(forced.accepted.bad[0].range.first_lba, 4000);
        assert_eq!(taken(&disk, false), 0);
        let media = disk.media();
        let tuples = media.tuples.chunks_exact(16).filter(|tuple| !is_unwritten(tuple)).count();
        assert_eq!(tuples, 3, "blocks of zeros stay unwritten");
        assert_eq!(media.data[4000 * BLOCK], 3);
    }
}
