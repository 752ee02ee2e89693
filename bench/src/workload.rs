//! The requests of a benchmark.

use std::fmt;

use clap::{Args, ValueEnum};
use serde::{Deserialize, Serialize};

/// Which requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Pattern {
    /// Random reads
    Randread,
    /// Random writes
    Randwrite,
    /// 70 % random reads, 30 % random writes
    Randrw,
}

impl Pattern {
    /// Percent of reads where there are both.
    pub(crate) const READ_SHARE: u8 = 70;

    /// Whether there are reads (true), writes (false), or both.
    pub(crate) fn directions(self) -> &'static [bool] {
        match self {
            Self::Randread => &[true],
            Self::Randwrite => &[false],
            Self::Randrw => &[true, false],
        }
    }

    /// The name that fio has for it, and we too.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Randread => "randread",
            Self::Randwrite => "randwrite",
            Self::Randrw => "randrw",
        }
    }
}

/// A load: requests of one size, a fixed number in flight in each queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Args, Serialize, Deserialize)]
pub(crate) struct Workload {
    /// Bytes of a request
    #[arg(long, default_value_t = 4096)]
    pub(crate) block_size: usize,
    /// Queues
    #[arg(long, default_value_t = 1)]
    pub(crate) queues: usize,
    /// Pattern of requests
    #[arg(long = "rw", value_enum)]
    pub(crate) pattern: Pattern,
    /// Requests in flight in each queue
    #[arg(long, default_value_t = 32)]
    pub(crate) depth: usize,
}

impl Workload {
    pub(crate) fn new(pattern: Pattern, block_size: usize, depth: usize) -> Self {
        Self { block_size, queues: 1, pattern, depth }
    }

    pub(crate) fn with_queues(self, queues: usize) -> Self {
        Self { queues, ..self }
    }
}

impl fmt::Display for Workload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { block_size, queues, pattern, depth } = self;
        match block_size {
            size if size.is_multiple_of(1 << 20) => write!(f, "{} MiB ", size >> 20)?,
            size => write!(f, "{} KiB ", size >> 10)?,
        }
        write!(f, "{} QD{depth}", pattern.name())?;
        if *queues > 1 { write!(f, " x {queues} queues") } else { Ok(()) }
    }
}
