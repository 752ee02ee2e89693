//! Accepting blocks of a disk that is being served: the data present is written again, with new
//! tuples, while no request has the range.

use std::io;
use std::ops::Range;

use thiserror::Error;

use super::own_queue::OwnQueue;
use super::place::{Beside, Task};
use crate::device::operation::{Transfer, TransferDirection};
use crate::device::{BlockDevice, PiFailure, Protection};
use crate::worker::disk::Disk;
use crate::worker::range_lock::RangeAccess;

/// The blocks that one request may accept: other jobs wait meanwhile.
pub const ACCEPTED_MAX: u64 = 1 << 16;

/// Why blocks are not accepted.
#[derive(Debug, Error)]
pub enum AcceptError {
    /// There are no tuples.
    #[error("the disk has no protection information")]
    Unprotected,
    /// It is not to be written.
    #[error("the disk is served read-only")]
    ReadOnly,
    /// The disk does not have them.
    #[error("LBA {last} is behind the last block of the disk, LBA {end}", end = blocks - 1)]
    Outside {
        /// The last block that was named.
        last: u64,
        /// The number of blocks of the disk.
        blocks: u64,
    },
    /// More than one request may name.
    #[error("{0} blocks are more than the {ACCEPTED_MAX} that one request may accept: name fewer")]
    TooMany(u64),
    /// The device is needed for something else.
    #[error("the disk is frozen, grows, or is with another host: ask again later")]
    Away,
    /// A block could not be read or written.
    #[error("cannot accept LBA {lba}")]
    Io {
        /// The block, or the first of its granule.
        lba: u64,
        /// The system's error.
        #[source]
        source: io::Error,
    },
    /// The queue cannot be used.
    #[error(transparent)]
    Queue(#[from] io::Error),
}

/// Accepts the blocks of `lbas`, not empty, that do not match. Returns those.
pub fn accept<B: BlockDevice>(disk: &Disk<B>, lbas: &Range<u64>) -> Result<Vec<u64>, AcceptError> {
    let info = disk.device.info();
    let protection = info.protection.ok_or(AcceptError::Unprotected)?;
    let blocks = protection.interval(info.capacity.get());
    if disk.limits.read_only {
        return Err(AcceptError::ReadOnly);
    }
    if lbas.end > blocks {
        return Err(AcceptError::Outside { last: lbas.end - 1, blocks });
    }
    if lbas.end - lbas.start > ACCEPTED_MAX {
        return Err(AcceptError::TooMany(lbas.end - lbas.start));
    }
    let _inside = disk.beside.enter().ok_or(AcceptError::Away)?;
    let mut queue = OwnQueue::open(disk, Task::Accept)?.ok_or(AcceptError::Away)?;
    let accepted = accept_each(&mut queue, &disk.beside, &protection, lbas);
    // also those before one that failed
    queue.flush()?;
    accepted
}

fn accept_each<B: BlockDevice>(
    queue: &mut OwnQueue<'_, B>,
    beside: &Beside,
    protection: &Protection,
    lbas: &Range<u64>,
) -> Result<Vec<u64>, AcceptError> {
    let (interval, granule) = (protection.interval_size() as u64, queue.info().granule);
    let bytes = lbas.start * interval..lbas.end * interval;
    let mut all = Vec::new();
    let mut offset = bytes.start / granule as u64 * granule as u64;
    while offset < bytes.end {
        if beside.is_closed() {
            return Err(AcceptError::Away);
        }
        let range = offset..offset + granule as u64;
        let held = queue.hold(&range, RangeAccess::Exclusive)?.ok_or(AcceptError::Away)?;
        let accepted = accept_granule(queue, protection, &range, lbas);
        queue.release(held);
        let failed = |source| AcceptError::Io { lba: protection.interval(offset), source };
        all.extend(accepted.map_err(failed)?);
        offset = range.end;
    }
    Ok(all)
}

/// Accepts the blocks of one granule, whose range is held.
fn accept_granule<B: BlockDevice>(
    queue: &mut OwnQueue<'_, B>,
    protection: &Protection,
    range: &Range<u64>,
    lbas: &Range<u64>,
) -> io::Result<Vec<u64>> {
    let len = queue.info().granule;
    let folio = queue.folio(len)?;
    let (mut transfer, result) = queue.transfer(TransferDirection::Read, range.start, len, folio)?;
    let found = match result {
        Err(error) if !matches!(PiFailure::in_error(&error), Some(PiFailure::Read { .. })) => Err(error),
        // the data is there, and does not match
        _ => make_tuples(protection, &mut transfer, lbas),
    };
    let written = match &found {
        Ok(found) if !found.is_empty() => {
            transfer.turn_into_write();
            let (back, written) = queue.submit(transfer)?;
            transfer = back;
            written
        }
        _ => Ok(()),
    };
    queue.take_back(transfer);
    let found = found?;
    written?;
    let touched = protection.interval(range.start)..protection.interval(range.end);
    queue.info().damage.clear(&(touched.start.max(lbas.start)..touched.end.min(lbas.end)));
    Ok(found)
}

/// Makes new tuples for those blocks of a transfer that are in `lbas` and do not match. Other
/// blocks keep theirs, right or wrong.
fn make_tuples(protection: &Protection, transfer: &mut Transfer, lbas: &Range<u64>) -> io::Result<Vec<u64>> {
    let (offset, len) = (transfer.offset(), transfer.len());
    let (data, metadata) = transfer.parts_mut().ok_or(io::ErrorKind::InvalidInput)?;
    let findings = protection.findings(offset, 0..len, data, metadata);
    let first = protection.interval(offset);
    let mut accepted = Vec::new();
    for finding in findings.into_iter().filter(|finding| lbas.contains(&finding.lba)) {
        let step = protection.interval_size();
        let at = usize::try_from(finding.lba - first).map_err(io::Error::other)? * step;
        protection.generate(offset, at..at + step, data, metadata).map_err(io::Error::other)?;
        accepted.push(finding.lba);
    }
    Ok(accepted)
}
