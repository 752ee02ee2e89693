//! Two files on a medium with a volatile cache, and what a power cut leaves of them.

use stableblk_integrity::sidecar::{File, SECTOR_SIZE};

use crate::sectors::{Contents, Sector};

/// A sector that may be one of several things after a power cut.
#[derive(Debug, Clone)]
pub(crate) struct Choice {
    pub(crate) file: File,
    pub(crate) at: u64,
    /// What it was at the last sync, and each write since that made it something else.
    pub(crate) options: Vec<Sector>,
}

/// One file: reads see `current`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub(crate) struct Cached {
    pub(crate) durable: Contents,
    pub(crate) current: Contents,
    /// Writes since the last sync, in order, without those that a sector had already.
    pending: Vec<(u64, Sector)>,
}

impl Cached {
    fn at_rest(durable: Contents) -> Self {
        Self { current: durable.clone(), durable, pending: Vec::new() }
    }

    pub(crate) fn write(&mut self, at: u64, sector: Sector) {
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

    /// A sync that failed: what was written is still seen, and no later sync will bring it to the medium.
    pub(crate) fn lose(&mut self, file: File) {
        self.file_mut(file).pending.clear();
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

    /// What is left when each sector of `choices` becomes the option chosen for it.
    pub(crate) fn cut(&self, choices: &[Choice], chosen: &[usize]) -> Self {
        let (mut image, mut sidecar) = (self.image.durable.clone(), self.sidecar.durable.clone());
        for (choice, &chosen) in choices.iter().zip(chosen) {
            let contents = match choice.file {
                File::Image => &mut image,
                File::Sidecar => &mut sidecar,
            };
            contents.set(choice.at, choice.options[chosen]);
        }
        Self { image: Cached::at_rest(image), sidecar: Cached::at_rest(sidecar) }
    }
}

fn sector_at(offset: u64) -> u64 {
    assert!(offset.is_multiple_of(SECTOR_SIZE as u64), "offset {offset} is within a sector");
    offset / SECTOR_SIZE as u64
}
