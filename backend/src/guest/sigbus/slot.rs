//! A slot of the handler's table. Its fields are atomic: a handler must not lock, and it may run on
//! any thread at any time.

use std::sync::atomic::{AtomicI32, AtomicU8, AtomicU64, AtomicUsize, Ordering, fence};

use libc::c_int;

use super::loss::Loss;

/// The mapping is good.
pub(super) const GOOD: u8 = 0;
/// A handler has found it lost and is replacing it.
pub(super) const REPLACING: u8 = 1;
/// Private memory is in its place.
pub(super) const REPLACED: u8 = 2;

/// A mapping that is watched. The fields from `start` to `offset` count while `version` is even.
#[derive(Debug)]
pub(super) struct Slot {
    /// Odd while the fields are being changed. A reader that finds another version after it has
    /// read them has read parts of two mappings.
    pub(super) version: AtomicU64,
    /// The first address of the mapping; 0 in a free slot.
    pub(super) start: AtomicUsize,
    /// The first address behind the mapping.
    pub(super) end: AtomicUsize,
    /// The file, which the mapping keeps open.
    pub(super) file: AtomicI32,
    /// Where in the file it starts, in bytes.
    pub(super) offset: AtomicU64,
    /// One of [`GOOD`], [`REPLACING`] and [`REPLACED`].
    pub(super) state: AtomicU8,
    /// For [`Loss`]: length of the file if it was truncated, else `u64::MAX`.
    pub(super) len: AtomicU64,
    /// For [`Loss`]: 0 if the page could be had.
    pub(super) errno: AtomicI32,
}

/// The contents of a slot: its mapping.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Mapped {
    pub(super) start: usize,
    pub(super) end: usize,
    pub(super) file: c_int,
    pub(super) offset: u64,
}

impl Slot {
    pub(super) const fn free() -> Self {
        Self {
            version: AtomicU64::new(0),
            start: AtomicUsize::new(0),
            end: AtomicUsize::new(0),
            file: AtomicI32::new(-1),
            offset: AtomicU64::new(0),
            state: AtomicU8::new(GOOD),
            len: AtomicU64::new(u64::MAX),
            errno: AtomicI32::new(0),
        }
    }

    /// Takes the slot for a change, if it is free and no other thread changes it.
    pub(super) fn take(&self) -> bool {
        let version = self.version.load(Ordering::Relaxed);
        version.is_multiple_of(2)
            && self.start.load(Ordering::Relaxed) == 0
            && self
                .version
                .compare_exchange(version, version + 1, Ordering::AcqRel, Ordering::Relaxed)
                .is_ok()
    }

    /// Ends a change.
    pub(super) fn publish(&self) {
        self.version.fetch_add(1, Ordering::Release);
    }

    /// The fields of the slot, all of one mapping; `None` while they are changed, or in a free
    /// slot.
    pub(super) fn read(&self) -> Option<Mapped> {
        let version = self.version.load(Ordering::Acquire);
        let mapped = Mapped {
            start: self.start.load(Ordering::Relaxed),
            end: self.end.load(Ordering::Relaxed),
            file: self.file.load(Ordering::Relaxed),
            offset: self.offset.load(Ordering::Relaxed),
        };
        fence(Ordering::Acquire);
        let is_whole = version.is_multiple_of(2) && self.version.load(Ordering::Relaxed) == version;
        (is_whole && mapped.start != 0).then_some(mapped)
    }

    pub(super) fn loss(&self) -> Option<Loss> {
        // the cause is stored before the state
        (self.state.load(Ordering::Acquire) == REPLACED).then(|| {
            match (self.len.load(Ordering::Relaxed), self.errno.load(Ordering::Relaxed)) {
                (u64::MAX, 0) => Loss::Momentary,
                (u64::MAX, libc::ENOSPC | libc::ENOMEM | libc::EDQUOT) => Loss::NoSpace,
                (u64::MAX, errno) => Loss::Failed { errno },
                (len, _) => Loss::Truncated { len },
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A reader must never see the start of one mapping and the end of another.
    #[test]
    fn a_slot_that_is_changed_is_not_read() {
        let slot = Slot::free();
        assert!(slot.take());
        assert!(!slot.take(), "two owners");
        slot.start.store(0x1000, Ordering::Relaxed);
        slot.end.store(0x2000, Ordering::Relaxed);
        assert_eq!(slot.read(), None);
        slot.publish();
        assert_eq!(slot.read().map(|mapped| (mapped.start, mapped.end)), Some((0x1000, 0x2000)));
        assert!(!slot.take(), "a slot in use was taken");
    }
}
