//! The contents of sectors, by number: equal contents have equal numbers, so that states are cheap
//! to copy, compare and hash.

use std::cell::RefCell;
use std::collections::HashMap;

use stableblk_integrity::sidecar::SECTOR_SIZE;

use crate::hash::QuickHasher;

/// The contents of a sector.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Sector(u32);

impl Sector {
    pub(crate) const ZERO: Self = Self(0);

    pub(crate) fn of(bytes: &[u8; SECTOR_SIZE]) -> Self {
        if bytes.as_chunks::<16>().0.iter().all(|&chunk| u128::from_ne_bytes(chunk) == 0) {
            return Self::ZERO;
        }
        KNOWN.with_borrow_mut(|known| known.number(bytes))
    }

    pub(crate) fn copy_to(self, bytes: &mut [u8]) {
        KNOWN.with_borrow(|known| bytes.copy_from_slice(&known.contents[self.0 as usize]));
    }
}

thread_local! {
    static KNOWN: RefCell<Known> = RefCell::new(Known::new());
}

/// All contents that this thread has ever seen.
struct Known {
    contents: Vec<[u8; SECTOR_SIZE]>,
    numbers: HashMap<[u8; SECTOR_SIZE], u32, QuickHasher>,
}

impl Known {
    fn new() -> Self {
        let zeros = [0; SECTOR_SIZE];
        Self { contents: vec![zeros], numbers: HashMap::from_iter([(zeros, 0)]) }
    }

    fn number(&mut self, bytes: &[u8; SECTOR_SIZE]) -> Sector {
        if let Some(&number) = self.numbers.get(bytes) {
            return Sector(number);
        }
        let number = u32::try_from(self.contents.len()).expect("a few million contents");
        self.contents.push(*bytes);
        self.numbers.insert(*bytes, number);
        Sector(number)
    }
}

/// Sectors by their place in a file; those that are not here are zero.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub(crate) struct Contents(Vec<(u64, Sector)>);

impl Contents {
    pub(crate) fn get(&self, at: u64) -> Sector {
        self.0.binary_search_by_key(&at, |entry| entry.0).map_or(Sector::ZERO, |index| self.0[index].1)
    }

    pub(crate) fn set(&mut self, at: u64, sector: Sector) {
        match self.0.binary_search_by_key(&at, |entry| entry.0) {
            Ok(index) if sector == Sector::ZERO => drop(self.0.remove(index)),
            Ok(index) => self.0[index].1 = sector,
            Err(_) if sector == Sector::ZERO => {}
            Err(index) => self.0.insert(index, (at, sector)),
        }
    }

    /// Fills `buffer`, whole sectors, from sector `first` on.
    pub(crate) fn read(&self, first: u64, buffer: &mut [u8]) {
        buffer.fill(0);
        let start = self.0.partition_point(|entry| entry.0 < first);
        for &(at, sector) in &self.0[start..] {
            let Some(bytes) = usize::try_from(at - first)
                .ok()
                .and_then(|index| buffer.get_mut(index * SECTOR_SIZE..(index + 1) * SECTOR_SIZE))
            else {
                return;
            };
            sector.copy_to(bytes);
        }
    }

    /// The sectors of `places` that are not zero.
    pub(crate) fn places(&self, places: std::ops::Range<u64>) -> impl Iterator<Item = u64> {
        self.0.iter().map(|entry| entry.0).filter(move |at| places.contains(at))
    }
}
