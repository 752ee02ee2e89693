//! How many chains or events a worker handles in one turn.
//!
//! Driver, worker and device work on different batches at the same time. A large batch leaves two
//! of them waiting for the third; in a small one few requests share the system calls.
//!
//! A device that the worker has waited for is idle, or soon will be. It gets new work before all
//! its results are handled, and before all new requests are prepared. So batches are of two at
//! first, and later a third of what was done since the wait: preparing a request takes up to half
//! the time in which the disk of docs/performance.md does one, and a disk that runs out of work
//! costs one more interrupt.

/// A batch of one kind of work: chains, or events.
#[derive(Debug, Clone, Copy)]
pub(super) struct Batch {
    /// How many were done since the device was waited for, up to the number that matters.
    done: usize,
}

impl Default for Batch {
    /// The batch of a worker that has never waited for the device.
    fn default() -> Self {
        Self { done: Self::SHARE * Self::MAX }
    }
}

impl Batch {
    const MIN: usize = 2;
    const MAX: usize = 16;
    /// A batch is what was done since the wait, divided by this.
    const SHARE: usize = 3;

    /// The batch after the device was waited for.
    pub(super) const FIRST: Self = Self { done: 0 };

    /// Whether `count` are enough for one turn.
    pub(super) fn is_full(self, count: usize) -> bool {
        count >= (self.done / Self::SHARE).max(Self::MIN)
    }

    /// Notes that `count` were done in this turn.
    pub(super) fn had(&mut self, count: usize) {
        self.done = (self.done + count).min(Self::SHARE * Self::MAX);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How many are done in each turn, from `batch` on, when there is always more.
    fn turns(mut batch: Batch) -> Vec<usize> {
        std::iter::repeat_with(|| {
            let count = (1..=Batch::MAX).find(|&count| batch.is_full(count)).unwrap();
            batch.had(count);
            count
        })
        .take(16)
        .collect()
    }

    #[test]
    fn batches_grow_from_small_to_large() {
        assert_eq!(turns(Batch::FIRST), [2, 2, 2, 2, 2, 3, 4, 5, 7, 9, 12, 16, 16, 16, 16, 16]);
        assert_eq!(turns(Batch::default()), [16; 16]);
    }

    #[test]
    fn turns_without_work_make_no_batch_larger() {
        let mut batch = Batch::FIRST;
        for count in [0, 1, 0] {
            batch.had(count);
            assert!(batch.is_full(2) && !batch.is_full(1));
        }
    }
}
