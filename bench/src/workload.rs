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
    /// As cold, and each request follows a rest
    Rested,
}

impl Start {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Warm => "warm",
            Self::Cold => "cold",
            Self::Steady => "steady",
            Self::Rested => "rested",
        }
    }
}

/// How the requests are spread over the disk.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, ValueEnum, Serialize, Deserialize,
)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Distribution {
    /// All blocks alike
    #[default]
    Uniform,
    /// By Zipf's law with the exponent 1.1: few blocks often
    Zipf,
}

impl Distribution {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Uniform => "uniform",
            Self::Zipf => "zipf",
        }
    }
}

/// How long a load is measured.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Length {
    #[default]
    Short,
    /// As long as rare latencies and several checkpoints need.
    Long,
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
    /// How the requests are spread over the disk
    #[arg(long, value_enum, default_value_t)]
    #[serde(default)]
    pub(crate) distribution: Distribution,
    #[arg(skip)]
    #[serde(default)]
    pub(crate) length: Length,
}

impl Workload {
    pub(crate) fn new(pattern: Pattern, block_size: usize, depth: usize) -> Self {
        Self {
            block_size,
            queues: 1,
            pattern,
            depth,
            flush_every: 0,
            start: Start::Warm,
            distribution: Distribution::Uniform,
            length: Length::Short,
        }
    }

    pub(crate) fn with_distribution(self, distribution: Distribution) -> Self {
        Self { distribution, ..self }
    }

    pub(crate) fn long(self) -> Self {
        Self { length: Length::Long, ..self }
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
        let Self { block_size, queues, pattern, depth, flush_every, start, distribution, length } = self;
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
        if *distribution != Distribution::Uniform {
            write!(f, ", {}", distribution.name())?;
        }
        if *start != Start::Warm {
            write!(f, ", {}", start.name())?;
        }
        if *length == Length::Long { f.write_str(", long") } else { Ok(()) }
    }
}
