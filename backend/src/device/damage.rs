//! The blocks of a disk whose verification has failed. Its workers and its scrub add them, and
//! writes take them out.
//!
//! The list is in memory. A sidecar keeps it over restarts: its log's thread writes it, and no
//! worker waits for that.

use std::fmt;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use integrity::sidecar::{DamageNotes, Finding, FoundBy, ScrubRecord};

/// The damage list of a device. All clones share it.
#[derive(Clone, Default)]
pub struct Damage(Arc<Shared>);

#[derive(Default)]
struct Shared {
    /// From the first listed block to the last, so that a write elsewhere takes no lock.
    first: AtomicU64,
    end: AtomicU64,
    /// How often the notes have changed.
    changes: AtomicU64,
    notes: Mutex<DamageNotes>,
    /// Called after a change that is to be kept.
    keeper: OnceLock<Box<dyn Fn() + Send + Sync>>,
}

impl fmt::Debug for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Damage").field("notes", &self.notes()).finish_non_exhaustive()
    }
}

/// The time now, in seconds since 1970.
pub fn seconds_now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

impl Damage {
    /// Begins with `notes` of an earlier time. `keeper` is called after each change, without a
    /// lock.
    pub(super) fn keep(&self, notes: DamageNotes, keeper: impl Fn() + Send + Sync + 'static) {
        self.change(|now| *now = notes);
        let _ = self.0.keeper.set(Box::new(keeper));
    }

    /// Takes over the notes of the same storage before it was closed and opened again, unless it
    /// keeps its notes itself.
    pub(super) fn continue_from(&self, before: &Self) {
        if self.0.keeper.get().is_none() {
            let notes = before.notes();
            self.change(|now| *now = notes);
        }
    }

    /// A copy of the notes, and how often they had changed by then.
    pub fn snapshot(&self) -> (DamageNotes, u64) {
        let notes = self.lock();
        (notes.clone(), self.0.changes.load(Relaxed))
    }

    /// A copy of the notes.
    pub fn notes(&self) -> DamageNotes {
        self.lock().clone()
    }

    /// The number of blocks that are listed.
    pub fn blocks(&self) -> u64 {
        self.lock().list.blocks()
    }

    /// How often the notes have changed.
    pub(super) fn changes(&self) -> u64 {
        self.0.changes.load(Relaxed)
    }

    /// Adds blocks that were found now.
    pub fn add(&self, findings: impl IntoIterator<Item = Finding>, by: FoundBy) {
        let mut findings = findings.into_iter().peekable();
        if findings.peek().is_none() {
            return;
        }
        let now = seconds_now();
        self.change(|notes| findings.for_each(|finding| notes.list.add(&finding, by, now)));
        self.call_keeper();
    }

    /// The blocks `lbas` were written. Their range is still locked.
    #[inline]
    pub fn written(&self, lbas: &Range<u64>) {
        if lbas.start < self.0.end.load(Relaxed) && self.0.first.load(Relaxed) < lbas.end {
            self.clear(lbas);
        }
    }

    /// Takes blocks out of the list. Returns how many were listed.
    #[cold]
    pub fn clear(&self, lbas: &Range<u64>) -> u64 {
        if !self.lock().list.has_any_of(lbas) {
            return 0;
        }
        let cleared = self.change(|notes| notes.list.clear(lbas));
        self.call_keeper();
        cleared
    }

    /// Takes the listed blocks of `lbas` out that are not among `findings`, because a scrub has
    /// found that they match. Returns how many those were.
    pub fn settle(&self, lbas: &Range<u64>, findings: &[Finding]) -> u64 {
        if !self.lock().list.has_any_of(lbas) {
            return 0;
        }
        let mut next = lbas.start;
        let mut cleared = 0;
        for end in findings.iter().map(|finding| finding.lba).chain([lbas.end]) {
            if next < end {
                cleared += self.clear(&(next..end));
            }
            next = end + 1;
        }
        cleared
    }

    /// Changes the record of the scrub. `keeps`: it is to be kept soon, and not only with the next
    /// change that is.
    pub fn change_scrub<T>(&self, keeps: bool, change: impl FnOnce(&mut ScrubRecord) -> T) -> T {
        let result = self.change(|notes| change(&mut notes.scrub));
        if keeps {
            self.call_keeper();
        }
        result
    }

    fn change<T>(&self, change: impl FnOnce(&mut DamageNotes) -> T) -> T {
        let mut notes = self.lock();
        let result = change(&mut notes);
        let span = notes.list.span();
        self.0.first.store(span.start, Relaxed);
        self.0.end.store(span.end, Relaxed);
        // under the lock: there is no other writer
        self.0.changes.store(self.0.changes.load(Relaxed) + 1, Relaxed);
        result
    }

    fn call_keeper(&self) {
        if let Some(keeper) = self.0.keeper.get() {
            keeper();
        }
    }

    fn lock(&self) -> MutexGuard<'_, DamageNotes> {
        // no change leaves the notes half made
        self.0.notes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use integrity::sidecar::FailedCheck;

    use super::*;

    fn finding(lba: u64) -> Finding {
        Finding { lba, check: FailedCheck::Device, tag: None }
    }

    #[test]
    fn a_write_elsewhere_changes_nothing() {
        let damage = Damage::default();
        damage.written(&(0..u64::MAX));
        assert_eq!(damage.changes(), 0);
        damage.add([finding(10), finding(20)], FoundBy::Guest);
        let before = damage.changes();
        for lbas in [0..10, 11..20, 21..u64::MAX] {
            damage.written(&lbas);
        }
        assert_eq!((damage.blocks(), damage.changes()), (2, before));
        damage.written(&(5..11));
        assert_eq!((damage.blocks(), damage.changes()), (1, before + 1));
    }
}
