//! The limits and their buckets, as words that several threads, or processes, share.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use vm_memory::{MmapRegion, VolatileMemory};

use super::values::{BURST_DEFAULT, BURST_MAX, Limits, RATE_MAX};
use crate::guest::sigbus::WatchedMapping;

/// The number of words of a table. The file of a group has them from its start on, as numbers of 64
/// bits of this machine's byte order.
const WORDS: usize = 16;
const MAGIC: usize = 0;
const ON: usize = 1;
const BURST_MS: usize = 2;
const RATES: usize = 3;
const BUCKETS: usize = RATES + 6;

/// A limit, by its place among the rates of [`Limits::rates`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Rate {
    Iops = 0,
    Bps = 1,
    ReadIops = 2,
    WriteIops = 3,
    ReadBps = 4,
    WriteBps = 5,
}

/// The words of a table.
pub(super) enum Table {
    /// Memory of this process.
    Own(Box<[AtomicU64; WORDS]>),
    /// The file of a group.
    Mapped(WatchedMapping<MmapRegion<()>>),
}

impl fmt::Debug for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Table").field(&self.limits()).finish()
    }
}

impl Default for Table {
    fn default() -> Self {
        Self::Own(Box::new(std::array::from_fn(|_| AtomicU64::new(0))))
    }
}

impl Table {
    /// The least length of a mapping, in bytes.
    pub(super) const LEN: u64 = 4096;

    fn word(&self, place: usize) -> &AtomicU64 {
        match self {
            Self::Own(words) => &words[place],
            Self::Mapped(mapping) => {
                mapping.get_atomic_ref(place * 8).expect("a mapping has at least LEN bytes, from a page on")
            }
        }
    }

    /// Marks an empty table as one of limits. False: it holds something else.
    pub(super) fn claim(&self, magic: u64) -> bool {
        let claimed = self.word(MAGIC).compare_exchange(0, magic, Relaxed, Relaxed);
        claimed.is_ok() || claimed == Err(magic)
    }

    pub(super) fn is_on(&self) -> bool {
        self.word(ON).load(Relaxed) != 0
    }

    pub(super) fn rate(&self, rate: Rate) -> u64 {
        self.word(RATES + rate as usize).load(Relaxed).min(RATE_MAX)
    }

    pub(super) fn burst_ns(&self) -> u64 {
        self.word(BURST_MS).load(Relaxed).min(BURST_MAX) * 1_000_000
    }

    pub(super) fn bucket(&self, rate: Rate) -> &AtomicU64 {
        self.word(BUCKETS + rate as usize)
    }

    pub(super) fn limits(&self) -> Option<Limits> {
        self.is_on().then(|| Limits {
            iops: self.rate(Rate::Iops),
            bps: self.rate(Rate::Bps),
            read_iops: self.rate(Rate::ReadIops),
            write_iops: self.rate(Rate::WriteIops),
            read_bps: self.rate(Rate::ReadBps),
            write_bps: self.rate(Rate::WriteBps),
            burst_ms: self.word(BURST_MS).load(Relaxed).min(BURST_MAX),
        })
    }

    /// Sets limits, without debts of earlier ones, or none.
    pub(super) fn set(&self, limits: Option<Limits>) {
        let values = limits.unwrap_or_default();
        for (place, (_, rate)) in values.rates().into_iter().enumerate() {
            self.word(RATES + place).store(rate, Relaxed);
            self.word(BUCKETS + place).store(0, Relaxed);
        }
        let burst = if values.burst_ms == 0 { BURST_DEFAULT } else { values.burst_ms };
        self.word(BURST_MS).store(burst, Relaxed);
        self.word(ON).store(limits.is_some().into(), Relaxed);
    }
}
