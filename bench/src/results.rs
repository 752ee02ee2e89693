//! Everything that was measured, as it is kept in JSON.

use std::fs::{self, File};
use std::io::BufWriter;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::cell::Cell;
use crate::error::BenchError;
use crate::lengths::Lengths;
use crate::machine::Machine;
use crate::sample::{Idle, Sample};
use crate::statistics::Spread;
use crate::storage::Storage;
use crate::subject::Subject;
use crate::usage::Memory;

/// One harness run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Results {
    pub(crate) machine: Machine,
    pub(crate) rounds: u32,
    #[serde(flatten)]
    pub(crate) lengths: Lengths,
    pub(crate) image_bytes: u64,
    /// Disks that were left out, and why.
    pub(crate) skipped: Vec<(Storage, String)>,
    pub(crate) runs: Vec<Run>,
    pub(crate) at_rest: Vec<AtRest>,
}

/// One turn of one subject.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Run {
    pub(crate) cell: Cell,
    pub(crate) subject: Subject,
    pub(crate) round: u32,
    pub(crate) outcome: Outcome,
}

/// The outcome of a turn.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Outcome {
    Measured(Sample),
    Failed(String),
}

/// A back-end's memory under a long load, and what it does afterwards with nothing to do.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct AtRest {
    pub(crate) cell: Cell,
    pub(crate) subject: Subject,
    pub(crate) load_milliseconds: u64,
    /// After a tenth of the load.
    pub(crate) memory_before: Memory,
    pub(crate) memory_after: Memory,
    pub(crate) idle: Idle,
}

impl Results {
    /// A figure of every round in which `subject` was measured in `cell`.
    pub(crate) fn figures(
        &self,
        cell: Cell,
        subject: Subject,
        figure: fn(&Sample) -> f64,
    ) -> Vec<(u32, f64)> {
        let samples = self.runs.iter().filter(|run| (run.cell, run.subject) == (cell, subject));
        samples
            .filter_map(|run| match &run.outcome {
                Outcome::Measured(sample) => Some((run.round, figure(sample))),
                Outcome::Failed(_) => None,
            })
            .collect()
    }

    /// The median of a figure and its spread; `None` where it was not measured.
    pub(crate) fn spread(&self, cell: Cell, subject: Subject, figure: fn(&Sample) -> f64) -> Option<Spread> {
        Spread::of(self.figures(cell, subject, figure).into_iter().map(|(_, figure)| figure))
    }

    /// A figure of `subject` by that of `base`, round by round.
    pub(crate) fn ratio(
        &self,
        cell: Cell,
        (subject, base): (Subject, Subject),
        figure: fn(&Sample) -> f64,
    ) -> Option<Spread> {
        Spread::of_ratios(&self.figures(cell, subject, figure), &self.figures(cell, base, figure))
    }

    /// All cells, in the order of the first turn in each.
    pub(crate) fn cells(&self) -> Vec<Cell> {
        let mut cells = Vec::new();
        for run in &self.runs {
            if !cells.contains(&run.cell) {
                cells.push(run.cell);
            }
        }
        cells
    }

    /// The runs that failed, each with its reason.
    pub(crate) fn failures(&self) -> impl Iterator<Item = (&Run, &str)> {
        self.runs.iter().filter_map(|run| match &run.outcome {
            Outcome::Failed(reason) => Some((run, reason.as_str())),
            Outcome::Measured(_) => None,
        })
    }

    pub(crate) fn save(&self, path: &Path) -> Result<(), BenchError> {
        if let Some(directory) = path.parent() {
            fs::create_dir_all(directory).map_err(BenchError::file("create", directory))?;
        }
        let file = File::create(path).map_err(BenchError::file("create", path))?;
        serde_json::to_writer(BufWriter::new(file), self)
            .map_err(|error| BenchError::file("write", path)(error.into()))
    }

    pub(crate) fn load(path: &Path) -> Result<Self, BenchError> {
        let text = fs::read(path).map_err(BenchError::file("read", path))?;
        serde_json::from_slice(&text).map_err(|source| BenchError::Json { path: path.to_owned(), source })
    }
}
