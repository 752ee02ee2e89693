//! Counters and values that one thread writes and any thread reads.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// A counter with one writer: no locked instruction on the path.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds `amount`. Only the owning worker may call it.
    pub fn add(&self, amount: u64) {
        self.0.store(self.0.load(Relaxed).wrapping_add(amount), Relaxed);
    }

    /// The value, from any thread.
    pub fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }

    /// Adds one. Returns whether this one should be logged: the 1st, 2nd, 4th, 8th and so on, so
    /// that a guest that makes errors cannot fill the log.
    pub fn add_logged(&self) -> bool {
        self.add(1);
        self.get().is_power_of_two()
    }
}

/// A value with one writer.
#[derive(Debug, Default)]
pub struct Gauge(AtomicU64);

impl Gauge {
    /// Only the owner of the queue may call it.
    pub fn set(&self, value: u64) {
        self.0.store(value, Relaxed);
    }

    /// The value, from any thread.
    pub fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}
