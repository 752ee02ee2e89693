//! The range lock: who may touch which granules of the disk, over all queues.
//!
//! Data and tuples are two writes. Without the lock a read between them, or two overlapping writes in flight, would show a
//! guard error that the media does not have, and a write smaller than a granule would lose its neighbour's update.
//!
//! Requests that overlap are served in the order of arrival: each waits for the older ones it conflicts with and for
//! nothing else, so waiting is free of cycles and no request starves. The table is locked once for a batch of requests.

use std::ops::Range;
use std::sync::{Mutex, MutexGuard, PoisonError};

use slab::Slab;
use smallvec::SmallVec;

/// Ranges that start in the same chunk share a bucket. 64 granules of 4096 bytes: larger than most requests.
const CHUNK: u64 = 64;
const BUCKETS: usize = 256;

type Ids = SmallVec<[usize; 2]>;

/// Whether others may hold the range at the same time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// With other readers.
    Shared,
    /// Alone.
    Exclusive,
}

/// Whose turn came: the request `request` of queue `queue`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Owner {
    /// Queue index.
    pub queue: usize,
    /// The worker's number of the request.
    pub request: usize,
}

/// A place in the table, held or waited for. Given back by [`Table::release`], once.
#[must_use]
#[derive(Debug)]
pub struct Ticket(usize);

#[derive(Debug)]
struct Entry {
    granules: Range<u64>,
    access: Access,
    owner: Owner,
    /// Older entries that must be released first.
    blockers: usize,
    /// Younger entries that wait for this one.
    waiters: Ids,
}

impl Entry {
    fn conflicts(&self, granules: &Range<u64>, access: Access) -> bool {
        self.granules.start < granules.end
            && granules.start < self.granules.end
            && (self.access == Access::Exclusive || access == Access::Exclusive)
    }
}

/// All ranges held or waited for.
#[derive(Debug)]
pub struct Table {
    entries: Slab<Entry>,
    /// Entries within one or two chunks, under each chunk they touch, so that a request meets few strangers.
    near: [Ids; BUCKETS],
    /// Entries over more chunks; everyone looks at these, and they look at everyone.
    wide: Ids,
}

/// The table behind its mutex.
#[derive(Debug)]
pub struct RangeLock(Mutex<Table>);

impl Default for RangeLock {
    fn default() -> Self {
        Self(Mutex::new(Table {
            entries: Slab::new(),
            near: std::array::from_fn(|_| Ids::new()),
            wide: Ids::new(),
        }))
    }
}

impl RangeLock {
    /// The table, for a batch of [`Table::acquire`] or [`Table::release`].
    pub fn table(&self) -> MutexGuard<'_, Table> {
        // No method of the table leaves it half changed when it panics, so a poisoned one is whole.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Table {
    /// Takes a place for `granules` (not empty). True: held now. False: `owner` is named by the release that grants it.
    pub fn acquire(&mut self, granules: Range<u64>, access: Access, owner: Owner) -> (Ticket, bool) {
        let blocking = self.conflicting(&granules, access);
        let (chunks, blockers) = (near_chunks(&granules), blocking.len());
        let entry = Entry { granules, access, owner, blockers, waiters: Ids::new() };
        let id = self.entries.insert(entry);
        for older in blocking {
            self.entries[older].waiters.push(id);
        }
        match chunks {
            Some(chunks) => chunks.for_each(|chunk| self.near[bucket(chunk)].push(id)),
            None => self.wide.push(id),
        }
        (Ticket(id), blockers == 0)
    }

    #[expect(clippy::needless_pass_by_value, reason = "by value, so that a place is given back once")]
    /// Gives a place back, calling `granted` for every request whose turn comes by it.
    pub fn release(&mut self, ticket: Ticket, mut granted: impl FnMut(Owner)) {
        let Ticket(id) = ticket;
        let entry = self.entries.remove(id);
        match near_chunks(&entry.granules) {
            Some(chunks) => chunks.for_each(|chunk| forget(&mut self.near[bucket(chunk)], id)),
            None => forget(&mut self.wide, id),
        }
        for younger in entry.waiters {
            let waiting = &mut self.entries[younger];
            waiting.blockers -= 1;
            if waiting.blockers == 0 {
                granted(waiting.owner);
            }
        }
    }

    fn conflicting(&self, granules: &Range<u64>, access: Access) -> Ids {
        let conflicts = |id: usize| self.entries[id].conflicts(granules, access);
        let Some(chunks) = near_chunks(granules) else {
            return self
                .entries
                .iter()
                .filter(|(_, e)| e.conflicts(granules, access))
                .map(|(id, _)| id)
                .collect();
        };
        let mut found = Ids::new();
        for &id in &self.wide {
            if conflicts(id) {
                found.push(id);
            }
        }
        for chunk in chunks {
            for &id in &self.near[bucket(chunk)] {
                // an entry on a border stands in two buckets
                if conflicts(id) && !found.contains(&id) {
                    found.push(id);
                }
            }
        }
        found
    }
}

/// The one or two chunks of a range, or `None` for a wide one.
fn near_chunks(granules: &Range<u64>) -> Option<Range<u64>> {
    let chunks = granules.start / CHUNK..(granules.end - 1) / CHUNK + 1;
    (chunks.end - chunks.start <= 2).then_some(chunks)
}

fn bucket(chunk: u64) -> usize {
    #[expect(clippy::cast_possible_truncation, reason = "the remainder is below BUCKETS")]
    let bucket = (chunk % BUCKETS as u64) as usize;
    bucket
}

fn forget(ids: &mut Ids, id: usize) {
    if let Some(place) = ids.iter().position(|&other| other == id) {
        ids.swap_remove(place);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const fn owner(request: usize) -> Owner {
        Owner { queue: 0, request }
    }

    #[test]
    fn readers_share_and_a_writer_waits_for_all_of_them() {
        let lock = RangeLock::default();
        let mut table = lock.table();
        let (first, held) = table.acquire(0..4, Access::Shared, owner(1));
        assert!(held);
        let (second, held) = table.acquire(3..5, Access::Shared, owner(2));
        assert!(held);
        let (writer, held) = table.acquire(3..4, Access::Exclusive, owner(3));
        assert!(!held);
        table.release(first, |_| panic!("the second reader still holds it"));
        let mut granted = Vec::new();
        table.release(second, |owner| granted.push(owner));
        assert_eq!(granted, [owner(3)]);
        table.release(writer, |_| panic!("nobody waits"));
    }

    #[test]
    fn a_reader_does_not_overtake_a_waiting_writer() {
        let lock = RangeLock::default();
        let mut table = lock.table();
        let (reader, _) = table.acquire(0..1, Access::Shared, owner(1));
        let (_writer, held) = table.acquire(0..1, Access::Exclusive, owner(2));
        assert!(!held);
        let (_late, held) = table.acquire(0..1, Access::Shared, owner(3));
        assert!(!held);
        let mut granted = Vec::new();
        table.release(reader, |owner| granted.push(owner));
        assert_eq!(granted, [owner(2)]);
    }

    #[test]
    fn a_wide_range_meets_near_ones_both_ways() {
        let lock = RangeLock::default();
        let mut table = lock.table();
        let (near, _) = table.acquire(100_000..100_001, Access::Exclusive, owner(1));
        let (_wide, held) = table.acquire(0..1 << 40, Access::Exclusive, owner(2));
        assert!(!held);
        let (_late, held) = table.acquire(7..8, Access::Exclusive, owner(3));
        assert!(!held);
        let mut granted = Vec::new();
        table.release(near, |owner| granted.push(owner));
        assert_eq!(granted, [owner(2)]);
    }

    proptest! {
        /// Against a plain list in order of arrival: an entry holds its range when no older conflicting one is left.
        #[test]
        fn grants_are_exactly_those_of_a_first_come_list(
            steps in prop::collection::vec((0u64..3000, 1u64..300, any::<bool>(), any::<prop::sample::Index>()), 1..300)
        ) {
            let lock = RangeLock::default();
            let mut table = lock.table();
            let mut model: Vec<(usize, Range<u64>, Access, Ticket, bool)> = Vec::new();
            for (number, (start, len, exclusive, victim)) in steps.into_iter().enumerate() {
                if number % 3 == 2 {
                    let holders: Vec<usize> = (0..model.len()).filter(|&at| model[at].4).collect();
                    let gone = model.remove(holders[victim.index(holders.len())]);
                    let mut granted = Vec::new();
                    table.release(gone.3, |owner| granted.push(owner.request));
                    for at in 0..model.len() {
                        let free = !model[..at].iter().any(|older| conflict(older, &model[at].1, model[at].2));
                        prop_assert_eq!(granted.contains(&model[at].0), free && !model[at].4);
                        model[at].4 = free;
                    }
                } else {
                    let access = if exclusive { Access::Exclusive } else { Access::Shared };
                    let range = start..start + len;
                    let (ticket, held) = table.acquire(range.clone(), access, owner(number));
                    prop_assert_eq!(held, !model.iter().any(|older| conflict(older, &range, access)));
                    model.push((number, range, access, ticket, held));
                }
            }
        }
    }

    fn conflict(
        older: &(usize, Range<u64>, Access, Ticket, bool),
        range: &Range<u64>,
        access: Access,
    ) -> bool {
        older.1.start < range.end
            && range.start < older.1.end
            && (older.2 == Access::Exclusive || access == Access::Exclusive)
    }
}
