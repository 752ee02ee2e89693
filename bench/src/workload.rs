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

/// The state of the disk's sidecar when a load begins, and the part of the load that is measured.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, ValueEnum, Serialize, Deserialize,
)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Start {
    /// A block was read or written in each part of the disk before
    #[default]
    Warm,
    /// The sidecar was just opened, and none of it is in memory
    Cold,
    /// As cold, but measured from the fourth second on
    Steady,
}

impl Start {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Warm => "warm",
            Self::Cold => "cold",
            Self::Steady => "steady",
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
    /// A flush follows every Nth write; 0 for none
    #[arg(long, default_value_t = 0, value_name = "N")]
    #[serde(default)]
    pub(crate) flush_every: u32,
    /// State of the sidecar when the load begins
    #[arg(long, value_enum, default_value_t)]
    #[serde(default)]
    pub(crate) start: Start,
}

impl Workload {
    pub(crate) fn new(pattern: Pattern, block_size: usize, depth: usize) -> Self {
        Self { block_size, queues: 1, pattern, depth, flush_every: 0, start: Start::Warm }
    }

    pub(crate) fn starting(self, start: Start) -> Self {
        Self { start, ..self }
    }

    pub(crate) fn with_flushes(self, flush_every: u32) -> Self {
        Self { flush_every, ..self }
    }

    pub(crate) fn with_queues(self, queues: usize) -> Self {
        Self { queues, ..self }
    }
}

impl fmt::Display for Workload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { block_size, queues, pattern, depth, flush_every, start } = self;
        match block_size {
            size if size.is_multiple_of(1 << 20) => write!(f, "{} MiB ", size >> 20)?,
            size => write!(f, "{} KiB ", size >> 10)?,
        }
        write!(f, "{} QD{depth}", pattern.name())?;
        if *queues > 1 {
            write!(f, " x {queues} queues")?;
        }
        match flush_every {
            0 => {}
            1 => f.write_str(", a flush after each")?,
            n => write!(f, ", a flush after each {n}")?,
        }
        if *start == Start::Warm { Ok(()) } else { write!(f, ", {}", start.name()) }
    }
}
