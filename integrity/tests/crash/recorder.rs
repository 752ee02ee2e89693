//! The medium as the code under test sees it: every operation is a place for a crash, and can fail.

use std::cell::{Cell, RefCell};
use std::io;
use std::ops::Range;
use std::rc::Rc;

use stableblk_integrity::sidecar::{File, Media, Reason};

use crate::medium::Medium;
use crate::promise::Promise;

/// What a failing operation has done nevertheless.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Damage {
    /// Nothing: a write wrote nothing, and after a sync everything is as volatile as before.
    None,
    /// A write wrote its first sector; what a sync was to write is given up.
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
    /// A sync that is left out.
    ignored: Option<(File, Reason)>,
    fault: RefCell<Option<Fault>>,
    operations: Cell<u64>,
}

impl Recorder {
    pub(crate) fn new(medium: Medium, promise: Rc<Promise>, ignored: Option<(File, Reason)>) -> Self {
        Self {
            medium: RefCell::new(medium),
            promise: RefCell::new(promise),
            points: RefCell::new(None),
            ignored,
            fault: RefCell::new(None),
            operations: Cell::new(0),
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

    /// Of the operations that come, lets `count` fail, `after` so many.
    pub(crate) fn fail(&self, after: u64, count: u64, damage: Damage, errno: i32) {
        let first = self.operations.get() + after;
        let operations = first..first.saturating_add(count);
        self.fault.replace(Some(Fault { operations, damage, errno }));
    }

    pub(crate) fn heal(&self) {
        self.fault.replace(None);
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
        self.sync_file(File::Image)
    }

    fn point(&self) {
        if let Some(points) = &mut *self.points.borrow_mut() {
            points.push((self.medium(), self.promise.borrow().clone()));
        }
    }

    fn failing(&self) -> Option<(Damage, io::Error)> {
        let number = self.operations.replace(self.operations.get() + 1);
        let fault = self.fault.borrow();
        let fault = fault.as_ref().filter(|fault| fault.operations.contains(&number))?;
        Some((fault.damage, io::Error::from_raw_os_error(fault.errno)))
    }

    fn write_to(&self, file: File, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let failing = self.failing();
        let written = match &failing {
            None | Some((Damage::All, _)) => bytes,
            Some((Damage::Part, _)) => &bytes[..bytes.len().min(512)],
            Some((Damage::None, _)) => &[],
        };
        self.medium.borrow_mut().write(file, offset, written);
        self.point();
        failing.map_or(Ok(()), |(_, error)| Err(error))
    }

    fn sync_file(&self, file: File) -> io::Result<()> {
        let failing = self.failing();
        match &failing {
            None | Some((Damage::All, _)) => self.medium.borrow_mut().sync(file),
            // data that the image's file system gives up is gone for everyone; the guest was told
            Some((Damage::Part, _)) if file == File::Sidecar => self.medium.borrow_mut().lose(file),
            Some(_) => {}
        }
        self.point();
        failing.map_or(Ok(()), |(_, error)| Err(error))
    }
}

impl Media for Recorder {
    fn read(&self, file: File, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        self.medium.borrow().read(file, offset, buffer);
        Ok(())
    }

    fn write(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.write_to(File::Sidecar, offset, bytes)
    }

    fn zero(&self, offset: u64, len: u64) -> io::Result<()> {
        let failing = self.failing();
        if !matches!(failing, Some((Damage::None, _))) {
            self.medium.borrow_mut().zero(File::Sidecar, offset, len);
        }
        self.point();
        failing.map_or(Ok(()), |(_, error)| Err(error))
    }

    fn sync(&self, file: File, reason: Reason) -> io::Result<()> {
        if self.ignored == Some((file, reason)) {
            return Ok(());
        }
        self.sync_file(file)
    }
}
