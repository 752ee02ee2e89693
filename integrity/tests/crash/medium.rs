//! Two files on a medium with a volatile cache, and what a power cut leaves of them.

use std::collections::BTreeSet;
use std::ops::Range;

use stableblk_integrity::sidecar::{File, SECTOR_SIZE, Stamp};

use crate::sectors::{Contents, Sector};

/// A sector that may be one of several things after a power cut.
#[derive(Debug, Clone)]
pub(crate) struct Choice {
    pub(crate) file: File,
    pub(crate) at: u64,
    /// The contents at the last sync, and those of each write since that changed them.
    pub(crate) options: Vec<Sector>,
}

/// One file: reads see `current`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub(crate) struct Cached {
    pub(crate) durable: Contents,
    pub(crate) current: Contents,
    /// Writes since the last sync, in order, without those that a sector had already.
    pending: Vec<(u64, Sector)>,
    /// Sectors that cannot be read until they are written.
    unreadable: BTreeSet<u64>,
}

/// Sectors of a page of the page cache.
const SECTORS_PER_PAGE: u64 = 8;

impl Cached {
    fn at_rest(durable: Contents) -> Self {
        Self { current: durable.clone(), durable, ..Self::default() }
    }

    pub(crate) fn write(&mut self, at: u64, sector: Sector) {
        self.unreadable.remove(&at);
        let is_volatile = self.pending.iter().any(|entry| entry.0 == at);
        if self.current.get(at) == sector && (is_volatile || self.durable.get(at) == sector) {
            return;
        }
        self.current.set(at, sector);
        if !self.pending.contains(&(at, sector)) {
            self.pending.push((at, sector));
        }
    }

    fn sync(&mut self) {
        for (at, _) in self.pending.drain(..) {
            self.durable.set(at, self.current.get(at));
        }
    }

    /// Makes the sectors at `places` durable, and no others.
    fn sync_range(&mut self, places: Range<u64>) {
        for (at, _) in self.pending.extract_if(.., |(at, _)| places.contains(at)) {
            self.durable.set(at, self.current.get(at));
        }
    }

    /// Whether there is a sector among `places` that cannot be read.
    fn is_unreadable(&self, places: Range<u64>) -> bool {
        self.unreadable.range(places).next().is_some()
    }

    fn choices(&self, file: File) -> impl Iterator<Item = Choice> {
        let mut writes = self.pending.clone();
        writes.sort_by_key(|entry| entry.0);
        let choices: Vec<_> = writes
            .chunk_by(|one, other| one.0 == other.0)
            .map(|writes| {
                let (at, durable) = (writes[0].0, self.durable.get(writes[0].0));
                let new = writes.iter().map(|entry| entry.1).filter(|&sector| sector != durable);
                Choice { file, at, options: std::iter::once(durable).chain(new).collect() }
            })
            .filter(|choice| choice.options.len() > 1)
            .collect();
        choices.into_iter()
    }
}

/// Image and sidecar.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub(crate) struct Medium {
    pub(crate) image: Cached,
    pub(crate) sidecar: Cached,
    /// The stamp of the image: an attribute, which is durable or not there.
    pub(crate) stamp: Option<Stamp>,
}

impl Medium {
    pub(crate) fn file(&self, file: File) -> &Cached {
        match file {
            File::Image => &self.image,
            File::Sidecar => &self.sidecar,
        }
    }

    pub(crate) fn file_mut(&mut self, file: File) -> &mut Cached {
        match file {
            File::Image => &mut self.image,
            File::Sidecar => &mut self.sidecar,
        }
    }

    pub(crate) fn read(&self, file: File, offset: u64, buffer: &mut [u8]) {
        self.file(file).current.read(sector_at(offset), buffer);
    }

    /// Whether `len` bytes can be read. [`Self::read`] sees unreadable bytes nevertheless.
    pub(crate) fn is_readable(&self, file: File, offset: u64, len: u64) -> bool {
        !self.file(file).is_unreadable(sector_at(offset)..sector_at(offset + len))
    }

    /// Whether `len` bytes can be written: the page cache reads a page of which only a part is
    /// written.
    pub(crate) fn is_writable(&self, file: File, offset: u64, len: u64) -> bool {
        let (first, end) = (sector_at(offset), sector_at(offset + len));
        let page = |at: u64| at / SECTORS_PER_PAGE * SECTORS_PER_PAGE;
        let partial = [(first, page(first)), (end, page(end))].into_iter().filter(|(at, page)| at != page);
        let cached = self.file(file);
        partial.into_iter().all(|(_, page)| !cached.is_unreadable(page..page + SECTORS_PER_PAGE))
    }

    /// From now on a sector cannot be read.
    pub(crate) fn make_unreadable(&mut self, file: File, at: u64) {
        self.file_mut(file).unreadable.insert(at);
    }

    /// The first byte of the image at or after `offset` in a sector that is not zero.
    pub(crate) fn next_data(&self, offset: u64) -> Option<u64> {
        let at = self.image.current.places(sector_at(offset)..u64::MAX).next()?;
        Some(at * SECTOR_SIZE as u64)
    }

    /// The first byte of the sidecar at or after `offset` in a sector that is not zero, or cannot
    /// be read.
    pub(crate) fn next_sidecar_data(&self, offset: u64) -> Option<u64> {
        let places = sector_at(offset)..u64::MAX;
        let unreadable = self.sidecar.unreadable.range(places.clone()).next().copied();
        let at = self.sidecar.current.places(places).chain(unreadable).min()?;
        Some(at * SECTOR_SIZE as u64)
    }

    pub(crate) fn write(&mut self, file: File, offset: u64, bytes: &[u8]) {
        let sectors = bytes.as_chunks::<SECTOR_SIZE>().0;
        assert_eq!(sectors.len() * SECTOR_SIZE, bytes.len(), "whole sectors are written");
        for (at, sector) in (sector_at(offset)..).zip(sectors) {
            self.file_mut(file).write(at, Sector::of(sector));
        }
    }

    /// Zeros what is not zero.
    pub(crate) fn zero(&mut self, file: File, offset: u64, len: u64) {
        let places = sector_at(offset)..sector_at(offset + len);
        let cached = self.file_mut(file);
        for at in cached.current.places(places).collect::<Vec<_>>() {
            cached.write(at, Sector::ZERO);
        }
    }

    pub(crate) fn sync(&mut self, file: File) {
        self.file_mut(file).sync();
    }

    /// Makes `bytes` of a file durable, and no others.
    pub(crate) fn sync_range(&mut self, file: File, bytes: Range<u64>) {
        self.file_mut(file).sync_range(sector_at(bytes.start)..sector_at(bytes.end));
    }

    /// A sync that failed: what was written is still seen, and no later sync will bring it to the
    /// medium.
    pub(crate) fn lose(&mut self, file: File) {
        self.file_mut(file).pending.clear();
    }

    /// Forgets what the medium does not have, but for what the next sync brings to it.
    pub(crate) fn drop_cache(&mut self, file: File) {
        let cached = self.file_mut(file);
        cached.current = cached.durable.clone();
        for &(at, sector) in &cached.pending {
            cached.current.set(at, sector);
        }
    }

    /// Makes a sector at rest something else.
    pub(crate) fn damage(&mut self, file: File, offset: u64, sector: Sector) {
        let cached = self.file_mut(file);
        cached.durable.set(sector_at(offset), sector);
        cached.current.set(sector_at(offset), sector);
    }

    /// The sectors that a power cut decides about.
    pub(crate) fn choices(&self) -> Vec<Choice> {
        self.image.choices(File::Image).chain(self.sidecar.choices(File::Sidecar)).collect()
    }

    /// The medium when each sector of `choices` becomes the option chosen for it.
    pub(crate) fn cut(&self, choices: &[Choice], chosen: &[usize]) -> Self {
        let (mut image, mut sidecar) = (self.image.durable.clone(), self.sidecar.durable.clone());
        for (choice, &chosen) in choices.iter().zip(chosen) {
            let contents = match choice.file {
                File::Image => &mut image,
                File::Sidecar => &mut sidecar,
            };
            contents.set(choice.at, choice.options[chosen]);
        }
        let unreadable = self.sidecar.unreadable.clone();
        let sidecar = Cached { unreadable, ..Cached::at_rest(sidecar) };
        Self { image: Cached::at_rest(image), sidecar, stamp: self.stamp }
    }
}

fn sector_at(offset: u64) -> u64 {
    assert!(offset.is_multiple_of(SECTOR_SIZE as u64), "offset {offset} is within a sector");
    offset / SECTOR_SIZE as u64
}
