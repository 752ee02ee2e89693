//! The part of a disk that a crash leaves in doubt.

use std::sync::Arc;

use crate::metrics::Gauge;

/// The part of a disk that a crash now would leave in doubt, and what an earlier one has left. All
/// clones share it; one thread sets it.
#[derive(Debug, Clone, Default)]
pub struct CrashDoubt(Arc<Gauges>);

/// In bytes of the image.
#[derive(Debug, Default)]
struct Gauges {
    marked: Gauge,
    limit: Gauge,
    unverified: Gauge,
    left_by_crash: Gauge,
}

/// The values of a [`CrashDoubt`] at one time, in bytes of the image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DoubtfulBytes {
    /// Marked as written: a crash now would leave it in doubt.
    pub marked: u64,
    /// May stay marked where nothing is written any more.
    pub limit: u64,
    /// Not verified yet since the last crash.
    pub unverified: u64,
    /// Left in doubt by the last crash.
    pub left_by_crash: u64,
}

impl CrashDoubt {
    /// Only the thread that it belongs to may call it.
    pub(crate) fn set(&self, bytes: DoubtfulBytes) {
        let DoubtfulBytes { marked, limit, unverified, left_by_crash } = bytes;
        self.0.marked.set(marked);
        self.0.limit.set(limit);
        self.0.unverified.set(unverified);
        self.0.left_by_crash.set(left_by_crash);
    }

    /// The values now.
    pub fn get(&self) -> DoubtfulBytes {
        DoubtfulBytes {
            marked: self.0.marked.get(),
            limit: self.0.limit.get(),
            unverified: self.0.unverified.get(),
            left_by_crash: self.0.left_by_crash.get(),
        }
    }
}
