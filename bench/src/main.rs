//! A load on one vhost-user-blk back-end, whichever it is, and what it costs. One JSON line.
//!
//! One thread drives all queues and polls for completions, so the figures are the back-end's, not those of waking a client.

use std::time::{Duration, Instant};

use blkio::{Blkio, BlkioStartOutcome, Blkioq, Completion, MemoryRegion, ReqFlags};
use clap::{Parser, ValueEnum};
use serde::Serialize;

/// Drive a vhost-user-blk back-end and print IOPS and latencies as JSON
#[derive(Debug, Parser)]
struct Args {
    /// Socket of the back-end
    #[arg(long)]
    socket_path: String,
    /// What to do
    #[arg(long, value_enum)]
    rw: Pattern,
    /// Bytes of a request
    #[arg(long, default_value_t = 4096)]
    block_size: usize,
    /// Requests in flight in each queue
    #[arg(long, default_value_t = 32)]
    depth: usize,
    /// Queues
    #[arg(long, default_value_t = 1)]
    queues: usize,
    /// How long to measure, in milliseconds, after a tenth of it to warm up
    #[arg(long, default_value_t = 2000)]
    milliseconds: u64,
    /// Use only the first so many bytes of the disk
    #[arg(long)]
    span: Option<u64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
enum Pattern {
    /// Random reads
    Randread,
    /// Random writes
    Randwrite,
    /// 70 % random reads, 30 % random writes
    Randrw,
}

impl Pattern {
    fn next_is_read(self, random: &mut fastrand::Rng) -> bool {
        match self {
            Self::Randread => true,
            Self::Randwrite => false,
            Self::Randrw => random.u8(..10) < 7,
        }
    }
}

#[derive(Debug, Serialize)]
struct Figures {
    rw: Pattern,
    block_size: usize,
    depth: usize,
    queues: usize,
    iops: f64,
    mib_per_s: f64,
    p50_us: f64,
    p99_us: f64,
    p999_us: f64,
    errors: u64,
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let args = Args::parse();
    let mut client = Client::connect(&args)?;
    client.run(Duration::from_millis(args.milliseconds / 10))?;
    let start = Instant::now();
    let (mut latencies, errors) = client.run(Duration::from_millis(args.milliseconds))?;
    let seconds = start.elapsed().as_secs_f64();
    latencies.sort_unstable();
    println!("{}", serde_json::to_string(&figures(&args, &latencies, errors, seconds))?);
    Ok(())
}

#[expect(
    clippy::cast_precision_loss,
    clippy::cast_sign_loss,
    clippy::cast_possible_truncation,
    reason = "statistics"
)]
fn figures(args: &Args, sorted_ns: &[u64], errors: u64, seconds: f64) -> Figures {
    let percentile = |share: f64| {
        let at = (sorted_ns.len() as f64 * share) as usize;
        sorted_ns.get(at.min(sorted_ns.len().saturating_sub(1))).map_or(f64::NAN, |&ns| ns as f64 / 1000.0)
    };
    let iops = sorted_ns.len() as f64 / seconds;
    Figures {
        rw: args.rw,
        block_size: args.block_size,
        depth: args.depth,
        queues: args.queues,
        iops: iops.round(),
        mib_per_s: (iops * args.block_size as f64 / 1_048_576.0).round(),
        p50_us: percentile(0.5),
        p99_us: percentile(0.99),
        p999_us: percentile(0.999),
        errors,
    }
}

struct Client {
    // dropped before the memory it uses
    queues: Vec<Blkioq>,
    _blkio: Blkio,
    memory: MemoryRegion,
    pattern: Pattern,
    block_size: usize,
    depth: usize,
    blocks: u64,
    random: fastrand::Rng,
}

impl Client {
    fn connect(args: &Args) -> Result<Self, Box<dyn std::error::Error>> {
        let mut blkio = Blkio::new("virtio-blk-vhost-user")?;
        blkio.set_str("path", &args.socket_path)?;
        blkio.connect()?;
        blkio.set_i32("num-queues", i32::try_from(args.queues)?)?;
        blkio.set_i32("queue-size", 256)?;
        let capacity = blkio.get_u64("capacity")?;
        let BlkioStartOutcome { queues, .. } = blkio.start()?;
        let memory = blkio.alloc_mem_region(args.block_size * args.depth * args.queues)?;
        blkio.map_mem_region(&memory)?;
        let blocks = args.span.unwrap_or(capacity).min(capacity) / args.block_size as u64;
        Ok(Self {
            queues,
            _blkio: blkio,
            memory,
            pattern: args.rw,
            block_size: args.block_size,
            depth: args.depth,
            blocks,
            random: fastrand::Rng::with_seed(1),
        })
    }

    /// Keeps every queue full for `time`; gives the latencies in nanoseconds and the number of failed requests.
    fn run(&mut self, time: Duration) -> Result<(Vec<u64>, u64), Box<dyn std::error::Error>> {
        let slots = self.depth * self.queues.len();
        let mut begun = vec![Instant::now(); slots];
        let (mut latencies, mut errors) = (Vec::new(), 0);
        let deadline = Instant::now() + time;
        (0..slots).for_each(|slot| self.submit(slot, &mut begun));
        let mut in_flight = slots;
        while in_flight > 0 {
            for index in 0..self.queues.len() {
                let mut done = [const { std::mem::MaybeUninit::<Completion>::uninit() }; 64];
                let count = self.queues[index].do_io(&mut done, 0, None, None)?;
                let now = Instant::now();
                for completion in &done[..count] {
                    let (slot, result) = completed(completion);
                    latencies.push(u64::try_from((now - begun[slot]).as_nanos())?);
                    errors += u64::from(result != 0);
                    if now < deadline {
                        self.submit(slot, &mut begun);
                    } else {
                        in_flight -= 1;
                    }
                }
            }
        }
        Ok((latencies, errors))
    }

    fn submit(&mut self, slot: usize, begun: &mut [Instant]) {
        let (len, offset) = (self.block_size, self.random.u64(..self.blocks) * self.block_size as u64);
        let buffer = (self.memory.addr + slot * len) as *mut u8;
        begun[slot] = Instant::now();
        let queue = &mut self.queues[slot / self.depth];
        if self.pattern.next_is_read(&mut self.random) {
            queue.read(offset, buffer, len, slot, ReqFlags::empty());
        } else {
            queue.write(offset, buffer, len, slot, ReqFlags::empty());
        }
    }
}

#[expect(unsafe_code, reason = "blkio gives completions as MaybeUninit")]
fn completed(completion: &std::mem::MaybeUninit<Completion>) -> (usize, i32) {
    // SAFETY: do_io initialized the completions that it counted.
    let completion = unsafe { completion.assume_init_ref() };
    (completion.user_data, completion.ret)
}
