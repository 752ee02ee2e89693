//! One row of the matrix: a load on a kind of disk.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::storage::Storage;
use crate::workload::Workload;

/// A load on a kind of disk, the same for all who take turns.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub(crate) struct Cell {
    pub(crate) storage: Storage,
    pub(crate) workload: Workload,
}

impl fmt::Display for Cell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.storage.name(), self.workload)
    }
}
