//! The medium as the code under test sees it: every operation is a place for a crash, and can fail.

use std::cell::{Cell, RefCell};
use std::io;
use std::ops::Range;
use std::rc::Rc;

use stableblk_integrity::sidecar::{File, Media, Reason, SECTOR_SIZE, Stamp};

use crate::medium::Medium;
use crate::promise::Promise;
use crate::setup::Mutant;

/// The effect that a failing operation has nevertheless.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Damage {
    /// Nothing: a write wrote nothing, and after a sync everything is as volatile as before.
    None,
    /// A write wrote its first sector; the data of the sync is given up.
    Part,
    /// A write wrote everything; a sync made all durable.
    All,
}

/// Operations that fail.
#[derive(Debug)]
struct Fault {
    /// By their number, from 0 on.
    operations: Range<u64>,
    damage: Damage,
    errno: i32,
}

/// A place for a crash: what is on the medium, and what the guest was promised then.
pub(crate) type Point = (Medium, Rc<Promise>);

#[derive(Debug)]
pub(crate) struct Recorder {
    medium: RefCell<Medium>,
    promise: RefCell<Rc<Promise>>,
    points: RefCell<Option<Vec<Point>>>,
    mutant: Mutant,
    fault: RefCell<Option<Fault>>,
    operations: Cell<u64>,
    /// A sync of the image has failed since the storage was opened, so that no later one counts.
    durability_lost: Cell<bool>,
    /// Operations on the sidecar that have failed since the storage was opened.
    sidecar_failures: Cell<u64>,
}

const EIO: i32 = 5;
const ENOMEM: i32 = 12;

impl Recorder {
    pub(crate) fn new(medium: Medium, promise: Rc<Promise>, mutant: Mutant) -> Self {
        Self {
            medium: RefCell::new(medium),
            promise: RefCell::new(promise),
            points: RefCell::new(None),
            mutant,
            fault: RefCell::new(None),
            operations: Cell::new(0),
            durability_lost: Cell::new(false),
            sidecar_failures: Cell::new(0),
        }
    }

    /// From now on each operation is a place for a crash.
    pub(crate) fn record(&self) {
        self.points.replace(Some(Vec::new()));
        self.point();
    }

    pub(crate) fn take_points(&self) -> Vec<Point> {
        self.points.take().unwrap_or_default()
    }

    /// Lets `count` of the following operations fail, after `after` of them have succeeded.
    pub(crate) fn fail(&self, after: u64, count: u64, damage: Damage, errno: i32) {
        let first = self.operations.get() + after;
        let operations = first..first.saturating_add(count);
        self.fault.replace(Some(Fault { operations, damage, errno }));
    }

    pub(crate) fn heal(&self) {
        self.fault.replace(None);
    }

    /// The storage is opened by another process, which remembers no failure.
    pub(crate) fn opened_again(&self) {
        self.durability_lost.set(false);
        self.sidecar_failures.set(0);
    }

    pub(crate) fn durability_lost(&self) -> bool {
        self.durability_lost.get()
    }

    /// Whether durability was lost, and nothing kept the host from writing that down.
    pub(crate) fn owes(&self) -> bool {
        self.durability_lost() && self.sidecar_failures.get() == 0
    }

    pub(crate) fn is_faulty(&self) -> bool {
        self.fault.borrow().is_some()
    }

    /// Operations so far, reads apart.
    pub(crate) fn operations(&self) -> u64 {
        self.operations.get()
    }

    pub(crate) fn medium(&self) -> Medium {
        self.medium.borrow().clone()
    }

    /// The medium as it is now, and the promise.
    pub(crate) fn moment(&self) -> Point {
        (self.medium(), self.promise.borrow().clone())
    }

    pub(crate) fn replace_medium(&self, medium: Medium) {
        self.medium.replace(medium);
    }

    pub(crate) fn promise(&self, promise: &Promise) {
        if **self.promise.borrow() != *promise {
            self.promise.replace(Rc::new(promise.clone()));
            self.point();
        }
    }

    /// Writes data to the image, as a guest's request does.
    pub(crate) fn write_data(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.write_to(File::Image, offset, data)
    }

    /// Syncs the image, for a guest's flush.
    pub(crate) fn sync_data(&self) -> io::Result<()> {
        self.sync_file(File::Image, None)
    }

    fn point(&self) {
        if let Some(points) = &mut *self.points.borrow_mut() {
            points.push((self.medium(), self.promise.borrow().clone()));
        }
    }

    fn failing(&self, file: File) -> Option<(Damage, io::Error)> {
        let number = self.operations.replace(self.operations.get() + 1);
        let fault = self.fault.borrow();
        let fault = fault.as_ref().filter(|fault| fault.operations.contains(&number))?;
        if file == File::Sidecar {
            self.sidecar_failures.set(self.sidecar_failures.get() + 1);
        }
        Some((fault.damage, io::Error::from_raw_os_error(fault.errno)))
    }

    fn write_to(&self, file: File, offset: u64, bytes: &[u8]) -> io::Result<()> {
        if !self.medium.borrow().is_writable(file, offset, bytes.len() as u64) {
            return Err(io::Error::from_raw_os_error(EIO));
        }
        let failing = self.failing(file);
        let written = match &failing {
            None | Some((Damage::All, _)) => bytes,
            Some((Damage::Part, _)) => &bytes[..bytes.len().min(512)],
            Some((Damage::None, _)) => &[],
        };
        self.medium.borrow_mut().write(file, offset, written);
        self.point();
        failing.map_or(Ok(()), |(_, error)| Err(error))
    }

    /// Makes `range` of a file durable, all of it without one.
    fn sync_file(&self, file: File, range: Option<Range<u64>>) -> io::Result<()> {
        let failing = self.failing(file);
        match &failing {
            None | Some((Damage::All, _)) => match range {
                Some(range) => self.medium.borrow_mut().sync_range(file, range),
                None => self.medium.borrow_mut().sync(file),
            },
            Some((Damage::Part, _)) => self.medium.borrow_mut().lose(file),
            Some((Damage::None, _)) => {}
        }
        self.point();
        let result = failing.map_or(Ok(()), |(_, error)| Err(error));
        if file == File::Sidecar {
            return result;
        }
        if self.durability_lost.replace(self.durability_lost() || result.is_err()) && result.is_ok() {
            return Err(io::Error::from_raw_os_error(EIO));
        }
        result
    }
}

impl Media for Recorder {
    fn read(&self, file: File, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        let medium = self.medium.borrow();
        medium.read(file, offset, buffer);
        if medium.is_readable(file, offset, buffer.len() as u64) {
            return Ok(());
        }
        match self.mutant {
            Mutant::UnreadableIsZero => {
                for (offset, sector) in
                    (offset..).step_by(SECTOR_SIZE).zip(buffer.chunks_exact_mut(SECTOR_SIZE))
                {
                    if !medium.is_readable(file, offset, SECTOR_SIZE as u64) {
                        sector.fill(0);
                    }
                }
                Ok(())
            }
            Mutant::UnreadableStops => Err(io::Error::from_raw_os_error(ENOMEM)),
            _ => Err(io::Error::from_raw_os_error(EIO)),
        }
    }

    fn next_data(&self, offset: u64) -> io::Result<Option<u64>> {
        Ok(self.medium.borrow().next_data(offset))
    }

    fn next_sidecar_data(&self, offset: u64) -> io::Result<Option<u64>> {
        Ok(self.medium.borrow().next_sidecar_data(offset))
    }

    fn stamp(&self) -> io::Result<Option<Stamp>> {
        Ok(self.medium.borrow().stamp)
    }

    fn set_stamp(&self, stamp: &Stamp) -> io::Result<()> {
        let failing = self.failing(File::Image);
        if !matches!(failing, Some((Damage::None, _))) {
            self.medium.borrow_mut().stamp = Some(*stamp);
        }
        self.point();
        failing.map_or(Ok(()), |(_, error)| Err(error))
    }

    fn write(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        if self.mutant == Mutant::PagesInPart {
            let end = bytes.iter().rposition(|&byte| byte != 0).unwrap_or(0) + 1;
            return self.write_to(File::Sidecar, offset, &bytes[..end.next_multiple_of(SECTOR_SIZE)]);
        }
        self.write_to(File::Sidecar, offset, bytes)
    }

    fn write_durably(&self, offset: u64, parts: &[&[u8]], reason: Reason) -> io::Result<()> {
        let mut end = offset;
        let mut ends = Vec::new();
        for part in parts {
            self.write(end, part)?;
            end += part.len() as u64;
            ends.push(end);
        }
        match self.mutant {
            Mutant::WithoutSync(File::Sidecar, of) if of == reason => Ok(()),
            Mutant::LastPartVolatile => {
                let end = ends.iter().rev().nth(1).copied().unwrap_or(end);
                self.sync_file(File::Sidecar, Some(offset..end))
            }
            _ => self.sync_file(File::Sidecar, Some(offset..end)),
        }
    }

    fn zero(&self, offset: u64, len: u64) -> io::Result<()> {
        let failing = self.failing(File::Sidecar);
        if !matches!(failing, Some((Damage::None, _))) {
            self.medium.borrow_mut().zero(File::Sidecar, offset, len);
        }
        self.point();
        failing.map_or(Ok(()), |(_, error)| Err(error))
    }

    fn write_back(&self, _: Range<u64>) -> io::Result<()> {
        // a power cut may leave any write before its sync anyway
        let Some((damage, error)) = self.failing(File::Sidecar) else {
            return Ok(());
        };
        if damage == Damage::Part {
            self.medium.borrow_mut().lose(File::Sidecar);
            self.point();
        }
        Err(error)
    }

    fn forget_lost(&self) -> io::Result<()> {
        if self.mutant != Mutant::LostIsSeen {
            self.medium.borrow_mut().drop_cache(File::Sidecar);
        }
        Ok(())
    }

    fn sync(&self, file: File, reason: Reason) -> io::Result<()> {
        if self.mutant == Mutant::WithoutSync(file, reason) {
            return Ok(());
        }
        self.sync_file(file, None)?;
        if reason == Reason::RecoveryLeftovers {
            self.medium.borrow_mut().drop_cache(file);
            self.point();
        }
        Ok(())
    }
}
