//! Prints what the path alone costs a request of 4 KiB, on the null device, and what two queues
//! gain on two cores, as a Markdown table.
//!
//! `cargo bench -p stableblk --features bench-null --bench path [-- MODE]`. The variants take turns
//! in short runs; the best run of each counts. For the instructions of one mode: `valgrind
//! --tool=callgrind target/release/deps/path-* MODE`, with `STABLEBLK_BENCH_RUNS=1`. Each worker is
//! its own driver, so that two need no third core for one.

mod driven;

use std::sync::Arc;
use std::{env, iter};

use integrity::{Guard, IntegrityProfile, PiType};
use stableblk::device::mem::MemDevice;
use stableblk::device::null::NullDevice;
use stableblk::worker::disk::Bounce;
use virtio::request_type;

use crate::driven::{BATCH, CAPACITY, GRANULE, Load, run, run_at_once};

/// Runs of each variant, unless `STABLEBLK_BENCH_RUNS` says otherwise.
const RUNS: usize = 1001;
/// There is one pair of long runs for this number of runs.
const RUNS_TO_A_PAIR: usize = 40;
/// Batches of a long run: enough that differences in the start of two queues hardly matter.
const LONG: usize = 2000;

struct Mode {
    name: &'static str,
    device: Arc<NullDevice<MemDevice>>,
    bounce: Bounce,
    /// The guest's, in bytes. Where it is smaller than a granule the ranges of requests are locked,
    /// as they are with PI.
    block_size: u32,
    /// In nanoseconds: of a read, of a write.
    best: [f64; 2],
    /// Of reads, of writes: how many times as much two queues did as one, in each pair of long
    /// runs.
    gains: [Vec<f64>; 2],
}

impl Mode {
    fn new(name: &'static str, guard: Option<Guard>, bounce: Bounce) -> Self {
        let profile = guard.map(|guard| IntegrityProfile::new(guard, PiType::Type1, GRANULE));
        let profile = profile.transpose().expect("a profile that exists");
        let capacity = usize::try_from(CAPACITY).expect("it is small");
        let device = Arc::new(NullDevice::new(MemDevice::new(profile, capacity)));
        Self {
            name,
            device,
            bounce,
            block_size: GRANULE,
            best: [f64::INFINITY; 2],
            gains: Default::default(),
        }
    }
}

fn main() {
    let wanted = env::args().skip(1).find(|argument| !argument.starts_with("--"));
    let runs = env::var("STABLEBLK_BENCH_RUNS").map_or(RUNS, |runs| runs.parse().expect("a number"));
    let mut modes = vec![
        Mode::new("pi-64b", Some(Guard::Crc64Nvme), Bounce::Always),
        Mode::new("pi-t10", Some(Guard::Crc16T10Dif), Bounce::Always),
        Mode::new("bounce", None, Bounce::Always),
        Mode { block_size: 512, ..Mode::new("bounce-512", None, Bounce::Always) },
        Mode::new("zero-copy", None, Bounce::WhenUnaligned),
    ];
    modes.retain(|mode| wanted.as_deref().is_none_or(|wanted| wanted == mode.name));
    for turn in 1..=runs {
        for Mode { device, bounce, block_size, best, gains, .. } in &mut modes {
            for (kind, request_type) in [request_type::IN, request_type::OUT].into_iter().enumerate() {
                let load = || Load { request_type, block_size: *block_size, bounce: *bounce, inflight: None };
                best[kind] = best[kind].min(run(device.clone(), load()));
                if turn % RUNS_TO_A_PAIR == 0 {
                    let long = |queues| {
                        let loads = iter::repeat_with(load).take(queues).collect();
                        run_at_once(device.clone(), loads, LONG)
                    };
                    gains[kind].push(long(1) / long(2));
                }
            }
        }
    }
    println!(
        "One request of 4 KiB, {BATCH} at a time, the best of {runs} alternating runs; two queues on two cores against one, the median of {} pairs.\n",
        runs / RUNS_TO_A_PAIR
    );
    println!("| mode | read | write | two queues: read | write |\n|---|---|---|---|---|");
    for Mode { name, best: [read, write], gains, .. } in modes {
        let [reads, writes] = gains
            .map(|gains| median(gains).map(|gain| format!("{gain:.2} times as many")).unwrap_or_default());
        println!("| {name} | {read:.0} ns | {write:.0} ns | {reads} | {writes} |");
    }
}

fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied()
}
