//! How long runs are.

use std::time::Duration;

use clap::Args;
use serde::{Deserialize, Serialize};

use crate::cell::Cell;
use crate::storage::Storage;
use crate::workload::{Length, Start};

/// The window on a large disk: a second, since that of a cold start is a second.
const LARGE_WINDOW: Duration = Duration::from_secs(1);
const LARGE_WARM_UP: Duration = Duration::from_millis(200);
/// The time after which a load is steady: checkpoints have begun by then.
const STEADY_AFTER: Duration = Duration::from_secs(3);

/// How long each run is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Args, Serialize, Deserialize)]
pub(crate) struct Lengths {
    /// How long each run is measured
    #[arg(long, default_value_t = 300, value_name = "N")]
    pub(crate) milliseconds: u64,
    /// How long each run is warmed up before
    #[arg(long, default_value_t = 60, value_name = "N")]
    pub(crate) warm_up_milliseconds: u64,
    /// How long the runs are measured that stand for the load of a database
    #[arg(long, default_value_t = 60_000, value_name = "N")]
    pub(crate) long_milliseconds: u64,
    /// Requests of a run in which each follows a rest
    #[arg(long, default_value_t = 20, value_name = "N")]
    pub(crate) rests: u32,
    /// How long such a rest is
    #[arg(long, default_value_t = 5000, value_name = "N")]
    pub(crate) rest_milliseconds: u64,
    /// How long the load is under which the memory of bounce + PI 64b is watched; of others half a
    /// minute at most
    #[arg(long, default_value_t = 30, value_name = "N")]
    pub(crate) memory_seconds: u64,
}

impl Lengths {
    /// The window that is measured, and the time before it.
    pub(crate) fn of(&self, cell: &Cell) -> (Duration, Duration) {
        let usual = Duration::from_millis(self.milliseconds);
        let usual_warm_up = Duration::from_millis(self.warm_up_milliseconds);
        let (window, warm_up) = match (cell.storage, cell.workload.start) {
            (_, Start::Rested) => (self.rest() * self.rests, Duration::ZERO),
            (_, Start::Cold) => (LARGE_WINDOW, Duration::ZERO),
            (_, Start::Steady) => (LARGE_WINDOW, STEADY_AFTER),
            (Storage::Large, Start::Warm) => (LARGE_WINDOW, LARGE_WARM_UP),
            (_, Start::Warm) => (usual, usual_warm_up),
        };
        match cell.workload.length {
            Length::Short => (window, warm_up),
            Length::Long => (Duration::from_millis(self.long_milliseconds), warm_up),
        }
    }

    pub(crate) fn rest(&self) -> Duration {
        Duration::from_millis(self.rest_milliseconds)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::LENGTHS;
    use crate::workload::{Pattern, Workload};

    fn of(storage: Storage, workload: Workload) -> [u128; 2] {
        let (window, warm_up) = LENGTHS.of(&Cell { storage, workload });
        [window.as_millis(), warm_up.as_millis()]
    }

    #[test]
    fn a_long_run_differs_in_its_window_alone() {
        let workload = Workload::new(Pattern::Randwrite, 8192, 8).with_flushes(16);
        assert_eq!(of(Storage::Ext4, workload), [100, 10]);
        assert_eq!(of(Storage::Ext4, workload.long()), [2000, 10]);
        assert_eq!(of(Storage::Large, workload.starting(Start::Cold)), [1000, 0]);
        assert_eq!(of(Storage::Large, workload.starting(Start::Cold).long()), [2000, 0]);
    }

    #[test]
    fn a_run_with_rests_takes_all_of_them() {
        let workload = Workload::new(Pattern::Randwrite, 4096, 1).starting(Start::Rested);
        assert_eq!(of(Storage::Large, workload), [3 * 500, 0]);
    }
}
