//! Targets, compared with the measured values.

use crate::cell::Cell;
use crate::matrix::{bytes_written, database, flushes, mix};
use crate::results::Results;
use crate::sample::Sample;
use crate::statistics::Spread;
use crate::storage::Storage;
use crate::subject::Subject;
use crate::workload::{Pattern, Start, Workload};

use Pattern::{Randread, Randwrite};
use Storage::{Ext4, Large, Null, Tmpfs, Xfs};
use Subject::{Bounce, Fio, PiCrc64, PiCrc64Quarter, PiCrc64Sleeping, Qemu, QemuMainLoop, ZeroCopy};

const KIB_4: usize = 4 << 10;
const KIB_64: usize = 64 << 10;
const MIB_1: usize = 1 << 20;

/// Of memory that does not grow: a few pages are touched late.
const GROWTH_MAX: f64 = 1.01;

/// Of a figure that is flat.
const FLAT_MAX: f64 = 1.05;

/// A value that was asked for.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Asked {
    AtLeast(f64),
    AtMost(f64),
}

/// One thing asked for, and what was measured of it.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Target {
    pub(crate) what: String,
    pub(crate) cell: String,
    pub(crate) asked: Asked,
    /// `None` where it was not measured.
    pub(crate) measured: Option<Spread>,
}

impl Target {
    /// Whether the median is as asked.
    pub(crate) fn is_met(&self) -> Option<bool> {
        let median = self.measured?.median;
        Some(match self.asked {
            Asked::AtLeast(least) => median >= least,
            Asked::AtMost(most) => median <= most,
        })
    }
}

/// All targets, except for the profile.
pub(crate) fn evaluate(results: &Results) -> Vec<Target> {
    let mut targets = against_zero_copy(results);
    targets.push(zero_copy_is_no_straw_man(results));
    targets.extend(against_others(results));
    targets.extend(path_alone(results));
    targets.extend(large_disks(results));
    targets.extend(made_durable(results));
    targets.extend(written(results));
    targets.extend(at_rest(results));
    targets
}

/// A disk at its real size, against a bounce without integrity.
fn large_disks(results: &Results) -> Vec<Target> {
    let cell = |pattern, depth, start| Cell {
        storage: Large,
        workload: Workload::new(pattern, KIB_4, depth).starting(start),
    };
    let iops = |pattern, start, subject, least| {
        ratio(results, cell(pattern, 32, start), (subject, Bounce), Asked::AtLeast(least))
    };
    let latency = |pattern, start, most| {
        ratio(results, cell(pattern, 1, start), (PiCrc64, Bounce), Asked::AtMost(most))
    };
    let p99 = |pattern, start, subject, most| {
        let cell = cell(pattern, 32, start);
        tail(results, cell, "p99", (subject, |sample| sample.p99_us), most)
    };
    let mix = Cell { storage: Large, workload: mix() };
    vec![
        iops(Randread, Start::Cold, PiCrc64, 0.90),
        iops(Randread, Start::Warm, PiCrc64, 0.97),
        iops(Randread, Start::Warm, PiCrc64Quarter, 0.80),
        p99(Randread, Start::Cold, PiCrc64, 1.6),
        latency(Randread, Start::Cold, 1.10),
        latency(Randread, Start::Warm, 1.05),
        iops(Randwrite, Start::Cold, PiCrc64, 0.80),
        iops(Randwrite, Start::Steady, PiCrc64, 0.90),
        iops(Randwrite, Start::Steady, PiCrc64Quarter, 0.85),
        p99(Randwrite, Start::Cold, PiCrc64, 1.8),
        p99(Randwrite, Start::Steady, PiCrc64, 1.8),
        p99(Randwrite, Start::Steady, PiCrc64Quarter, 1.8),
        latency(Randwrite, Start::Rested, 1.5),
        ratio(results, mix, (PiCrc64, Bounce), Asked::AtLeast(0.95)),
        tail(results, mix, "p99.9", (PiCrc64, |sample| sample.p999_us), 1.5),
    ]
}

/// A high percentile of the latencies, by that of a bounce alone.
fn tail(
    results: &Results,
    cell: Cell,
    name: &str,
    (subject, percentile): (Subject, fn(&Sample) -> f64),
    most: f64,
) -> Target {
    Target {
        what: format!("{name}, {} / {}", subject.title(), Bounce.title()),
        cell: cell.to_string(),
        asked: Asked::AtMost(most),
        measured: results.ratio(cell, (subject, Bounce), percentile),
    }
}

/// Writes with flushes, against QEMU.
fn made_durable(results: &Results) -> Vec<Target> {
    let asked = |storage| {
        let each = flushes().into_iter().zip([0.95, 1.1, 1.3]);
        each.map(move |(workload, least)| (Cell { storage, workload }, least))
    };
    let database = (Cell { storage: Ext4, workload: database() }, 1.0);
    let all = asked(Ext4).chain(asked(Xfs)).chain([database]);
    all.map(|(cell, least)| ratio(results, cell, (PiCrc64, Qemu), Asked::AtLeast(least))).collect()
}

/// The bytes that random writes cost, on a large disk and on a small one.
fn written(results: &Results) -> Vec<Target> {
    let target = |storage, most| {
        let cell = Cell { storage, workload: bytes_written() };
        Target {
            what: format!("bytes written by bytes of the guest, {}", PiCrc64.title()),
            cell: cell.to_string(),
            asked: Asked::AtMost(most),
            measured: results.spread(cell, PiCrc64, Sample::written),
        }
    };
    vec![target(Large, 1.35), target(Ext4, 1.05)]
}

fn against_zero_copy(results: &Results) -> Vec<Target> {
    let iops = |pattern, block_size, depth, least| (pattern, block_size, depth, Asked::AtLeast(least));
    let latency = |pattern, block_size, most| (pattern, block_size, 1, Asked::AtMost(most));
    let asked = [
        iops(Randread, KIB_4, 32, 0.92),
        iops(Randwrite, KIB_4, 32, 0.88),
        iops(Randread, KIB_64, 8, 0.97),
        iops(Randwrite, KIB_64, 8, 0.97),
        iops(Randread, MIB_1, 4, 0.97),
        iops(Randwrite, MIB_1, 4, 0.97),
        latency(Randread, KIB_4, 1.08),
        latency(Randwrite, KIB_4, 1.08),
        latency(Randread, KIB_64, 1.10),
        latency(Randwrite, KIB_64, 1.10),
        latency(Randread, MIB_1, 1.15),
        latency(Randwrite, MIB_1, 1.15),
    ];
    let on = |storage| {
        asked.map(|(pattern, block_size, depth, asked)| {
            let cell = Cell { storage, workload: Workload::new(pattern, block_size, depth) };
            ratio(results, cell, (PiCrc64, ZeroCopy), asked)
        })
    };
    [Tmpfs, Ext4].into_iter().flat_map(on).collect()
}

/// The cell where it comes off worst.
fn zero_copy_is_no_straw_man(results: &Results) -> Target {
    let iops = |sample: &Sample| sample.iops;
    let ratios = results
        .cells()
        .into_iter()
        .filter_map(|cell| Some((cell, results.ratio(cell, (ZeroCopy, Qemu), iops)?)));
    let worst = ratios.min_by(|(_, a), (_, b)| a.median.total_cmp(&b.median));
    Target {
        what: "IOPS, zero copy / QEMU, at worst".to_owned(),
        cell: worst.map_or_else(|| "all".to_owned(), |(cell, _)| cell.to_string()),
        asked: Asked::AtLeast(1.0),
        measured: worst.map(|(_, ratio)| ratio),
    }
}

fn against_others(results: &Results) -> Vec<Target> {
    let mut targets = Vec::new();
    for pattern in [Randread, Randwrite] {
        let at = |storage, depth| Cell { storage, workload: Workload::new(pattern, KIB_4, depth) };
        for (cell, base, least) in [
            (at(Tmpfs, 32), Qemu, 2.5),
            (at(Ext4, 32), Qemu, 1.05),
            (at(Ext4, 32), Fio, 0.92),
            (at(Null, 32), Qemu, 1.0),
        ] {
            targets.push(ratio(results, cell, (PiCrc64, base), Asked::AtLeast(least)));
        }
        for storage in [Tmpfs, Ext4] {
            let cell = at(storage, 1);
            targets.push(ratio(results, cell, (PiCrc64, QemuMainLoop), Asked::AtMost(0.6)));
            targets.push(ratio(results, cell, (PiCrc64Sleeping, QemuMainLoop), Asked::AtMost(1.0)));
        }
    }
    targets
}

/// IOPS where many requests are in flight, median latency where one is.
fn ratio(results: &Results, cell: Cell, pair: (Subject, Subject), asked: Asked) -> Target {
    let (what, figure): (_, fn(&Sample) -> f64) = match asked {
        Asked::AtLeast(_) => ("IOPS", |sample| sample.iops),
        Asked::AtMost(_) => ("median latency", |sample| sample.p50_us),
    };
    Target {
        what: format!("{what}, {} / {}", pair.0.title(), pair.1.title()),
        cell: cell.to_string(),
        asked,
        measured: results.ratio(cell, pair, figure),
    }
}

fn path_alone(results: &Results) -> Vec<Target> {
    let mut targets = Vec::new();
    for pattern in [Randread, Randwrite] {
        let at = |depth| Cell { storage: Null, workload: Workload::new(pattern, KIB_4, depth) };
        let cpu = |depth| results.figures(at(depth), PiCrc64, Sample::cpu_us);
        let target = |what: &str, cell: String, asked, measured| Target {
            what: format!("{what}, {}", PiCrc64.title()),
            cell,
            asked,
            measured,
        };
        let microseconds = results.spread(at(32), PiCrc64, Sample::cpu_us);
        targets.push(target("CPU a request in us", at(32).to_string(), Asked::AtMost(0.6), microseconds));
        let growth = Spread::of_ratios(&cpu(128), &cpu(32));
        targets.push(target(
            "CPU a request, QD128 / QD32",
            at(128).to_string(),
            Asked::AtMost(FLAT_MAX),
            growth,
        ));
        let two = Cell { workload: at(32).workload.with_queues(2), ..at(32) };
        let iops = |cell| results.figures(cell, PiCrc64, |sample| sample.iops);
        let gain = Spread::of_ratios(&iops(two), &iops(at(32)));
        targets.push(target("IOPS, 2 queues / 1 queue", two.to_string(), Asked::AtLeast(1.6), gain));
    }
    targets
}

fn at_rest(results: &Results) -> Vec<Target> {
    let ours = results.at_rest.iter().filter(|it| matches!(it.subject, PiCrc64 | PiCrc64Sleeping));
    ours.flat_map(|it| {
        let target = |what: &str, cell: String, most, measured| Target {
            what: format!("{what}, {}", it.subject.title()),
            cell,
            asked: Asked::AtMost(most),
            measured: Spread::of([measured]),
        };
        let (before, after) = (mib(it.memory_before.own_kib), mib(it.memory_after.own_kib));
        let seconds = it.load_milliseconds / 1000;
        [
            target("wake-ups a second", "idle client".to_owned(), 0.0, it.idle.wake_ups_per_s),
            target("RSS in MiB", it.cell.to_string(), 96.0, after),
            target(
                &format!("RSS, end / begin of {seconds} s"),
                it.cell.to_string(),
                GROWTH_MAX,
                after / before,
            ),
        ]
    })
    .collect()
}

#[expect(clippy::cast_precision_loss, reason = "less than 2^53 KiB")]
pub(crate) fn mib(kib: u64) -> f64 {
    kib as f64 / 1024.0
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::results;

    fn target<'a>(targets: &'a [Target], what: &str, cell: &str) -> &'a Target {
        targets.iter().find(|target| target.what == what && target.cell == cell).unwrap()
    }

    #[test]
    fn targets_are_compared_with_ratios_of_rounds() {
        let cell = Cell { storage: Tmpfs, workload: Workload::new(Randread, KIB_4, 32) };
        // in every round 0.9 of zero copy, and three times QEMU, on a machine that gets slower
        let rounds = [100.0, 80.0, 60.0];
        let results = results(&[
            (cell, PiCrc64, rounds.map(|iops| iops * 0.9)),
            (cell, ZeroCopy, rounds),
            (cell, Qemu, rounds.map(|iops| iops * 0.3)),
        ]);
        let targets = evaluate(&results);
        let name = "tmpfs 4 KiB randread QD32";
        let slow = target(&targets, "IOPS, bounce + PI 64b / zero copy", name);
        assert_eq!((slow.asked, slow.is_met()), (Asked::AtLeast(0.92), Some(false)));
        assert!((slow.measured.unwrap().median - 0.9).abs() < 1e-9);
        assert_eq!(target(&targets, "IOPS, bounce + PI 64b / QEMU", name).is_met(), Some(true));
        assert_eq!(target(&targets, "IOPS, zero copy / QEMU, at worst", name).is_met(), Some(true));
        let unmeasured = target(&targets, "IOPS, bounce + PI 64b / QEMU", "ext4 4 KiB randread QD32");
        assert_eq!(unmeasured.is_met(), None);
    }

    #[test]
    fn rare_latencies_and_bytes_written_are_compared() {
        let mixed = Cell { storage: Large, workload: mix() };
        let written = Cell { storage: Ext4, workload: bytes_written() };
        let results = results(&[
            (mixed, PiCrc64, [95.0, 96.0, 97.0]),
            (mixed, Bounce, [100.0; 3]),
            (written, PiCrc64, [1.0; 3]),
        ]);
        let targets = evaluate(&results);
        let name = "large 4 KiB randrw QD32, zipf, cold, long";
        assert_eq!(target(&targets, "IOPS, bounce + PI 64b / bounce", name).is_met(), Some(true));
        assert_eq!(target(&targets, "p99.9, bounce + PI 64b / bounce", name).is_met(), Some(true));
        let (what, name) =
            ("bytes written by bytes of the guest, bounce + PI 64b", "4 KiB randwrite QD32, cold, long");
        let bytes = target(&targets, what, &format!("ext4 {name}"));
        assert_eq!((bytes.measured.unwrap().median, bytes.is_met()), (1.25, Some(false)));
        assert_eq!(target(&targets, what, &format!("large {name}")).is_met(), None);
    }

    #[test]
    fn at_most_is_met_below() {
        let target = |median| Target {
            what: String::new(),
            cell: String::new(),
            asked: Asked::AtMost(0.6),
            measured: Spread::of([median]),
        };
        assert_eq!((target(0.6).is_met(), target(0.61).is_met()), (Some(true), Some(false)));
    }
}
