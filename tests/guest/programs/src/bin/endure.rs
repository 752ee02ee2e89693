//! Stamped requests from many threads, whatever becomes of the disk's back-end meanwhile: `endure
//! DEVICE SLOTS THREADS STOP`.
//!
//! Each thread has its share of the SLOTS of 16 KiB, writes and reads them at random with one
//! request at a time, and knows what each holds: a write that was lost, or that came once more
//! after a later one, shows. The first sector of the device STOP says by any byte that is not zero
//! that it is enough. Prints a line of JSON: requests, errors, slots that were wrong, the longest
//! that a request took, and the longest time, the stall, in which none came back.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use fastrand::Rng;
use guest_programs::{BlockDevice, Page, Pages, arguments, number};

const SLOT_PAGES: usize = 4;
const SLOT_BYTES: u64 = (SLOT_PAGES * Page::BYTES) as u64;
/// How often STOP is looked at.
const STOP_INTERVAL: Duration = Duration::from_millis(100);

#[derive(Debug, Default, Clone, Copy)]
struct Tally {
    writes: u64,
    reads: u64,
    errors: u64,
    wrong: u64,
    longest: Duration,
    stall: Duration,
}

/// When a request came back last, whosever it was.
struct Pulse {
    start: Instant,
    last_us: AtomicU64,
}

/// A thread's share of the disk: slots and the version that each holds, 0 for one that was not
/// written.
struct Share<'d> {
    device: &'d BlockDevice,
    pulse: &'d Pulse,
    slots: Vec<(u64, u64)>,
    buffer: Pages,
    tally: Tally,
}

fn main() -> Result<(), String> {
    let [device, slots, threads, stop] = arguments("endure DEVICE SLOTS THREADS STOP")?;
    let (device, stop) = (BlockDevice::open(&device, true)?, BlockDevice::open(&stop, false)?);
    let (slots, threads): (u64, usize) = (number(&slots)?, number(&threads)?);
    let stopped = AtomicBool::new(false);
    let pulse = Pulse { start: Instant::now(), last_us: AtomicU64::new(0) };
    let tally = thread::scope(|scope| {
        let run = |first| {
            let (device, pulse, stopped) = (&device, &pulse, &stopped);
            scope
                .spawn(move || Share::new(device, pulse, (first..slots).step_by(threads)).run(first, stopped))
        };
        let running: Vec<_> = (0..threads as u64).map(run).collect();
        let page = Pages::new(1);
        while stop.read(&page, 0).is_ok() && page[0].is_zero() {
            thread::sleep(STOP_INTERVAL);
        }
        stopped.store(true, Ordering::Relaxed);
        running
            .into_iter()
            .map(|thread| thread.join().expect("a thread panicked"))
            .fold(Tally::default(), Tally::add)
    });
    let Tally { writes, reads, errors, wrong, longest, stall } = tally;
    println!(
        r#"{{"writes":{writes},"reads":{reads},"errors":{errors},"wrong":{wrong},"longest_ms":{},"stall_ms":{}}}"#,
        longest.as_millis(),
        stall.as_millis()
    );
    Ok(())
}

impl<'d> Share<'d> {
    fn new(device: &'d BlockDevice, pulse: &'d Pulse, slots: impl Iterator<Item = u64>) -> Self {
        let slots = slots.map(|slot| (slot, 0)).collect();
        Self { device, pulse, slots, buffer: Pages::new(SLOT_PAGES), tally: Tally::default() }
    }

    /// Requests until `stopped`, then a flush, and a read of all.
    fn run(mut self, seed: u64, stopped: &AtomicBool) -> Tally {
        let mut rng = Rng::with_seed(seed);
        while !stopped.load(Ordering::Relaxed) {
            let index = rng.usize(..self.slots.len());
            if rng.u8(..4) == 0 { self.read(index) } else { self.write(index) }
        }
        if let Err(error) = self.device.flush() {
            self.tally.fail("flush", &error);
        }
        (0..self.slots.len()).for_each(|index| self.read(index));
        self.tally
    }

    fn write(&mut self, index: usize) {
        let (slot, version) = &mut self.slots[index];
        *version += 1;
        for (page, number) in self.buffer.iter().zip(*slot * SLOT_PAGES as u64..) {
            page.stamp(*version, number);
        }
        let start = Instant::now();
        let written = self.device.write(&self.buffer, *slot * SLOT_BYTES);
        self.tally.came_back(start, self.pulse);
        self.tally.writes += 1;
        if let Err(error) = written {
            self.tally.fail("write", &error);
        }
    }

    fn read(&mut self, index: usize) {
        let (slot, version) = self.slots[index];
        let start = Instant::now();
        let read = self.device.read(&self.buffer, slot * SLOT_BYTES);
        self.tally.came_back(start, self.pulse);
        self.tally.reads += 1;
        if let Err(error) = read {
            return self.tally.fail("read", &error);
        }
        let right = |(page, number): (&Page, u64)| {
            if version == 0 { page.is_zero() } else { page.is_stamped(version, number) }
        };
        if !self.buffer.iter().zip(slot * SLOT_PAGES as u64..).all(right) {
            eprintln!("endure: slot {slot} does not hold its write {version}");
            self.tally.wrong += 1;
        }
    }
}

impl Pulse {
    /// A request has come back: how long ago the one before did.
    fn beat(&self) -> Duration {
        let now = u64::try_from(self.start.elapsed().as_micros()).unwrap_or(u64::MAX);
        Duration::from_micros(now.saturating_sub(self.last_us.fetch_max(now, Ordering::Relaxed)))
    }
}

impl Tally {
    fn came_back(&mut self, start: Instant, pulse: &Pulse) {
        self.longest = self.longest.max(start.elapsed());
        self.stall = self.stall.max(pulse.beat());
    }

    fn fail(&mut self, what: &str, error: &std::io::Error) {
        eprintln!("endure: {what}: {error}");
        self.errors += 1;
    }

    fn add(self, other: Self) -> Self {
        Self {
            writes: self.writes + other.writes,
            reads: self.reads + other.reads,
            errors: self.errors + other.errors,
            wrong: self.wrong + other.wrong,
            longest: self.longest.max(other.longest),
            stall: self.stall.max(other.stall),
        }
    }
}
