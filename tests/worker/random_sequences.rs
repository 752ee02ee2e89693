//! Random valid requests on several queues of one disk, which overlap on purpose, against a model
//! of the disk.
//!
//! A seed decides everything but the timing of the threads. A failure names its seed;
//! `STABLEBLK_SEED` runs that one again. `STABLEBLK_SOAK_SECONDS` runs fresh seeds for that time.

use std::collections::HashMap;
use std::env;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use fastrand::Rng;
use integrity::{Guard, IntegrityProfile, PiType, sidecar};
use stableblk::device::Zeroing;
use stableblk::device::faulty::{Fault, FaultyDevice};
use stableblk::device::mem::MemDevice;
use stableblk::guest::memory_table::GuestMemory;

use crate::guest::{Command, Completion, Guest, Layout, OK, RequestId, Setup, guest_memory};
use crate::model::{ModelDisk, Moment, SECTOR, ZEROS, bytes_of, stamped};
use crate::skip::skip;

const QUEUES_MAX: usize = 3;
/// Descriptors of a direct chain; more go into an indirect table, so that a sequence fits its ring.
const DIRECT_MAX: usize = 10;

/// How large requests and disks are.
#[derive(Clone, Copy, Debug)]
struct Scale {
    /// Sizes of disks in bytes, each at least one granule.
    capacities: &'static [usize],
    /// Most sectors of a request.
    sectors_max: u64,
    /// Requests are up to this many times halved.
    halvings_max: u32,
    requests_max: usize,
    sequences: usize,
}

/// Small disks, on which almost everything overlaps.
const CROWDED: Scale = Scale {
    capacities: &[64 << 10, 256 << 10, 1 << 20],
    sectors_max: 256,
    halvings_max: 9,
    requests_max: 16,
    sequences: 100,
};
/// Requests of several MiB, and some that no arena holds.
const LARGE: Scale =
    Scale { capacities: &[16 << 20], sectors_max: 12 << 11, halvings_max: 2, requests_max: 5, sequences: 5 };

#[test]
fn small_requests_over_each_other() {
    run(CROWDED, 1..101);
}

#[test]
fn large_requests_run_out_of_folios() {
    let starved = run(LARGE, 1..9);
    assert!(starved > 0, "the requests were too small");
}

#[test]
fn soak() {
    let Ok(seconds) = env::var("STABLEBLK_SOAK_SECONDS") else {
        return skip("it runs for STABLEBLK_SOAK_SECONDS, which is not set");
    };
    let end = Instant::now() + Duration::from_secs(seconds.parse().expect("a number of seconds"));
    let first = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs() << 20;
    let mut seed = first;
    while Instant::now() < end {
        run(if seed.is_multiple_of(20) { LARGE } else { CROWDED }, seed..seed + 1);
        seed += 1;
    }
    println!("{} disks, from seed {first} on", seed - first);
}

/// Runs the disks of `seeds`, or of the one seed that the environment asks for. Returns how often a
/// worker starved.
fn run(scale: Scale, seeds: std::ops::Range<u64>) -> u64 {
    let memory = guest_memory(QUEUES_MAX as u64);
    let seeds = match env::var("STABLEBLK_SEED") {
        Ok(seed) => {
            let seed = seed.parse().expect("a seed is a number");
            seed..seed + 1
        }
        Err(_) => seeds,
    };
    seeds.map(|seed| run_disk(scale, seed, &memory)).sum()
}

/// Prints how to run a failed seed again, whichever thread panics.
struct NameOnFailure(u64);

impl Drop for NameOnFailure {
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!("to run this again: STABLEBLK_SEED={}", self.0);
        }
    }
}

/// One disk and its workers, through many sequences.
fn run_disk(scale: Scale, seed: u64, memory: &Arc<GuestMemory>) -> u64 {
    let _name = NameOnFailure(seed);
    let mut rng = Rng::with_seed(seed);
    let profile = random_profile(&mut rng);
    let device = Arc::new(random_device(&mut rng, profile, scale));
    let setup = Setup {
        queues: rng.usize(2..=QUEUES_MAX),
        event_idx: rng.bool(),
        writethrough: rng.u8(..8) == 0,
        block_size: if rng.bool() { 512 } else { 4096 },
        poll: Duration::from_micros(if rng.u8(..4) == 0 { 20 } else { 0 }),
        ..Setup::default()
    };
    let capacity_sectors = device.media().data.len() / SECTOR;
    let mut guest = Guest::start(memory, Arc::new(delayed(device.clone(), rng.u64(..))), setup);
    let mut model = ModelDisk::new(capacity_sectors);
    for number in 0..scale.sequences {
        let mut sequence = Sequence {
            scale,
            block_sectors: u64::from(setup.block_size) / SECTOR as u64,
            capacity_sectors: capacity_sectors as u64,
            queues: setup.queues,
            in_flight: HashMap::new(),
        };
        let checked = sequence
            .run(&mut guest, &mut model, &mut rng)
            .and_then(|()| check_media(&device, profile.as_ref(), &mut model));
        if let Err(mismatch) = checked {
            panic!("sequence {number} on {setup:?}, {profile:?}: {mismatch}");
        }
        guest.recycle();
    }
    guest.stop_all();
    let media = device.media();
    if let Some(profile) = profile {
        assert_eq!(sidecar::mismatches(&profile, 0, &media.data, &media.tuples).unwrap().next(), None);
    }
    guest.disk.metrics.iter().map(|metrics| metrics.starved.get()).sum()
}

fn random_profile(rng: &mut Rng) -> Option<IntegrityProfile> {
    let (guard, interval) = rng.choice([
        None,
        Some((Guard::Crc64Nvme, 4096)),
        Some((Guard::Crc64Nvme, 4096)),
        Some((Guard::Crc64Nvme, 65536)),
        Some((Guard::Crc32c, 4096)),
        Some((Guard::Crc16T10Dif, 512)),
    ])??;
    Some(IntegrityProfile::new(guard, PiType::Type1, interval).unwrap())
}

fn random_device(rng: &mut Rng, profile: Option<IntegrityProfile>, scale: Scale) -> MemDevice {
    let interval = profile.map_or(512, |profile| profile.interval_size());
    let alignment = rng.choice([512, 512, 4096, 8192, 65536]).unwrap();
    let zeroing = Zeroing { punch_hole: rng.u8(..4) > 0, zero_range: rng.bool(), deallocate: rng.bool() };
    MemDevice::new(profile, rng.choice(scale.capacities.iter().copied()).unwrap())
        .with_granule(interval.max(alignment))
        .with_zeroing(zeroing)
}

/// `device`, on which every fourth operation takes longer than those after it.
fn delayed(device: Arc<MemDevice>, salt: u64) -> FaultyDevice<MemDevice> {
    let count = AtomicU64::new(salt);
    FaultyDevice::new(device, move |_| {
        let dice = Rng::with_seed(count.fetch_add(1, Ordering::Relaxed)).usize(..24);
        (dice < 6).then_some(Fault::Delayed(dice))
    })
}

/// Where requests may have changed the media, the model allows what is there and every interval
/// verifies.
fn check_media(
    device: &MemDevice,
    profile: Option<&IntegrityProfile>,
    model: &mut ModelDisk,
) -> Result<(), String> {
    let media = device.media();
    let changed = model.settle(&media.data)?;
    let Some(profile) = profile else {
        return Ok(());
    };
    let interval = profile.interval_size();
    for sectors in changed {
        let bytes = bytes_of(sectors);
        let (start, end) = (bytes.start / interval * interval, bytes.end.next_multiple_of(interval));
        let tuples = &media.tuples[profile.metadata_len(start)..profile.metadata_len(end)];
        let first = (start / interval) as u64;
        let mismatch = sidecar::mismatches(profile, first, &media.data[start..end], tuples).unwrap().next();
        mismatch.map_or(Ok(()), |mismatch| Err(mismatch.to_string()))?;
    }
    Ok(())
}

/// Checks a request that comes back.
#[derive(Debug)]
enum Expected {
    Read { sector: u64, since: Moment, len: u32 },
    Write { number: usize },
    Flush,
}

/// Requests until nothing is in flight again.
struct Sequence {
    scale: Scale,
    block_sectors: u64,
    capacity_sectors: u64,
    queues: usize,
    in_flight: HashMap<RequestId, Expected>,
}

impl Sequence {
    fn run(
        &mut self,
        guest: &mut Guest<'_, FaultyDevice<MemDevice>>,
        model: &mut ModelDisk,
        rng: &mut Rng,
    ) -> Result<(), String> {
        let mut left = rng.usize(1..=self.scale.requests_max);
        while left > 0 || !self.in_flight.is_empty() {
            let completions = match rng.u8(..4) {
                0 if !self.in_flight.is_empty() => guest.wait(),
                1 => guest.completions(),
                _ if left > 0 => {
                    self.submit(guest, model, rng);
                    left -= 1;
                    continue;
                }
                _ => guest.wait(),
            };
            for completion in completions {
                let checked = self.complete(model, &completion);
                checked.map_err(|error| format!("{:?}: {error}", completion.id))?;
            }
        }
        Ok(())
    }

    fn submit(
        &mut self,
        guest: &mut Guest<'_, FaultyDevice<MemDevice>>,
        model: &mut ModelDisk,
        rng: &mut Rng,
    ) {
        let (sector, sectors) = self.extent(rng);
        let range = sector..sector + sectors;
        let short = u32::try_from(sectors).unwrap();
        // no two stamps are the same, and none is that of zeros
        let stamp = model.tick() << 8 | 1;
        let (command, expected) = match rng.u8(..16) {
            0..6 => {
                let len = short * 512;
                (Command::Read { sector, len }, Expected::Read { sector, since: model.tick(), len })
            }
            6..12 => {
                let data = stamped(sector, bytes_of(range.clone()).len(), stamp);
                (Command::Write { sector, data }, Expected::Write { number: model.begin_write(range, stamp) })
            }
            12 => (Command::Flush, Expected::Flush),
            13 => {
                let number = model.begin_write(range, ZEROS);
                (Command::Discard { sector, sectors: short }, Expected::Write { number })
            }
            dice => {
                let number = model.begin_write(range, ZEROS);
                let unmap = dice == 14;
                (Command::WriteZeroes { sector, sectors: short, unmap }, Expected::Write { number })
            }
        };
        let layout = random_layout(rng, &command);
        let id = guest.submit_as(rng.usize(..self.queues), &command, &layout);
        self.in_flight.insert(id, expected);
    }

    /// Whole blocks of the disk: most requests are short, and most start in the same few places.
    fn extent(&self, rng: &mut Rng) -> (u64, u64) {
        let blocks = self.capacity_sectors / self.block_sectors;
        let blocks_max = self.scale.sectors_max.min(self.capacity_sectors) / self.block_sectors;
        let len = ((1 + rng.u64(..blocks_max)) >> rng.u32(..=self.scale.halvings_max)).max(1);
        let window = if rng.u8(..4) > 0 { (blocks / 8).max(len) } else { blocks };
        let start = rng.u64(..=window.min(blocks) - len.min(window));
        (start * self.block_sectors, len * self.block_sectors)
    }

    fn complete(&mut self, model: &mut ModelDisk, completion: &Completion) -> Result<(), String> {
        let expected = self.in_flight.remove(&completion.id).ok_or("it was not in flight")?;
        let data_len = if let Expected::Read { len, .. } = expected { len } else { 0 };
        if completion.outcome() != (OK, data_len + 1) {
            return Err(format!("status and used length {:?} of {expected:?}", completion.outcome()));
        }
        match expected {
            Expected::Read { sector, since, .. } => return model.check(sector, since, &completion.data),
            Expected::Write { number } => model.complete_write(number),
            Expected::Flush => {}
        }
        Ok(())
    }
}

fn random_layout(rng: &mut Rng, command: &Command) -> Layout {
    let readable_cuts = random_cuts(rng, command.readable_len());
    let writable_cuts = random_cuts(rng, command.writable_len());
    let descriptors = readable_cuts.len() + writable_cuts.len() + 2;
    Layout { readable_cuts, writable_cuts, indirect: descriptors > DIRECT_MAX || rng.bool() }
}

/// Anywhere, also within header and status; often nowhere.
fn random_cuts(rng: &mut Rng, len: u32) -> Vec<u32> {
    let count = rng.choice([0, 1, 2, 3, 40]).unwrap();
    let mut cuts: Vec<_> = (0..count).filter(|_| len > 1).map(|_| rng.u32(1..len)).collect();
    cuts.sort_unstable();
    cuts.dedup();
    cuts
}
