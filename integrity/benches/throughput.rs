//! Prints what `generate` and `verify` cost beside the bare guard function and a memcpy, as a
//! Markdown table.
//!
//! All variants take turns in short runs, in passes over the whole table, so that a change of clock
//! speed or a busy neighbour meets them alike; the best run of each counts.
#![expect(clippy::cast_precision_loss, reason = "two digits are printed")]

use std::hint::black_box;
use std::time::{Duration, Instant};

use crc_fast::{CrcAlgorithm, checksum};
use stableblk_integrity::{Checks, Guard, IntegrityProfile, PiType, Tags};

/// One request's data; with its copy it stays in the L2 cache.
const DATA_LEN: usize = 64 * 1024;
const PASSES: usize = 10;
const RUNS: usize = 60;
const RUN_TIME: Duration = Duration::from_micros(100);

const HEADER: &str = "\
| guard | interval | offset | bare guard | generate | ratio | verify | ratio | memcpy | generate / memcpy | copy + bare \
| copy + generate | ratio |
|---|---|---|---|---|---|---|---|---|---|---|---|---|";

fn main() {
    let mut rows: Vec<Row> = Guard::ALL
        .into_iter()
        .flat_map(|guard| [(guard, 512), (guard, 4096)])
        .flat_map(|(guard, interval_size)| [0, 1].map(|offset| Row::new(guard, interval_size, offset)))
        .collect();
    for _ in 0..PASSES {
        rows.iter_mut().for_each(Row::measure);
    }
    println!(
        "GB/s over a hot {} KiB, the best of {} alternating runs.\n\n{HEADER}",
        DATA_LEN / 1024,
        PASSES * RUNS
    );
    rows.iter().for_each(Row::print);
}

/// The guard function under `generate`, without what this crate adds.
fn bare_guard(guard: Guard, interval: &[u8]) -> u64 {
    match guard {
        Guard::Crc16T10Dif => checksum(CrcAlgorithm::Crc16T10Dif, interval),
        Guard::IpChecksum => Guard::IpChecksum.compute(interval),
        Guard::Crc32c => crc_fast::crc32_iscsi(interval).into(),
        Guard::Crc64Nvme => crc_fast::crc64_nvme(interval),
    }
}

struct Row {
    profile: IntegrityProfile,
    /// Bytes from a cache line to the data.
    offset: usize,
    source: Buffer,
    copy: Buffer,
    metadata: Vec<u8>,
    best: [Duration; 6],
}

impl Row {
    fn new(guard: Guard, interval_size: u32, offset: usize) -> Self {
        let profile = IntegrityProfile::new(guard, PiType::Type1, interval_size).unwrap();
        let mut source = Buffer::new(offset);
        source.data().iter_mut().zip((0..=u8::MAX).cycle()).for_each(|(byte, i)| *byte = i.wrapping_mul(31));
        let metadata = vec![0; profile.metadata_len(DATA_LEN)];
        Self { profile, offset, source, copy: Buffer::new(offset), metadata, best: [Duration::MAX; 6] }
    }

    fn measure(&mut self) {
        let profile = self.profile;
        let tags = Tags::at_lba(0x1234_5678);
        let (source, copy) = (&*self.source.data(), self.copy.data());
        let metadata = &mut self.metadata;
        let bare = |data: &[u8]| {
            for interval in black_box(data).chunks_exact(profile.interval_size()) {
                black_box(bare_guard(profile.guard(), interval));
            }
        };
        let generate = |data: &[u8], metadata: &mut [u8]| {
            profile.generate(&tags, black_box(data), black_box(metadata)).unwrap();
        };
        let verify = |data: &[u8], metadata: &[u8]| {
            profile.verify(&tags, Checks::all(), black_box(data), black_box(metadata)).unwrap();
        };
        for _ in 0..RUNS {
            let runs = [
                time(|| bare(source)),
                time(|| generate(source, metadata)),
                time(|| verify(source, metadata)),
                time(|| black_box(&mut *copy).copy_from_slice(black_box(source))),
                time(|| {
                    copy.copy_from_slice(black_box(source));
                    bare(copy);
                }),
                time(|| {
                    copy.copy_from_slice(black_box(source));
                    generate(copy, metadata);
                }),
            ];
            self.best.iter_mut().zip(runs).for_each(|(best, run)| *best = run.min(*best));
        }
    }

    fn print(&self) {
        let speed = self.best.map(|call| DATA_LEN as f64 / call.as_secs_f64() / 1e9);
        let [bare, generate, verify, memcpy, copy_bare, copy_generate] = speed;
        println!(
            "| {} | {} | {} | {bare:.1} | {generate:.1} | {:.2} | {verify:.1} | {:.2} | {memcpy:.1} | {:.2} | {copy_bare:.1} | {copy_generate:.1} | {:.2} |",
            self.profile.guard(),
            self.profile.interval_size(),
            self.offset,
            generate / bare,
            verify / bare,
            generate / memcpy,
            copy_generate / copy_bare,
        );
    }
}

/// The time of one call, from as many as fill [`RUN_TIME`].
fn time(mut call: impl FnMut()) -> Duration {
    let start = Instant::now();
    let mut calls = 0;
    loop {
        (0..8).for_each(|_| call());
        calls += 8;
        let elapsed = start.elapsed();
        if elapsed >= RUN_TIME {
            return elapsed / calls;
        }
    }
}

/// Data at a chosen offset from a cache line.
struct Buffer {
    bytes: Vec<u8>,
    start: usize,
}

impl Buffer {
    fn new(offset: usize) -> Self {
        let bytes = vec![0; DATA_LEN + 128];
        let start = bytes.as_ptr().align_offset(64) + offset;
        Self { bytes, start }
    }

    fn data(&mut self) -> &mut [u8] {
        &mut self.bytes[self.start..][..DATA_LEN]
    }
}
