//! Image and sidecar in memory, of which only what was written takes room.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::ops::Range;

use stableblk_integrity::sidecar::{File, Media, PAGE_SIZE, Reason, SECTOR_SIZE};

/// No more is to be read or written at once.
const TRANSFER_MAX: usize = 1 << 20;
/// No session of ours needs more operations, however much its files lie.
const OPERATIONS_MAX: u64 = 1 << 20;

#[derive(Debug, Clone, Default)]
struct Sparse {
    pages: BTreeMap<u64, Box<[u8; PAGE_SIZE]>>,
    /// Sectors that cannot be read until they are written.
    unreadable: BTreeSet<u64>,
}

/// Both files. They have any length that is asked for.
#[derive(Debug, Clone, Default)]
pub(super) struct Medium {
    image: RefCell<Sparse>,
    sidecar: RefCell<Sparse>,
    operations: Cell<u64>,
}

impl Sparse {
    fn read(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        if self.unreadable.range(sectors(offset, buffer.len())).next().is_some() {
            return Err(io::Error::from_raw_os_error(5));
        }
        for (page, within, range) in parts(offset, buffer.len()) {
            match self.pages.get(&page) {
                Some(bytes) => {
                    let len = range.len();
                    buffer[range].copy_from_slice(&bytes[within..within + len]);
                }
                None => buffer[range].fill(0),
            }
        }
        Ok(())
    }

    fn write(&mut self, offset: u64, bytes: &[u8]) {
        for sector in sectors(offset, bytes.len()) {
            self.unreadable.remove(&sector);
        }
        for (page, within, range) in parts(offset, bytes.len()) {
            let len = range.len();
            let contents = self.pages.entry(page).or_insert_with(|| Box::new([0; PAGE_SIZE]));
            contents[within..within + len].copy_from_slice(&bytes[range]);
        }
    }
}

impl Medium {
    pub(super) fn write_image(&self, offset: u64, bytes: &[u8]) {
        self.image.borrow_mut().write(offset, bytes);
    }

    /// The bytes at `offset`, whatever the medium says of them.
    pub(super) fn peek<const LEN: usize>(&self, file: File, offset: u64) -> [u8; LEN] {
        let mut bytes = [0; LEN];
        let _ = self.file(file).borrow().read(offset, &mut bytes);
        bytes
    }

    pub(super) fn make_unreadable(&self, file: File, offset: u64) {
        self.file(file).borrow_mut().unreadable.insert(offset / SECTOR_SIZE as u64);
    }

    pub(super) fn is_readable(&self, file: File) -> bool {
        self.file(file).borrow().unreadable.is_empty()
    }

    /// As it is, with nothing done to it yet.
    pub(super) fn copy(&self) -> Self {
        Self { operations: Cell::new(0), ..self.clone() }
    }

    fn file(&self, file: File) -> &RefCell<Sparse> {
        if file == File::Image { &self.image } else { &self.sidecar }
    }

    fn count(&self, len: usize) {
        assert!(len <= TRANSFER_MAX, "{len} bytes at once");
        self.operations.set(self.operations.get() + 1);
        assert!(self.operations.get() < OPERATIONS_MAX, "it does not end");
    }
}

impl Media for Medium {
    fn read(&self, file: File, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        self.count(buffer.len());
        self.file(file).borrow().read(offset, buffer)
    }

    fn write(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.count(bytes.len());
        self.sidecar.borrow_mut().write(offset, bytes);
        Ok(())
    }

    fn zero(&self, offset: u64, len: u64) -> io::Result<()> {
        // a hole is one call, whatever its length
        self.count(0);
        for at in (offset..offset + len).step_by(PAGE_SIZE) {
            let len = usize::try_from(offset + len - at).map_or(PAGE_SIZE, |left| left.min(PAGE_SIZE));
            self.sidecar.borrow_mut().write(at, &[0; PAGE_SIZE][..len]);
        }
        Ok(())
    }

    fn sync(&self, _: File, _: Reason) -> io::Result<()> {
        self.count(0);
        Ok(())
    }
}

/// The sectors in which `len` bytes, not none, at `offset` lie.
fn sectors(offset: u64, len: usize) -> Range<u64> {
    offset / SECTOR_SIZE as u64..(offset + len as u64).div_ceil(SECTOR_SIZE as u64)
}

/// The parts of `len` bytes at `offset` that lie in a page each: the page, where in it, and which
/// of the bytes.
fn parts(offset: u64, len: usize) -> impl Iterator<Item = (u64, usize, Range<usize>)> {
    let mut done = 0;
    std::iter::from_fn(move || {
        let at = offset + done as u64;
        let within = usize::try_from(at % PAGE_SIZE as u64).expect("an offset in a page");
        let part = done..done + (PAGE_SIZE - within).min(len - done);
        done = part.end;
        (!part.is_empty()).then_some((at / PAGE_SIZE as u64, within, part))
    })
}
