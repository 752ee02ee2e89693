//! `make bench`: stableblk in each of its modes, in alternation with what a user would pick
//! instead.
//!
//! [`client`] is the load, [`matrix`] has the cells to measure, [`harness`] takes the turns,
//! [`report`] writes the results. [`sizes`] measures what a disk's size changes.

mod cell;
mod charts;
mod client;
mod content;
mod error;
mod fio;
mod harness;
mod lengths;
mod load;
mod machine;
mod matrix;
mod places;
mod process;
mod report;
mod results;
mod sample;
mod size_chart;
mod sizes;
mod statistics;
mod storage;
mod subject;
mod targets;
#[cfg(test)]
mod testing;
mod usage;
mod workload;
mod xfs;

use std::error::Error;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::error::BenchError;
use crate::results::Results;

/// Measure vhost-user-blk back-ends
#[derive(Debug, Parser)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Run(Box<harness::RunArgs>),
    Load(load::LoadArgs),
    Sizes(sizes::SizesArgs),
    /// Write an image that `load` accepts
    Image {
        /// Where
        path: PathBuf,
        /// Its size
        #[arg(long, value_name = "N", default_value_t = 1024)]
        mib: u64,
    },
    /// Write the page and its charts from results
    Report {
        /// The results
        #[arg(default_value = "target/bench/performance.json", value_name = "JSON")]
        results: PathBuf,
        #[command(flatten)]
        output: report::ReportArgs,
    },
}

fn main() -> ExitCode {
    let Err(error) = run(Cli::parse().command) else { return ExitCode::SUCCESS };
    let causes = std::iter::successors(error.source(), |error| (*error).source());
    eprintln!(
        "stableblk-bench: {}",
        causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
    );
    ExitCode::FAILURE
}

fn run(command: Command) -> Result<(), BenchError> {
    match command {
        Command::Load(args) => load::run(&args),
        Command::Sizes(args) => sizes::run(&args),
        Command::Image { path, mib } => content::create(&path, mib << 20),
        Command::Report { results, output } => report::write(&Results::load(&results)?, &output),
        Command::Run(args) => {
            let results = harness::run(&args)?;
            let failed = results.failures().count();
            if failed > 0 {
                return Err(BenchError::FailedRuns { failed, runs: results.runs.len() });
            }
            Ok(())
        }
    }
}
