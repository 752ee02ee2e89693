//! Prints what the path alone costs a request of 4 KiB, on the null device, as a Markdown table.
//!
//! `cargo bench -p stableblk --features bench-null --bench path [-- MODE]`. The variants take turns in short runs; the best run of
//! each counts. For the instructions of one mode: `valgrind --tool=callgrind target/release/deps/path-* MODE`, with
//! `STABLEBLK_BENCH_RUNS=1`.

mod driven;

use std::env;
use std::sync::Arc;

use integrity::{Guard, IntegrityProfile, PiType};
use stableblk::device::mem::MemDevice;
use stableblk::device::null::NullDevice;
use stableblk::disk::Bounce;
use virtio::request_type;

use crate::driven::{BATCH, CAPACITY, GRANULE, Load, run};

/// Runs of each variant, unless `STABLEBLK_BENCH_RUNS` says otherwise.
const RUNS: usize = 1001;

struct Mode {
    name: &'static str,
    device: Arc<NullDevice<MemDevice>>,
    bounce: Bounce,
    /// In nanoseconds: of a read, of a write.
    best: [f64; 2],
}

impl Mode {
    fn new(name: &'static str, guard: Option<Guard>, bounce: Bounce) -> Self {
        let profile = guard.map(|guard| IntegrityProfile::new(guard, PiType::Type1, GRANULE));
        let profile = profile.transpose().expect("a profile that exists");
        let capacity = usize::try_from(CAPACITY).expect("it is small");
        let device = Arc::new(NullDevice::new(MemDevice::new(profile, capacity)));
        Self { name, device, bounce, best: [f64::INFINITY; 2] }
    }
}

fn main() {
    let wanted = env::args().skip(1).find(|argument| !argument.starts_with("--"));
    let runs = env::var("STABLEBLK_BENCH_RUNS").map_or(RUNS, |runs| runs.parse().expect("a number"));
    let mut modes = vec![
        Mode::new("pi-64b", Some(Guard::Crc64Nvme), Bounce::Always),
        Mode::new("pi-t10", Some(Guard::Crc16T10Dif), Bounce::Always),
        Mode::new("bounce", None, Bounce::Always),
        Mode::new("zero-copy", None, Bounce::WhenUnaligned),
    ];
    modes.retain(|mode| wanted.as_deref().is_none_or(|wanted| wanted == mode.name));
    for _ in 0..runs {
        for Mode { device, bounce, best, .. } in &mut modes {
            for (best, request_type) in best.iter_mut().zip([request_type::IN, request_type::OUT]) {
                let load = Load { request_type, block_size: GRANULE, bounce: *bounce, inflight: None };
                *best = best.min(run(device.clone(), load));
            }
        }
    }
    println!("One request of 4 KiB, {BATCH} at a time; the best of {runs} alternating runs.\n");
    println!("| mode | read | write |\n|---|---|---|");
    for Mode { name, best: [read, write], .. } in modes {
        println!("| {name} | {read:.0} ns | {write:.0} ns |");
    }
}
