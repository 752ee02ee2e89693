//! Made-up results, for the tests of what is made of results.

use std::time::Duration;

use crate::cell::Cell;
use crate::lengths::Lengths;
use crate::machine::Machine;
use crate::results::{AtRest, Outcome, Results, Run};
use crate::sample::{Idle, Sample};
use crate::storage::Storage;
use crate::subject::Subject;
use crate::usage::{CpuUse, Memory};

pub(crate) const LENGTHS: Lengths = Lengths {
    milliseconds: 100,
    warm_up_milliseconds: 10,
    long_milliseconds: 2000,
    rests: 3,
    rest_milliseconds: 500,
    memory_seconds: 5,
};

/// Three rounds of thousands of requests a second.
pub(crate) fn results(turns: &[(Cell, Subject, [f64; 3])]) -> Results {
    let run = |cell: &Cell, subject: &Subject, (round, kiops): (u32, &f64)| Run {
        cell: *cell,
        subject: *subject,
        round,
        outcome: Outcome::Measured(sample(*kiops)),
    };
    Results {
        machine: Machine {
            date: "2026-01-31".to_owned(),
            processor: "a processor".to_owned(),
            cores: 2,
            memory_mib: 4096,
            kernel: "6.1.0".to_owned(),
            load_before: 0.25,
            versions: vec!["stableblk 0.1.0".to_owned()],
        },
        rounds: 3,
        lengths: LENGTHS,
        image_bytes: 1 << 30,
        skipped: vec![(Storage::Ext4, "there is none".to_owned())],
        runs: turns
            .iter()
            .flat_map(|(cell, subject, rounds)| (0..).zip(rounds).map(|round| run(cell, subject, round)))
            .collect(),
        at_rest: turns.first().map(|(cell, subject, _)| at_rest(*cell, *subject)).into_iter().collect(),
    }
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "made-up figures are small")]
fn sample(kiops: f64) -> Sample {
    let used = CpuUse { user: 0.25, system: 0.25 };
    let requests = (kiops * 1000.0).round() as u64;
    let percentiles = Sample::of_requests(requests, 4096, Duration::from_secs(1), used);
    Sample {
        p50_us: 10.0,
        p99_us: 20.0,
        p999_us: 30.0,
        client_busy: Some(0.5),
        written_by_guest_byte: Some(1.25),
        ..percentiles
    }
}

fn at_rest(cell: Cell, subject: Subject) -> AtRest {
    let memory = Memory { own_kib: 40 << 10, shared_kib: 2 << 10 };
    let idle = Idle { wake_ups_per_s: 0.0, cpu: 0.0 };
    AtRest { cell, subject, load_milliseconds: 5000, memory_before: memory, memory_after: memory, idle }
}
