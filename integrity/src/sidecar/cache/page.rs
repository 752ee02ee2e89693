//! The tuples of one page of the array in memory: a few of them, or the whole page.

use std::ops::Range;

use crate::sidecar::array::{Change, TuplePage};
use crate::sidecar::{PAGE_SIZE, SECTOR_SIZE};
use crate::tuple::TUPLE_SIZE_MAX;

/// Words of a bit for each tuple of a page: 504 at most, of 8 bytes.
const WORDS: usize = (PAGE_SIZE - PAGE_SIZE / SECTOR_SIZE * 8) / 8 / 64 + 1;

/// Tuples that are kept one by one. With more, the whole page takes hardly more memory.
const SINGLE_MAX: usize = 64;

/// Memory of a page besides its tuples: its entry in the map and in the clock.
const OVERHEAD: usize = 128;

/// A page of the array, or a part of it.
#[derive(Debug)]
pub(super) struct CachedPage {
    tuples: Tuples,
    /// The last page of the log with a change of this page. Until that is checkpointed the array
    /// lacks the change.
    pub(super) newest: u64,
    /// Changes and fetches under way.
    pub(super) pins: u32,
    /// Used since the clock's hand came by.
    pub(super) referenced: bool,
}

#[derive(Debug)]
enum Tuples {
    /// Those of some slots, in the order of the slots: random writes change one tuple of many
    /// pages.
    Single(Vec<Slot>),
    /// Room for all.
    Whole(Box<Whole>),
}

#[derive(Debug, Clone, Copy)]
struct Slot {
    number: u16,
    tuple: [u8; TUPLE_SIZE_MAX],
}

#[derive(Debug)]
struct Whole {
    tuples: Box<[u8]>,
    /// One bit for each tuple that is here.
    valid: [u64; WORDS],
}

/// The shape of a page: how many tuples it has, and their size in bytes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Shape {
    pub(super) tuples: usize,
    pub(super) tuple_size: usize,
}

impl CachedPage {
    /// A page without tuples.
    pub(super) fn empty() -> Self {
        Self { tuples: Tuples::Single(Vec::new()), newest: 0, pins: 0, referenced: false }
    }

    /// A page with all its tuples, which the array does not have and never will.
    pub(super) fn kept(page: TuplePage) -> Self {
        let whole = Whole { tuples: page.tuples.into(), valid: [u64::MAX; WORDS] };
        Self { tuples: Tuples::Whole(Box::new(whole)), newest: u64::MAX, pins: 0, referenced: true }
    }

    /// The memory of the page in bytes.
    pub(super) fn cost(&self) -> usize {
        OVERHEAD
            + match &self.tuples {
                Tuples::Single(slots) => slots.capacity() * size_of::<Slot>(),
                Tuples::Whole(_) => PAGE_SIZE,
            }
    }

    /// The most memory in bytes that a change of `count` tuples adds to `page`, if that is there.
    pub(super) fn cost_of_change(page: Option<&Self>, count: usize) -> usize {
        let (present, overhead) = match page.map(|page| &page.tuples) {
            Some(Tuples::Whole(_)) => return 0,
            Some(Tuples::Single(slots)) => (slots.len(), 0),
            None => (0, OVERHEAD),
        };
        let single = present + count;
        // a vector grows to twice its length
        overhead + if single > SINGLE_MAX { PAGE_SIZE } else { single.max(4) * 2 * size_of::<Slot>() }
    }

    /// Whether the tuples of all `slots` are here.
    pub(super) fn has(&self, mut slots: Range<usize>) -> bool {
        match &self.tuples {
            Tuples::Whole(whole) => slots.all(|slot| whole.valid[slot / 64] & (1 << (slot % 64)) != 0),
            Tuples::Single(singles) => slots.all(|slot| find(singles, slot).is_ok()),
        }
    }

    /// Copies the tuples of `slots`, all of which are here.
    pub(super) fn copy(&self, slots: Range<usize>, tuple_size: usize, to: &mut [u8]) {
        match &self.tuples {
            Tuples::Whole(whole) => {
                to.copy_from_slice(&whole.tuples[slots.start * tuple_size..slots.end * tuple_size]);
            }
            Tuples::Single(singles) => {
                let found = singles.iter().skip_while(|single| usize::from(single.number) < slots.start);
                for (to, single) in to.chunks_exact_mut(tuple_size).zip(found) {
                    to.copy_from_slice(&single.tuple[..tuple_size]);
                }
            }
        }
    }

    /// Copies those tuples of `slots` that are here, and leaves the others as they are.
    pub(super) fn copy_present(&self, slots: Range<usize>, tuple_size: usize, to: &mut [u8]) {
        for (slot, to) in slots.zip(to.chunks_exact_mut(tuple_size)) {
            if self.has(slot..slot + 1) {
                self.copy(slot..slot + 1, tuple_size, to);
            }
        }
    }

    /// Gives up its tuples, in whose place are those of the whole page now.
    pub(super) fn forget(&mut self) {
        *self = Self { pins: self.pins, ..Self::empty() };
    }

    /// Changes the tuples of `slots`.
    pub(super) fn change(&mut self, slots: Range<usize>, change: Change<'_>, shape: Shape) {
        if let Tuples::Single(singles) = &mut self.tuples {
            if singles.len() + slots.len() <= SINGLE_MAX {
                for (index, slot) in slots.enumerate() {
                    let tuple = tuple_of(change, index, shape.tuple_size);
                    let number = u16::try_from(slot).expect("a page has at most 504 tuples");
                    match find(singles, slot) {
                        Ok(place) => singles[place].tuple = tuple,
                        Err(place) => singles.insert(place, Slot { number, tuple }),
                    }
                }
                return;
            }
            self.make_whole(shape);
        }
        if let Tuples::Whole(whole) = &mut self.tuples {
            change.apply(&mut whole.tuples[slots.start * shape.tuple_size..slots.end * shape.tuple_size]);
            for slot in slots {
                whole.valid[slot / 64] |= 1 << (slot % 64);
            }
        }
    }

    /// Takes the tuples of a page that was `read`, or unwritten ones, except for those that are
    /// here: they may be newer.
    pub(super) fn fill(&mut self, read: Option<&[u8]>, shape: Shape) {
        self.make_whole(shape);
        let Tuples::Whole(whole) = &mut self.tuples else { return };
        for (slot, mine) in whole.tuples.chunks_exact_mut(shape.tuple_size).enumerate() {
            let (word, bit) = (slot / 64, 1 << (slot % 64));
            if whole.valid[word] & bit == 0 {
                match read {
                    Some(read) => mine.copy_from_slice(&read[slot * shape.tuple_size..][..shape.tuple_size]),
                    None => mine.fill(0),
                }
                whole.valid[word] |= bit;
            }
        }
    }

    fn make_whole(&mut self, shape: Shape) {
        let Tuples::Single(singles) = &self.tuples else { return };
        let tuples = vec![0; shape.tuples * shape.tuple_size].into();
        let mut whole = Box::new(Whole { tuples, valid: [0; WORDS] });
        for Slot { number, tuple } in singles {
            let slot = usize::from(*number);
            let at = slot * shape.tuple_size;
            whole.tuples[at..at + shape.tuple_size].copy_from_slice(&tuple[..shape.tuple_size]);
            whole.valid[slot / 64] |= 1 << (slot % 64);
        }
        self.tuples = Tuples::Whole(whole);
    }
}

/// The place of a slot, or the place where it belongs.
fn find(singles: &[Slot], slot: usize) -> Result<usize, usize> {
    singles.binary_search_by_key(&slot, |single| single.number.into())
}

/// The tuple number `index` of a change.
fn tuple_of(change: Change<'_>, index: usize, tuple_size: usize) -> [u8; TUPLE_SIZE_MAX] {
    let mut tuple = [0; TUPLE_SIZE_MAX];
    if let Change::Written(tuples) = change {
        tuple[..tuple_size].copy_from_slice(&tuples[index * tuple_size..(index + 1) * tuple_size]);
    }
    tuple
}
