//! How much of a kind is done in one turn.
//!
//! Driver, worker and device go on with one batch while the next is worked on. A large one would leave two of them waiting for the
//! third, a small one shares its system calls with few.
//!
//! A device that was waited for is idle, or soon will be: it is given new work before all that it has done is looked at, and before
//! all that there is to do is prepared. So the first batch after a wait is small, and each that follows is half as large again: to
//! prepare a request takes a third to a half of the time in which the disks that were measured do one.

/// A batch of one kind of work: chains, or events.
#[derive(Debug, Clone, Copy)]
pub(super) struct Batch(usize);

impl Default for Batch {
    fn default() -> Self {
        Self(Self::MAX)
    }
}

impl Batch {
    const MAX: usize = 16;
    /// After a wait.
    pub(super) const FIRST: Self = Self(2);

    /// Whether so many are enough for one turn.
    pub(super) fn is_full(self, count: usize) -> bool {
        count >= self.0
    }

    /// So many were done in this turn, or none.
    pub(super) fn had(&mut self, count: usize) {
        self.0 = (count + count / 2).clamp(self.0, Self::MAX);
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
        .take(8)
        .collect()
    }

    #[test]
    fn batches_grow_from_small_to_large() {
        assert_eq!(turns(Batch::FIRST), [2, 3, 4, 6, 9, 13, 16, 16]);
        assert_eq!(turns(Batch::default()), [16; 8]);
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
