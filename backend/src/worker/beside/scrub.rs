//! The scrub: verifies the whole disk beside its requests.
//!
//! It reads a chunk at a time, holding its range, so that a write of the same blocks comes before
//! or after it and never shows a mismatch that the medium does not have. Between two chunks it
//! rests. How far it has come is in the damage notes of the device: a sidecar keeps them, and the
//! next process continues.

use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};
use std::{io, thread};

use integrity::sidecar::{FailedCheck, Finding, FoundBy, ScrubRecord, ScrubState};

use super::own_queue::OwnQueue;
use super::pace::{Pace, RATE_DEFAULT};
use super::place::Task;
use crate::device::bounce::BounceFolio;
use crate::device::operation::TransferDirection;
use crate::device::{BlockDevice, Damage, PiFailure, Protection, seconds_now};
use crate::worker::damage::refused_blocks;
use crate::worker::disk::Disk;
use crate::worker::range_lock::RangeAccess;

/// Bytes that are read at once: few, since a write of one of them waits meanwhile.
const CHUNK: usize = 128 << 10;

/// The time after which the record of the progress is to be kept again.
const KEEP_AFTER: Duration = Duration::from_secs(2);

/// The time after which a disk that another host has is looked at again.
const AWAY: Duration = Duration::from_secs(1);

/// Blocks in a row that cannot be read, after which the scrub gives up: the device is gone.
const UNREADABLE_MAX: u64 = 1 << 14;

/// The errors of a medium, and of the file system over it, that are of the blocks alone.
const MEDIUM_ERRORS: [i32; 5] = [libc::EIO, libc::ENODATA, libc::EBADMSG, libc::EILSEQ, libc::EUCLEAN];

/// A scrub, for its status.
#[derive(Debug, Clone, Copy)]
pub struct ScrubProgress {
    /// How far it has come, and what it has found.
    pub record: ScrubRecord,
    /// Whether it has a thread, which may wait.
    pub is_active: bool,
    /// The most bytes that it reads a second.
    pub rate: u64,
    /// The time that it still takes, as far as that is known.
    pub left: Option<Duration>,
}

/// Why a scrub cannot be started or stopped.
#[derive(Debug, thiserror::Error)]
pub enum ScrubError {
    /// There is nothing to verify.
    #[error("the disk has no protection information to verify")]
    Unprotected,
    /// The disk is not held.
    #[error("the disk is frozen, or another host has it")]
    NotHeld,
    /// There is none.
    #[error("no scrub is under way")]
    None,
    /// The system has refused a thread.
    #[error("cannot start a thread for it")]
    Thread(#[source] io::Error),
}

fn damage<B: BlockDevice>(disk: &Disk<B>) -> Result<Damage, ScrubError> {
    if disk.device.info().protection.is_none() {
        return Err(ScrubError::Unprotected);
    }
    disk.device.damage_if_known().ok_or(ScrubError::NotHeld)
}

/// Starts a scrub of at most `rate` bytes a second, or continues one that was stopped, unless it is
/// to begin at the start of the disk (`from_start`). One that is under way gets the new rate.
pub fn start<B: BlockDevice>(
    disk: &Arc<Disk<B>>,
    rate: Option<u64>,
    from_start: bool,
) -> Result<(), ScrubError> {
    damage(disk)?.change_scrub(true, |record| {
        if from_start || record.state == ScrubState::Done {
            (record.position, record.found, record.begun) = (0, 0, seconds_now());
        }
        (record.state, record.rate) = (ScrubState::Running, rate.unwrap_or(0));
    });
    run_if_wanted(disk)
}

/// Continues a scrub that the end of an earlier process has interrupted, if there is one.
pub fn resume<B: BlockDevice>(disk: &Arc<Disk<B>>) -> Result<(), ScrubError> {
    match damage(disk) {
        Ok(damage) if damage.notes().scrub.state == ScrubState::Running => {
            damage.change_scrub(false, |record| {
                if record.position >= disk.device.info().capacity.get() {
                    record.position = 0;
                }
            });
            tracing::info!("a scrub continues at byte {}", damage.notes().scrub.position);
            run_if_wanted(disk)
        }
        _ => Ok(()),
    }
}

fn run_if_wanted<B: BlockDevice>(disk: &Arc<Disk<B>>) -> Result<(), ScrubError> {
    if !disk.beside.begin_scrub() {
        disk.beside.wake();
        return Ok(());
    }
    let scrubbed = disk.clone();
    let spawned = thread::Builder::new().name("scrub".to_owned()).spawn(move || run(&scrubbed));
    spawned.map(drop).map_err(|error| {
        disk.beside.end_scrub(|| false);
        ScrubError::Thread(error)
    })
}

/// Stops the scrub. It continues there when it is started again.
pub fn stop<B: BlockDevice>(disk: &Disk<B>) -> Result<(), ScrubError> {
    let was_running = damage(disk)?.change_scrub(true, |record| {
        let was_running = record.state == ScrubState::Running;
        if was_running {
            record.state = ScrubState::Stopped;
        }
        was_running
    });
    disk.beside.wake();
    if was_running { Ok(()) } else { Err(ScrubError::None) }
}

/// The scrub that is under way, or the last one; `None` without PI, or while that is not known.
pub fn progress<B: BlockDevice>(disk: &Disk<B>) -> Option<ScrubProgress> {
    let record = damage(disk).ok()?.notes().scrub;
    let running = disk.beside.progress().filter(|_| record.state == ScrubState::Running);
    let left = disk.device.info().capacity.get().saturating_sub(record.position);
    Some(ScrubProgress {
        record,
        is_active: running.is_some(),
        rate: rate_of(&record).unwrap_or(RATE_DEFAULT),
        left: running.and_then(|running| running.time_for(left)),
    })
}

fn rate_of(record: &ScrubRecord) -> Option<u64> {
    (record.rate > 0).then_some(record.rate)
}

/// The reason why a run of chunks has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Pause {
    /// The device is needed alone.
    Closed,
    /// Another host has the disk.
    Away,
    /// The scrub is done, or was stopped.
    Over,
}

/// The thread of the scrub.
fn run<B: BlockDevice>(disk: &Disk<B>) {
    loop {
        let pause = verify_chunks(disk).unwrap_or_else(|error| {
            tracing::error!("the scrub stops: {error}");
            if let Ok(damage) = damage(disk) {
                damage.change_scrub(true, |record| record.state = ScrubState::Stopped);
            }
            Pause::Over
        });
        let is_wanted = || damage(disk).is_ok_and(|damage| damage.notes().scrub.state == ScrubState::Running);
        match pause {
            Pause::Over if disk.beside.end_scrub(is_wanted) => return,
            Pause::Over => {}
            Pause::Closed | Pause::Away => disk.beside.rest(AWAY, || false),
        }
    }
}

/// Verifies one chunk after the other until there is a reason to pause.
fn verify_chunks<B: BlockDevice>(disk: &Disk<B>) -> io::Result<Pause> {
    let Some(_inside) = disk.beside.enter() else {
        return Ok(Pause::Closed);
    };
    let Some(mut queue) = OwnQueue::open(disk, Task::Scrub)? else {
        return Ok(Pause::Away);
    };
    let damage = queue.info().damage.clone();
    let (mut pace, mut kept, mut unreadable) = (Pace::begin(), Instant::now(), 0);
    loop {
        if disk.beside.is_closed() {
            return Ok(Pause::Closed);
        }
        let record = damage.notes().scrub;
        if record.state != ScrubState::Running {
            return Ok(Pause::Over);
        }
        let Some(chunk) = next_chunk(disk, record.position)? else {
            finish(&damage, disk);
            return Ok(Pause::Over);
        };
        let begun = Instant::now();
        let Some(found) = verify_chunk(&mut queue, &chunk)? else {
            return Ok(Pause::Closed);
        };
        let len = chunk.end - chunk.start;
        unreadable = if found.unreadable < found.blocks { 0 } else { unreadable + found.unreadable };
        if unreadable >= UNREADABLE_MAX {
            return Err(io::Error::other("the storage cannot be read any more"));
        }
        let keeps = kept.elapsed() >= KEEP_AFTER;
        if keeps {
            kept = Instant::now();
        }
        damage.change_scrub(keeps, |now| {
            // it may have begun again at the start meanwhile
            if now.position == record.position {
                (now.position, now.found) = (chunk.end, now.found.saturating_add(found.bad));
            }
        });
        disk.beside.advance_scrub(chunk.end - record.position);
        pace.read(len, begun.elapsed(), rate_of(&record));
        while !pace.rest().is_zero() && !disk.beside.is_closed() {
            let is_changed = || {
                let now = damage.notes().scrub;
                (now.state, now.rate) != (record.state, record.rate)
            };
            if is_changed() {
                // at once, whatever the old rate was
                pace = Pace::begin();
                break;
            }
            disk.beside.rest(pace.rest(), is_changed);
        }
    }
}

/// The next bytes to verify; `None`: there are none.
fn next_chunk<B: BlockDevice>(disk: &Disk<B>, position: u64) -> io::Result<Option<Range<u64>>> {
    let (info, chunk) = (disk.device.info(), CHUNK as u64);
    let capacity = info.capacity.get();
    if position >= capacity {
        return Ok(None);
    }
    let next = disk.device.next_data(position)?.filter(|next| *next < capacity);
    let next = next.map(|next| next / info.granule as u64 * info.granule as u64);
    let len = chunk.min(info.transfer_max as u64).max(info.granule as u64);
    Ok(next.map(|start| start..(start + len).min(capacity)))
}

/// All of the disk was verified.
fn finish<B: BlockDevice>(damage: &Damage, disk: &Disk<B>) {
    let bytes = disk.device.info().capacity.get();
    damage.change_scrub(true, |record| {
        let found = record.found;
        tracing::info!("the scrub has verified {bytes} bytes and found {found} blocks that do not match");
        *record = ScrubRecord {
            state: ScrubState::Done,
            position: 0,
            found: 0,
            last_done: seconds_now(),
            last_found: found,
            ..*record
        };
    });
}

/// The result of a chunk, in blocks.
#[derive(Debug, Default, Clone, Copy)]
struct Found {
    blocks: u64,
    /// Those that do not match or cannot be read.
    bad: u64,
    unreadable: u64,
}

/// Verifies `chunk`, and brings the damage list up to date while its range is held. `None`: the
/// device is needed alone.
fn verify_chunk<B: BlockDevice>(
    queue: &mut OwnQueue<'_, B>,
    chunk: &Range<u64>,
) -> io::Result<Option<Found>> {
    let Some(held) = queue.hold(chunk, RangeAccess::Shared)? else {
        return Ok(None);
    };
    let findings = read_and_verify(queue, chunk);
    let found = findings.map(|findings| {
        let (protection, damage) = (queue.info().protection, &queue.info().damage);
        let Some(protection) = protection else { return Found::default() };
        let lbas = protection.interval(chunk.start)..protection.interval(chunk.end);
        let is_unreadable = |finding: &&Finding| finding.check == FailedCheck::Unreadable;
        let found = Found {
            blocks: lbas.end - lbas.start,
            bad: findings.len() as u64,
            unreadable: findings.iter().filter(is_unreadable).count() as u64,
        };
        let healed = damage.settle(&lbas, &findings);
        if healed > 0 {
            let (first, last) = (lbas.start, lbas.end - 1);
            tracing::info!(
                "{healed} blocks of LBA {first} to {last} match again: they leave the damage list"
            );
        }
        damage.add(findings, FoundBy::Scrub);
        found
    });
    queue.release(held);
    found.map(Some)
}

/// The blocks of `chunk` that do not match or cannot be read.
fn read_and_verify<B: BlockDevice>(
    queue: &mut OwnQueue<'_, B>,
    chunk: &Range<u64>,
) -> io::Result<Vec<Finding>> {
    let Some(protection) = queue.info().protection else {
        return Ok(Vec::new());
    };
    let len = usize::try_from(chunk.end - chunk.start).map_err(io::Error::other)?;
    match read_part(queue, &protection, chunk.start, len)? {
        Part::Known(findings) => Ok(findings),
        Part::Failed(_) => {
            let (mut all, step) = (Vec::new(), queue.info().granule);
            for offset in chunk.clone().step_by(step) {
                match read_part(queue, &protection, offset, step)? {
                    Part::Known(findings) => all.extend(findings),
                    Part::Failed(error) => all.extend(failed_blocks(&protection, offset, step, &error)?),
                }
            }
            Ok(all)
        }
    }
}

/// A part that was read.
enum Part {
    /// The blocks that do not match.
    Known(Vec<Finding>),
    /// It could not be read, or the device does not say which of its blocks is wrong.
    Failed(io::Error),
}

fn read_part<B: BlockDevice>(
    queue: &mut OwnQueue<'_, B>,
    protection: &Protection,
    offset: u64,
    len: usize,
) -> io::Result<Part> {
    let folio = queue.folio(len)?;
    let (transfer, result) = queue.transfer(TransferDirection::Read, offset, len, folio)?;
    let findings = match &result {
        Ok(()) => transfer.folio().map(|folio| findings(protection, offset, len, folio)).unwrap_or_default(),
        Err(error) => refused_blocks(protection, &transfer, error),
    };
    queue.take_back(transfer);
    Ok(match result {
        Err(error) if findings.is_empty() => Part::Failed(error),
        _ => Part::Known(findings),
    })
}

fn findings(protection: &Protection, offset: u64, len: usize, folio: &BounceFolio) -> Vec<Finding> {
    let (data, metadata) = folio.parts();
    protection.findings(offset, 0..len, data, metadata)
}

/// The blocks of a granule that could not be read. Fails with an error that says nothing of the
/// medium.
fn failed_blocks(
    protection: &Protection,
    offset: u64,
    len: usize,
    error: &io::Error,
) -> io::Result<Vec<Finding>> {
    let check = match (PiFailure::in_error(error), error.raw_os_error()) {
        (Some(_), _) => FailedCheck::Device,
        (None, Some(errno)) if MEDIUM_ERRORS.contains(&errno) => FailedCheck::Unreadable,
        _ => return Err(io::Error::new(error.kind(), error.to_string())),
    };
    let lbas = protection.interval(offset)..protection.interval(offset + len as u64);
    Ok(lbas.map(|lba| Finding { lba, check, tag: None }).collect())
}
