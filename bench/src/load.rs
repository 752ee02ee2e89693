//! `stableblk-bench load`: one load on one back-end, whichever it is. One line of JSON.

use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use clap::Args;
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

use crate::client::{Client, Counted};
use crate::error::BenchError;
use crate::sample::{Idle, LoadResult, Sample};
use crate::usage::{CpuTime, CpuUse, Memory, context_switches};
use crate::workload::{Start, Workload};

/// Time for a back-end to find out that there is nothing more to do: the watchdog of stableblk
/// looks three times more, every 2.5 s.
const SETTLE_TIME: Duration = Duration::from_secs(9);

/// Drive a vhost-user-blk back-end and print what it did and what it used, as JSON
#[derive(Debug, Args)]
pub(crate) struct LoadArgs {
    /// Socket of the back-end
    #[arg(long, value_name = "PATH")]
    socket_path: PathBuf,
    /// Process of the back-end
    #[arg(long, value_name = "N")]
    pid: u32,
    #[command(flatten)]
    workload: Workload,
    /// How long to measure
    #[arg(long, value_name = "N", default_value_t = 1000)]
    milliseconds: u64,
    /// How long to warm up before
    #[arg(long, value_name = "N", default_value_t = 100)]
    warm_up_milliseconds: u64,
    /// With --start rested: requests, each after a rest
    #[arg(long, value_name = "N", default_value_t = 20)]
    rests: u32,
    /// How long such a rest is
    #[arg(long, value_name = "N", default_value_t = 5000)]
    rest_milliseconds: u64,
    /// Before anything else, read or write a block in every N KiB
    #[arg(long, value_name = "N")]
    touch_kib: Option<u64>,
    /// How long to stay connected afterwards without a request, and to watch the back-end do
    /// nothing
    #[arg(long, value_name = "N", default_value_t = 0)]
    idle_milliseconds: u64,
    /// Keep to one of the cores, the Nth counted round and round
    #[arg(long, value_name = "N")]
    core: Option<u32>,
    /// The disk stores nothing: do not look at what was read
    #[arg(long)]
    null: bool,
}

pub(crate) fn run(args: &LoadArgs) -> Result<(), BenchError> {
    if let Some(number) = args.core {
        keep_to_core(number).map_err(|error| BenchError::Core(error.into()))?;
    }
    let mut client = Client::connect(&args.socket_path, args.workload)?;
    if let Some(kib) = args.touch_kib {
        for is_read in args.workload.pattern.directions() {
            client.touch(kib << 10, *is_read)?;
        }
    }
    if args.warm_up_milliseconds > 0 {
        client.drive(Duration::from_millis(args.warm_up_milliseconds))?;
    }
    let (memory_before, cpu) = (Memory::of(args.pid)?, CpuTime::of(args.pid)?);
    let counted = if args.workload.start == Start::Rested {
        client.drive_after_rests(args.rests, Duration::from_millis(args.rest_milliseconds))?
    } else {
        client.drive(Duration::from_millis(args.milliseconds))?
    };
    let used = CpuTime::of(args.pid)?.since(cpu);
    let memory = Memory::of(args.pid)?;
    client.drain(!args.null)?;
    let result = LoadResult {
        sample: Sample { memory: Some(memory), ..sample(&counted, args.workload.block_size, used) },
        memory_before,
        written_bytes: client.written(),
        idle: watch_idle(args.pid, Duration::from_millis(args.idle_milliseconds))?,
    };
    println!("{}", serde_json::to_string(&result).expect("numbers and strings"));
    Ok(())
}

/// Of those that this process may use.
fn keep_to_core(number: u32) -> rustix::io::Result<()> {
    let allowed = sched_getaffinity(None)?;
    let cores: Vec<_> = (0..CpuSet::MAX_CPU).filter(|core| allowed.is_set(*core)).collect();
    let mut one = CpuSet::new();
    one.set(cores[number as usize % cores.len()]);
    sched_setaffinity(None, &one)
}

fn sample(counted: &Counted, block_size: usize, used: CpuUse) -> Sample {
    let percentile = |quantile| microseconds(counted.latencies.value_at_quantile(quantile));
    let client_busy = counted.client_busy.as_secs_f64() / counted.window.as_secs_f64();
    Sample {
        p50_us: percentile(0.5),
        p99_us: percentile(0.99),
        p999_us: percentile(0.999),
        client_busy: Some(client_busy),
        ..Sample::of_requests(counted.latencies.len(), block_size, counted.window, used)
    }
}

#[expect(clippy::cast_precision_loss, reason = "53 bits of nanoseconds are more than three months")]
fn microseconds(nanoseconds: u64) -> f64 {
    nanoseconds as f64 / 1000.0
}

/// The activity of the back-end while it has no requests.
fn watch_idle(pid: u32, time: Duration) -> Result<Option<Idle>, BenchError> {
    if time.is_zero() {
        return Ok(None);
    }
    thread::sleep(SETTLE_TIME);
    let (start, cpu, switches) = (Instant::now(), CpuTime::of(pid)?, context_switches(pid)?);
    thread::sleep(time);
    let (used, switches) = (CpuTime::of(pid)?.since(cpu), context_switches(pid)? - switches);
    Ok(Some(Idle::new(switches, used, start.elapsed())))
}
