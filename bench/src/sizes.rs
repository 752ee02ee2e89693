//! `stableblk-bench sizes`: one load on disks of growing size, in sparse files, so that nothing
//! changes but the size.

use std::fmt::Write as _;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use clap::Args;
use serde::{Deserialize, Serialize};
use tempfile::TempDir;

use crate::error::BenchError;
use crate::harness::program_beside;
use crate::process::{Process, output_of};
use crate::sample::LoadResult;
use crate::size_chart;
use crate::statistics::Spread;
use crate::storage::Disk;
use crate::subject::Subject;
use crate::targets::mib;

/// Requests in flight.
const DEPTH: u32 = 32;
/// The time that anything but the load may take.
const PATIENCE: Duration = Duration::from_secs(60);
/// That with PI is measured, and the other it is compared with.
pub(crate) const SUBJECTS: [Subject; 2] = [Subject::PiCrc64, Subject::Bounce];

/// Measure 4 KiB random writes on sparse disks of several sizes, kill the back-end, and see how
/// long it takes until the disk is served again
#[derive(Debug, Args)]
pub(crate) struct SizesArgs {
    /// Sizes in GiB
    #[arg(long, value_delimiter = ',', default_value = "1,16,64,1024,16384,102400", value_name = "N,N")]
    gib: Vec<u64>,
    /// Directory for the disks: a tmpfs, or another file system that has files of these sizes
    #[arg(long, default_value = "/dev/shm", value_name = "DIR")]
    directory: PathBuf,
    /// Rounds; the results are medians over them
    #[arg(long, default_value_t = 5, value_name = "N")]
    rounds: u32,
    /// How long each load is. In a tmpfs each second takes about a gigabyte of memory
    #[arg(long, default_value_t = 1000, value_name = "N")]
    milliseconds: u64,
    /// The program to measure [default: beside this one]
    #[arg(long, value_name = "PATH")]
    stableblk: Option<PathBuf>,
    /// Where the results go
    #[arg(long, default_value = "target/bench/sizes.json", value_name = "PATH")]
    output: PathBuf,
}

/// One load on a disk of one size.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct SizeRun {
    pub(crate) gib: u64,
    pub(crate) subject: Subject,
    pub(crate) round: u32,
    /// From the start of the program to its socket.
    pub(crate) open_ms: f64,
    pub(crate) iops: f64,
    /// The back-end's own, after the load.
    pub(crate) memory_mib: f64,
    /// As `open_ms`, after it was killed under the load.
    pub(crate) reopen_ms: f64,
}

/// All runs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Sizes {
    pub(crate) milliseconds: u64,
    pub(crate) runs: Vec<SizeRun>,
}

/// Measures, saves the results, and prints them as a table.
pub(crate) fn run(args: &SizesArgs) -> Result<(), BenchError> {
    let stableblk = args.stableblk.clone().map_or_else(program_beside, Ok)?;
    let mut sizes = Sizes { milliseconds: args.milliseconds, runs: Vec::new() };
    for round in 0..args.rounds {
        for &gib in &args.gib {
            for subject in SUBJECTS {
                eprintln!("round {} of {}: {gib} GiB, {}", round + 1, args.rounds, subject.title());
                let run = measure(args, &stableblk, gib, subject)?;
                sizes.runs.push(SizeRun { round, ..run });
            }
        }
    }
    sizes.save(&args.output)?;
    print!("{}", sizes.table());
    Ok(())
}

fn measure(args: &SizesArgs, stableblk: &Path, gib: u64, subject: Subject) -> Result<SizeRun, BenchError> {
    let disk = Disk::sparse(&args.directory, gib << 30, stableblk)?;
    let scratch = tempfile::tempdir().map_err(BenchError::file("make a directory in", Path::new("/tmp")))?;
    let (back_end, opened) = open(&disk, subject, stableblk, &scratch)?;
    let result = load(args, &scratch, back_end.id())?;
    // with the signal that no process can catch
    drop(back_end);
    let (_, reopened) = open(&disk, subject, stableblk, &scratch)?;
    let own_kib = result.sample.memory.map_or(0, |memory| memory.own_kib);
    let milliseconds = |time: Duration| time.as_secs_f64() * 1000.0;
    Ok(SizeRun {
        gib,
        subject,
        round: 0,
        open_ms: milliseconds(opened),
        iops: result.sample.iops,
        memory_mib: mib(own_kib),
        reopen_ms: milliseconds(reopened),
    })
}

/// Starts the back-end, and waits until its socket is there.
fn open(
    disk: &Disk,
    subject: Subject,
    stableblk: &Path,
    scratch: &TempDir,
) -> Result<(Process, Duration), BenchError> {
    let socket = socket(scratch);
    // one that was killed has left it
    let _ = fs::remove_file(&socket);
    let serve = subject.serve(disk, &socket, 1, stableblk).expect("both serve disks");
    let begun = Instant::now();
    let mut back_end = Process::start(serve, scratch.path())?;
    back_end.wait_for(&socket, PATIENCE)?;
    Ok((back_end, begun.elapsed()))
}

fn socket(scratch: &TempDir) -> PathBuf {
    scratch.path().join("socket")
}

fn load(args: &SizesArgs, scratch: &TempDir, back_end: u32) -> Result<LoadResult, BenchError> {
    let mut client = Command::new("/proc/self/exe");
    client.args(["load", "--rw", "randwrite", "--block-size", "4096", "--warm-up-milliseconds", "0"]);
    client.args(["--pid", &back_end.to_string(), "--depth", &DEPTH.to_string()]);
    client.args(["--milliseconds", &args.milliseconds.to_string()]);
    client.arg("--socket-path").arg(socket(scratch));
    let limit = Duration::from_millis(args.milliseconds) + PATIENCE;
    let printed = output_of(client, scratch.path(), limit)?;
    serde_json::from_str(&printed)
        .map_err(|source| BenchError::Json { path: "the client's output".into(), source })
}

impl Sizes {
    pub(crate) fn load(path: &Path) -> Result<Self, BenchError> {
        let text = fs::read(path).map_err(BenchError::file("read", path))?;
        serde_json::from_slice(&text).map_err(|source| BenchError::Json { path: path.to_owned(), source })
    }

    fn save(&self, path: &Path) -> Result<(), BenchError> {
        let directory = path.parent().unwrap_or(Path::new("."));
        fs::create_dir_all(directory).map_err(BenchError::file("create", directory))?;
        let file = File::create(path).map_err(BenchError::file("create", path))?;
        serde_json::to_writer(file, self).map_err(|error| BenchError::file("write", path)(error.into()))
    }

    /// The sizes in GiB, in order.
    pub(crate) fn gib(&self) -> Vec<u64> {
        let mut sizes: Vec<_> = self.runs.iter().map(|run| run.gib).collect();
        sizes.sort_unstable();
        sizes.dedup();
        sizes
    }

    fn figures(&self, gib: u64, subject: Subject, figure: fn(&SizeRun) -> f64) -> Vec<(u32, f64)> {
        let runs = self.runs.iter().filter(|run| (run.gib, run.subject) == (gib, subject));
        runs.map(|run| (run.round, figure(run))).collect()
    }

    /// The median of a figure of the subject with PI.
    pub(crate) fn median(&self, gib: u64, figure: fn(&SizeRun) -> f64) -> Option<f64> {
        let figures = self.figures(gib, SUBJECTS[0], figure).into_iter().map(|(_, figure)| figure);
        Spread::of(figures).map(|spread| spread.median)
    }

    /// IOPS with PI by those without, round by round.
    pub(crate) fn ratio(&self, gib: u64) -> Option<Spread> {
        let iops = |subject| self.figures(gib, subject, |run| run.iops);
        Spread::of_ratios(&iops(SUBJECTS[0]), &iops(SUBJECTS[1]))
    }

    /// Medians by size, as Markdown.
    pub(crate) fn table(&self) -> String {
        let mut table =
            "| disk | IOPS, PI by bounce only | thousand IOPS | own memory, MiB | open, ms | open after \
                         kill -9, ms |\n|---|---|---|---|---|---|\n"
                .to_owned();
        for gib in self.gib() {
            let ratio = self
                .ratio(gib)
                .map_or_else(String::new, |it| format!("{:.2} ({:.2} to {:.2})", it.median, it.low, it.high));
            let median = |figure| self.median(gib, figure).unwrap_or(f64::NAN);
            let _ = writeln!(
                table,
                "| {} | {ratio} | {:.0} | {:.0} | {:.0} | {:.0} |",
                size_chart::name(gib),
                median(|run| run.iops / 1000.0),
                median(|run| run.memory_mib),
                median(|run| run.open_ms),
                median(|run| run.reopen_ms),
            );
        }
        table
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// Two rounds on two disks.
    pub(crate) fn made_up() -> Sizes {
        let run = |gib, subject, round, iops| SizeRun {
            gib,
            subject,
            round,
            open_ms: 20.0,
            iops,
            memory_mib: 30.0,
            reopen_ms: 400.0,
        };
        let runs = vec![
            run(102_400, SUBJECTS[0], 0, 90_000.0),
            run(102_400, SUBJECTS[1], 0, 100_000.0),
            run(1, SUBJECTS[0], 0, 100_000.0),
            run(1, SUBJECTS[1], 0, 100_000.0),
            run(1, SUBJECTS[0], 1, 300_000.0),
            run(1, SUBJECTS[1], 1, 200_000.0),
        ];
        Sizes { milliseconds: 1000, runs }
    }

    #[test]
    fn a_row_is_one_size() {
        let table = made_up().table();
        let rows: Vec<_> = table.lines().skip(2).collect();
        assert_eq!(
            rows,
            [
                "| 1 GiB | 1.25 (1.00 to 1.50) | 200 | 30 | 20 | 400 |",
                "| 100 TiB | 0.90 (0.90 to 0.90) | 90 | 30 | 20 | 400 |"
            ]
        );
    }

    #[test]
    fn results_survive_json() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("made/sizes.json");
        made_up().save(&path).unwrap();
        assert_eq!(Sizes::load(&path).unwrap(), made_up());
    }
}
