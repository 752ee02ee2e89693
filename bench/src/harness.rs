//! `stableblk-bench run`: the subjects take turns, cell by cell, round by round.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use std::{env, fs, io};

use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use signal_hook::consts::{SIGINT, SIGTERM};
use tempfile::TempDir;

use crate::cell::Cell;
use crate::error::BenchError;
use crate::fio;
use crate::lengths::Lengths;
use crate::machine::Machine;
use crate::matrix::{self, Extent, Filter};
use crate::process::{Process, output_of};
use crate::results::{AtRest, Outcome, Results, Run};
use crate::sample::{LoadResult, Sample};
use crate::storage::{Disk, Storage};
use crate::subject::Subject;
use crate::workload::{Pattern, Start, Workload};
use crate::xfs::Xfs;

/// The time a run may take beyond its window: start, connection, end.
const PATIENCE: Duration = Duration::from_secs(20);
/// Ends with all that was written made durable.
const STOP_TIME: Duration = Duration::from_secs(60);
/// One block in this number of KiB is read or written before each run: one for each page of 64-bit
/// tuples, and less than a region.
const TOUCH_KIB: &str = "992";
/// The longest load for the memory of subjects other than stableblk with its defaults.
const MEMORY_SECONDS_OF_OTHERS: u64 = 30;
/// How long an idle back-end is watched.
const IDLE_MILLISECONDS: u64 = 3000;

/// Measure, and write the results as JSON
#[derive(Debug, Args)]
pub(crate) struct RunArgs {
    /// How much to measure
    #[arg(long, value_enum, default_value_t = Extent::Full)]
    extent: Extent,
    #[command(flatten)]
    filter: Filter,
    /// Rounds; the results are medians over them
    #[arg(long, default_value_t = 5, value_name = "N")]
    rounds: u32,
    #[command(flatten)]
    lengths: Lengths,
    /// Size of the images
    #[arg(long, default_value_t = 1024, value_name = "N")]
    image_mib: u64,
    /// Size of the large image
    #[arg(long, default_value_t = 16384, value_name = "N")]
    large_mib: u64,
    /// Directory on a tmpfs
    #[arg(long, default_value = "/dev/shm", value_name = "DIR")]
    tmpfs: PathBuf,
    /// Directory on an ext4
    #[arg(long, default_value = "target/bench", value_name = "DIR")]
    ext4: PathBuf,
    /// Directory on an XFS [default: a file system on a loop device, in the directory on an ext4]
    #[arg(long, value_name = "DIR")]
    xfs: Option<PathBuf>,
    /// The program to measure, built with the feature bench-null [default: beside this one]
    #[arg(long, value_name = "PATH")]
    stableblk: Option<PathBuf>,
    /// Where the results go
    #[arg(long, default_value = "target/bench/performance.json", value_name = "PATH")]
    output: PathBuf,
}

/// The times of a load.
#[derive(Debug, Clone, Copy)]
struct Times {
    warm_up: Duration,
    window: Duration,
    /// For which the client stays connected afterwards.
    idle: Duration,
}

impl Times {
    fn sum(self) -> Duration {
        self.warm_up + self.window + self.idle
    }
}

/// The programs and files that runs need.
struct Bench<'a> {
    args: &'a RunArgs,
    stableblk: PathBuf,
    scratch: TempDir,
    progress: ProgressBar,
    /// By a signal: between two runs there is nothing to clean up but the disks, which go when they
    /// are dropped.
    stopped: Arc<AtomicBool>,
}

/// Measures everything and returns the results, which have been saved.
pub(crate) fn run(args: &RunArgs) -> Result<Results, BenchError> {
    let scratch = tempfile::tempdir().map_err(BenchError::file("make a directory in", &env::temp_dir()))?;
    let stableblk = args.stableblk.clone().map_or_else(program_beside, Ok)?;
    let machine = Machine::examine(&stableblk, scratch.path())?;
    let stopped = catch_signals().map_err(BenchError::Signals)?;
    let mut bench = Bench { args, stableblk, scratch, progress: progress_bar(), stopped };
    let mut results = Results {
        machine,
        rounds: args.rounds,
        lengths: args.lengths,
        image_bytes: args.image_mib << 20,
        skipped: bench.skipped(),
        runs: Vec::new(),
        at_rest: Vec::new(),
    };
    let measured: Vec<_> = Storage::ALL
        .into_iter()
        .filter(|storage| {
            args.filter.admits_storage(*storage) && !results.skipped.iter().any(|(it, _)| it == storage)
        })
        .map(|storage| (storage, args.extent.cells(storage, &args.filter)))
        .filter(|(_, cells)| !cells.is_empty())
        .collect();
    if measured.is_empty() {
        let reasons: Vec<_> = results.skipped.iter().map(|(_, reason)| reason.as_str()).collect();
        return Err(BenchError::NothingToMeasure(reasons.join("; ")));
    }
    let turns: usize = measured.iter().flat_map(|(_, cells)| cells).map(|(_, subjects)| subjects.len()).sum();
    bench.progress.set_length(turns as u64 * u64::from(args.rounds));
    for (storage, cells) in measured {
        bench.measure(storage, &cells, &mut results)?;
    }
    bench.progress.finish_and_clear();
    results.save(&args.output)?;
    Ok(results)
}

fn catch_signals() -> io::Result<Arc<AtomicBool>> {
    let stopped = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM] {
        signal_hook::flag::register(signal, stopped.clone())?;
    }
    Ok(stopped)
}

/// The program to measure, if none is named.
pub(crate) fn program_beside() -> Result<PathBuf, BenchError> {
    let this = env::current_exe().map_err(BenchError::file("find", Path::new("/proc/self/exe")))?;
    Ok(this.with_file_name("stableblk"))
}

fn progress_bar() -> ProgressBar {
    let style = ProgressStyle::with_template("{bar:30} {pos}/{len} runs, {eta} left  {wide_msg}");
    ProgressBar::no_length().with_style(style.expect("a valid template"))
}

impl Bench<'_> {
    fn skipped(&self) -> Vec<(Storage, String)> {
        let wanted = Storage::ALL.into_iter().filter(|storage| self.args.filter.admits_storage(*storage));
        let refused = |storage| {
            let reason = self.refusal(storage)?;
            self.progress.suspend(|| eprintln!("{} is left out: {reason}", storage.name()));
            Some((storage, reason))
        };
        wanted.filter_map(refused).collect()
    }

    fn directory(&self, storage: Storage) -> &Path {
        match storage {
            Storage::Null => self.scratch.path(),
            Storage::Tmpfs => &self.args.tmpfs,
            Storage::Ext4 | Storage::Large => &self.args.ext4,
            Storage::Xfs => self.args.xfs.as_deref().unwrap_or(&self.args.ext4),
        }
    }

    /// Why no disk can be on `storage`, if none can.
    fn refusal(&self, storage: Storage) -> Option<String> {
        let (directory, size) = (self.directory(storage), self.size(storage));
        if storage != Storage::Xfs || self.args.xfs.is_some() {
            return Disk::refusal(storage, directory, size);
        }
        let tried = || {
            fs::create_dir_all(directory).map_err(BenchError::file("create", directory))?;
            Xfs::mount(directory, 0)
        };
        let no_room = || Disk::refusal(Storage::Ext4, directory, Xfs::file_size(size));
        tried().err().map(|error| error.to_string()).or_else(no_room)
    }

    /// A new disk, and the file system made for it where the machine has none.
    fn make_disk(&self, storage: Storage) -> Result<(Option<Xfs>, Disk), BenchError> {
        let (directory, size) = (self.directory(storage), self.size(storage));
        let makes_file_system = storage == Storage::Xfs && self.args.xfs.is_none();
        let xfs = makes_file_system.then(|| Xfs::mount(directory, size)).transpose()?;
        let root = xfs.as_ref().map_or_else(|| directory.to_owned(), Xfs::root);
        let disk = Disk::new(storage, &root, size, &self.stableblk)?;
        Ok((xfs, disk))
    }

    fn size(&self, storage: Storage) -> u64 {
        match storage {
            Storage::Large => self.args.large_mib << 20,
            _ => self.args.image_mib << 20,
        }
    }

    fn measure(
        &mut self,
        storage: Storage,
        cells: &[(Cell, Vec<Subject>)],
        results: &mut Results,
    ) -> Result<(), BenchError> {
        self.progress.set_message(format!("{}: writing the disk", storage.name()));
        // declared first, and so dropped last
        let (_file_system, disk) = self.make_disk(storage)?;
        for (cell, subjects) in cells {
            for round in 0..self.args.rounds {
                for subject in matrix::turns(subjects, round) {
                    if self.stopped.load(Ordering::Relaxed) {
                        return Err(BenchError::Stopped);
                    }
                    self.progress.set_message(format!("{cell}, {}", subject.title()));
                    let outcome = match self.take_turn(&disk, *cell, subject, round) {
                        Ok(sample) => Outcome::Measured(sample),
                        Err(error) if error.is_for_good() => return Err(error),
                        Err(error) => Outcome::Failed(error.to_string()),
                    };
                    results.runs.push(Run { cell: *cell, subject, round, outcome });
                    self.progress.inc(1);
                }
            }
        }
        // a later failure loses no results so far
        results.save(&self.args.output)?;
        if storage == Storage::Null {
            self.measure_at_rest(&disk, &mut results.at_rest)?;
            return Ok(());
        }
        self.progress.set_message(format!("{}: checking the disk", storage.name()));
        disk.check(&self.stableblk)
    }

    fn take_turn(&self, disk: &Disk, cell: Cell, subject: Subject, round: u32) -> Result<Sample, BenchError> {
        let (window, warm_up) = self.args.lengths.of(&cell);
        if cell.workload.start != Start::Warm {
            disk.cool()?;
        }
        if subject == Subject::Fio {
            let command = fio::command(&disk.image(), cell.workload, warm_up, window);
            return fio::parse(&output_of(command, self.scratch.path(), window + PATIENCE)?, cell.workload);
        }
        Ok(self
            .load(disk, cell.workload, subject, Times { warm_up, window, idle: Duration::ZERO }, Some(round))?
            .sample)
    }

    /// Four queues of 128 for a while, and then nothing.
    fn measure_at_rest(&self, disk: &Disk, at_rest: &mut Vec<AtRest>) -> Result<(), BenchError> {
        let subjects = [Subject::PiCrc64, Subject::PiCrc64Sleeping, Subject::Qemu];
        for subject in subjects.into_iter().filter(|it| self.args.filter.admits_subject(*it)) {
            let workload = Workload::new(Pattern::Randrw, 4096, 128).with_queues(4);
            let cell = Cell { storage: disk.storage, workload };
            self.progress.set_message(format!("{cell}, {}: memory, and at rest", subject.title()));
            let idle = Duration::from_millis(IDLE_MILLISECONDS);
            let longest = if subject == Subject::PiCrc64 { u64::MAX } else { MEMORY_SECONDS_OF_OTHERS };
            let seconds = self.args.lengths.memory_seconds.min(longest);
            let window = Duration::from_secs(seconds);
            let warm_up = Duration::from_millis(self.args.lengths.warm_up_milliseconds);
            let LoadResult { sample, memory_before, idle, .. } =
                self.load(disk, workload, subject, Times { warm_up, window, idle }, None)?;
            at_rest.extend(sample.memory.zip(idle).map(|(memory_after, idle)| {
                let load_milliseconds = seconds * 1000;
                AtRest { cell, subject, load_milliseconds, memory_before, memory_after, idle }
            }));
        }
        Ok(())
    }

    /// A back-end of its own, a client of its own, and both gone afterwards. Interrupts of a disk
    /// go to one core, and a thread that sleeps there is woken sooner: in a round all clients spin
    /// on the same core, and leave the same to the back-ends.
    fn load(
        &self,
        disk: &Disk,
        workload: Workload,
        subject: Subject,
        times: Times,
        round: Option<u32>,
    ) -> Result<LoadResult, BenchError> {
        let scratch = tempfile::tempdir_in(&self.scratch);
        let scratch = scratch.map_err(BenchError::file("make a directory in", self.scratch.path()))?;
        let socket = scratch.path().join("socket");
        let serve = subject.serve(disk, &socket, workload.queues, &self.stableblk);
        let mut back_end = Process::start(serve.expect("fio serves nothing"), scratch.path())?;
        back_end.wait_for(&socket, PATIENCE)?;
        let mut client = self.client(disk, workload, &socket, back_end.id(), times);
        if let Some(round) = round {
            client.args(["--core", &round.to_string()]);
        }
        let printed = output_of(client, scratch.path(), times.sum() + PATIENCE)?;
        let written = back_end.terminate(STOP_TIME)?;
        let result: LoadResult = serde_json::from_str(&printed)
            .map_err(|source| BenchError::Json { path: "the client's output".into(), source })?;
        Ok(result.with_written(written))
    }

    fn client(
        &self,
        disk: &Disk,
        workload: Workload,
        socket: &Path,
        back_end: u32,
        Times { warm_up, window, idle }: Times,
    ) -> Command {
        let Workload { pattern, block_size, depth, queues, flush_every, start, distribution, length: _ } =
            workload;
        let lengths = self.args.lengths;
        let mut client = Command::new("/proc/self/exe");
        client.arg("load").arg("--socket-path").arg(socket).args(["--pid", &back_end.to_string()]);
        client.args(["--rw", pattern.name(), "--block-size", &block_size.to_string()]);
        client.args(["--depth", &depth.to_string(), "--queues", &queues.to_string()]);
        client.args(["--milliseconds", &window.as_millis().to_string()]);
        client.args(["--warm-up-milliseconds", &warm_up.as_millis().to_string()]);
        client.args(["--flush-every", &flush_every.to_string(), "--start", start.name()]);
        client.args(["--distribution", distribution.name()]);
        if start == Start::Rested {
            client.args(["--rests", &lengths.rests.to_string()]);
            client.args(["--rest-milliseconds", &lengths.rest_milliseconds.to_string()]);
        }
        if start == Start::Warm {
            client.args(["--touch-kib", TOUCH_KIB]);
        }
        client.args(["--idle-milliseconds", &idle.as_millis().to_string()]);
        if disk.storage == Storage::Null {
            client.arg("--null");
        }
        client
    }
}
