//! The range lock: which requests may touch which granules of the disk, over all queues.
//!
//! Data and tuples are two writes. Without the lock a read between them, or two overlapping writes
//! in flight, would show a guard error that the media does not have, and a write smaller than a
//! granule would lose its neighbour's update.
//!
//! Requests that overlap are served in the order of arrival: each waits for the older ones it
//! conflicts with and for nothing else, so waiting is free of cycles and no request starves. The
//! table is locked once for a batch of requests.
//!
//! Each request counts how many it waits for. There is no list of those that wait: n requests that
//! all overlap would need n * n / 2 links, so a guest could make that GiB of memory. A release
//! looks for them, and only if there have been any.

use std::ops::Range;
use std::sync::{Mutex, MutexGuard, PoisonError};

use slab::Slab;
use smallvec::SmallVec;

/// Granules of a chunk. Ranges that start in the same chunk share a bucket. A chunk of 4096-byte
/// granules is larger than most requests.
const CHUNK: u64 = 64;
const BUCKETS: usize = 256;

type Ids = SmallVec<[usize; 2]>;

/// Whether others may hold the range at the same time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RangeAccess {
    /// With other readers.
    Shared,
    /// Alone.
    Exclusive,
}

/// The request that a place in the table is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RangeOwner {
    /// The index of its queue.
    pub queue: usize,
    /// The worker's number of the request.
    pub request: usize,
}

/// A place in the table: a range that is held or waited for. It is given back once, by
/// [`Table::release`].
#[must_use]
#[derive(Debug)]
pub struct Ticket(usize);

#[derive(Debug)]
struct Entry {
    granules: Range<u64>,
    access: RangeAccess,
    owner: RangeOwner,
    /// Its number in the order of arrival.
    arrival: u64,
    /// Older entries that must be released first.
    blockers: usize,
    /// Younger entries have come to wait for this one.
    waited_for: bool,
}

impl Entry {
    fn conflicts(&self, granules: &Range<u64>, access: RangeAccess) -> bool {
        self.granules.start < granules.end
            && granules.start < self.granules.end
            && (self.access == RangeAccess::Exclusive || access == RangeAccess::Exclusive)
    }
}

/// All ranges held or waited for.
#[derive(Debug)]
pub struct Table {
    entries: Slab<Entry>,
    /// Entries within one or two chunks, under each chunk they touch, so that a request is compared
    /// with few others.
    near: [Ids; BUCKETS],
    /// Entries over more chunks, which are compared with all others.
    wide: Ids,
    /// How many entries have arrived.
    arrivals: u64,
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
            arrivals: 0,
        }))
    }
}

impl RangeLock {
    /// The table, for a batch of [`Table::acquire`] or [`Table::release`].
    pub fn table(&self) -> MutexGuard<'_, Table> {
        // no method leaves the table half changed when it panics, so a poisoned one is whole
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Table {
    /// Takes a place for `granules` (not empty). True: the range is held now. False: a later
    /// release grants it, and names `owner`.
    pub fn acquire(
        &mut self,
        granules: Range<u64>,
        access: RangeAccess,
        owner: RangeOwner,
    ) -> (Ticket, bool) {
        let mut blockers = 0;
        self.for_each_conflict(&granules, access, |older| {
            older.waited_for = true;
            blockers += 1;
        });
        let (chunks, arrival) = (near_chunks(&granules), self.arrivals);
        self.arrivals += 1;
        let id = self.entries.insert(Entry { granules, access, owner, arrival, blockers, waited_for: false });
        match chunks {
            Some(chunks) => chunks.for_each(|chunk| self.near[bucket(chunk)].push(id)),
            None => self.wide.push(id),
        }
        (Ticket(id), blockers == 0)
    }

    /// Gives a place back, held or not. Calls `granted` for each request whose turn comes by that,
    /// in the order of arrival.
    #[expect(clippy::needless_pass_by_value, reason = "by value, so that a place is given back once")]
    pub fn release(&mut self, ticket: Ticket, mut granted: impl FnMut(RangeOwner)) {
        let Ticket(id) = ticket;
        let Entry { granules, access, arrival, waited_for, .. } = self.entries.remove(id);
        match near_chunks(&granules) {
            Some(chunks) => chunks.for_each(|chunk| forget(&mut self.near[bucket(chunk)], id)),
            None => forget(&mut self.wide, id),
        }
        if !waited_for {
            return;
        }
        let mut turns = SmallVec::<[(u64, RangeOwner); 4]>::new();
        self.for_each_conflict(&granules, access, |other| {
            // there are older ones where it was still waiting itself
            if other.arrival > arrival {
                other.blockers -= 1;
                if other.blockers == 0 {
                    turns.push((other.arrival, other.owner));
                }
            }
        });
        turns.sort_unstable_by_key(|&(arrival, _)| arrival);
        turns.into_iter().for_each(|(_, owner)| granted(owner));
    }

    /// Calls `visit` once for every entry that conflicts.
    fn for_each_conflict(
        &mut self,
        granules: &Range<u64>,
        access: RangeAccess,
        mut visit: impl FnMut(&mut Entry),
    ) {
        let Self { entries, near, wide, .. } = self;
        let Some(chunks) = near_chunks(granules) else {
            let conflicting = entries.iter_mut().map(|(_, entry)| entry);
            return conflicting.filter(|entry| entry.conflicts(granules, access)).for_each(visit);
        };
        for &id in &*wide {
            let entry = &mut entries[id];
            if entry.conflicts(granules, access) {
                visit(entry);
            }
        }
        let first = chunks.start;
        for chunk in chunks {
            for &id in &near[bucket(chunk)] {
                let entry = &mut entries[id];
                // one on a border stands in two buckets: it counts in the first that both are in
                if entry.conflicts(granules, access) && chunk == first.max(entry.granules.start / CHUNK) {
                    visit(entry);
                }
            }
        }
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

    const fn owner(request: usize) -> RangeOwner {
        RangeOwner { queue: 0, request }
    }

    #[test]
    fn readers_share_and_a_writer_waits_for_all_of_them() {
        let lock = RangeLock::default();
        let mut table = lock.table();
        let (first, held) = table.acquire(0..4, RangeAccess::Shared, owner(1));
        assert!(held);
        let (second, held) = table.acquire(3..5, RangeAccess::Shared, owner(2));
        assert!(held);
        let (writer, held) = table.acquire(3..4, RangeAccess::Exclusive, owner(3));
        assert!(!held);
        table.release(first, |_| panic!("the second reader still holds it"));
        assert_eq!(turns(&mut table, second), [3]);
        table.release(writer, |_| panic!("no request waits"));
    }

    #[test]
    fn a_reader_does_not_overtake_a_waiting_writer() {
        let lock = RangeLock::default();
        let mut table = lock.table();
        let (reader, _) = table.acquire(0..1, RangeAccess::Shared, owner(1));
        let (_writer, held) = table.acquire(0..1, RangeAccess::Exclusive, owner(2));
        assert!(!held);
        let (_late, held) = table.acquire(0..1, RangeAccess::Shared, owner(3));
        assert!(!held);
        assert_eq!(turns(&mut table, reader), [2]);
    }

    #[test]
    fn a_wide_range_meets_near_ones_both_ways() {
        let lock = RangeLock::default();
        let mut table = lock.table();
        let (near, _) = table.acquire(100_000..100_001, RangeAccess::Exclusive, owner(1));
        let (_wide, held) = table.acquire(0..1 << 40, RangeAccess::Exclusive, owner(2));
        assert!(!held);
        let (_late, held) = table.acquire(7..8, RangeAccess::Exclusive, owner(3));
        assert!(!held);
        assert_eq!(turns(&mut table, near), [2]);
    }

    /// A hostile driver can make any number of requests that all overlap.
    #[test]
    fn memory_is_linear_in_the_requests_that_wait() {
        const REQUESTS: usize = 1000;
        let borders = CHUNK - 1..CHUNK + 1;
        for granules in [0..1, borders, 0..1 << 40] {
            let lock = RangeLock::default();
            let mut table = lock.table();
            let mut tickets: Vec<_> = (0..REQUESTS)
                .map(|request| table.acquire(granules.clone(), RangeAccess::Exclusive, owner(request)).0)
                .collect();
            let links = links(&table);
            assert!(links <= 2 * REQUESTS, "{links} links for {REQUESTS} requests");
            // and they are served one by one
            for (request, ticket) in (1..).zip(tickets.drain(..)) {
                assert_eq!(
                    turns(&mut table, ticket),
                    Vec::from_iter((request < REQUESTS).then_some(request))
                );
            }
        }
    }

    /// A worker that dies gives back the ranges that it holds and those that it waits for.
    #[test]
    fn a_place_that_is_waited_for_can_be_given_back() {
        let lock = RangeLock::default();
        let mut table = lock.table();
        let (first, _) = table.acquire(0..2, RangeAccess::Exclusive, owner(1));
        let (second, _) = table.acquire(0..4, RangeAccess::Exclusive, owner(2));
        let (third, _) = table.acquire(0..4, RangeAccess::Exclusive, owner(3));
        let (fourth, _) = table.acquire(2..4, RangeAccess::Exclusive, owner(4));
        assert!(turns(&mut table, second).is_empty());
        assert_eq!(turns(&mut table, third), [4]);
        assert!(turns(&mut table, first).is_empty());
        assert!(turns(&mut table, fourth).is_empty());
    }

    /// The requests whose turn comes when `ticket` is given back.
    fn turns(table: &mut Table, ticket: Ticket) -> Vec<usize> {
        let mut turns = Vec::new();
        table.release(ticket, |owner| turns.push(owner.request));
        turns
    }

    /// Starts of ranges that overlap, in two parts of the disk that share buckets.
    fn start() -> impl Strategy<Value = u64> {
        const ROUND: u64 = CHUNK * BUCKETS as u64;
        prop_oneof![0u64..3000, ROUND..ROUND + 3000]
    }

    /// How many links the table has besides its entries.
    fn links(table: &Table) -> usize {
        table.near.iter().chain([&table.wide]).map(Ids::len).sum()
    }

    proptest! {
        /// Against a plain list in order of arrival: an entry holds its range when no older
        /// conflicting one is left.
        #[test]
        fn grants_are_exactly_those_of_a_first_come_list(
            steps in prop::collection::vec((start(), 1u64..300, any::<bool>(), any::<prop::sample::Index>()), 1..300),
            // requests that hold their range are done; those that wait for it may go with their
            // queue
            queues_die in any::<bool>(),
        ) {
            let lock = RangeLock::default();
            let mut table = lock.table();
            let mut model: Vec<(usize, Range<u64>, RangeAccess, Ticket, bool)> = Vec::new();
            for (number, (start, len, exclusive, victim)) in steps.into_iter().enumerate() {
                if number % 3 == 2 {
                    let may_go: Vec<usize> =
                        (0..model.len()).filter(|&at| queues_die || model[at].4).collect();
                    let gone = model.remove(may_go[victim.index(may_go.len())]);
                    let granted = turns(&mut table, gone.3);
                    let mut expected = Vec::new();
                    for at in 0..model.len() {
                        let free = !model[..at].iter().any(|older| conflict(older, &model[at].1, model[at].2));
                        if free && !model[at].4 {
                            expected.push(model[at].0);
                        }
                        model[at].4 = free;
                    }
                    // in order of arrival, too
                    prop_assert_eq!(granted, expected);
                } else {
                    let access = if exclusive { RangeAccess::Exclusive } else { RangeAccess::Shared };
                    let range = start..start + len;
                    let (ticket, held) = table.acquire(range.clone(), access, owner(number));
                    prop_assert_eq!(held, !model.iter().any(|older| conflict(older, &range, access)));
                    model.push((number, range, access, ticket, held));
                }
            }
        }
    }

    fn conflict(
        older: &(usize, Range<u64>, RangeAccess, Ticket, bool),
        range: &Range<u64>,
        access: RangeAccess,
    ) -> bool {
        older.1.start < range.end
            && range.start < older.1.end
            && (older.2 == RangeAccess::Exclusive || access == RangeAccess::Exclusive)
    }
}
