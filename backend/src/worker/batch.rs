//! How much of a kind is done in one turn.
//!
//! Driver, worker and device go on with one batch while the next is worked on. A large one would leave two of them waiting for the
//! third, a small one shares its system calls with few.
//!
//! A device that was waited for is idle, or soon will be: it is given new work before all that it has done is looked at, and before
//! all that there is to do is prepared. So batches are of two at first, and later a third of what was done since the wait: to prepare
//! a request takes up to half the time in which the disk of docs/performance.md does one, and a disk that runs dry costs an
//! interrupt more.

/// A batch of one kind of work: chains, or events.
#[derive(Debug, Clone, Copy)]
pub(super) struct Batch {
    /// So many were done since the device was waited for, as far as that matters.
    done: usize,
}

impl Default for Batch {
    /// The device was never waited for.
    fn default() -> Self {
        Self { done: Self::SHARE * Self::MAX }
    }
}

impl Batch {
    const MIN: usize = 2;
    const MAX: usize = 16;
    /// Of what was done since the wait, a batch is one in so many.
    const SHARE: usize = 3;

    /// The device was waited for.
    pub(super) const FIRST: Self = Self { done: 0 };

    /// Whether so many are enough for one turn.
    pub(super) fn is_full(self, count: usize) -> bool {
        count >= (self.done / Self::SHARE).max(Self::MIN)
    }

    /// So many were done in this turn, or none.
    pub(super) fn had(&mut self, count: usize) {
        self.done = (self.done + count).min(Self::SHARE * Self::MAX);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How much is done turn by turn when there is always more, from `batch` on.
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
    fn what_was_not_there_makes_none_larger() {
        let mut batch = Batch::FIRST;
        for count in [0, 1, 0] {
            batch.had(count);
            assert!(batch.is_full(2) && !batch.is_full(1));
        }
    }
}
