//! Long random schedules: the log comes round, sessions follow each other, the memory is short, the
//! medium fails.

use std::rc::Rc;

use fastrand::Rng;

use crate::explorer::Explorer;
use crate::host::Command::{Discard, Write};
use crate::play::{Op, Play};
use crate::recorder::Damage;
use crate::setup::Setup;
use crate::violation::Violation;

const EIO: i32 = 5;
const ENOSPC: i32 = 28;

/// The kinds of operations in a schedule.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Style {
    pub(crate) length: usize,
    /// Each operation is explored with a probability of one in this number.
    pub(crate) explored: u32,
    pub(crate) faults: bool,
    /// Whether checkpoints are made before the log is full.
    pub(crate) checkpoints: bool,
}

/// Runs the schedule of `seed`.
pub(crate) fn run(explorer: &mut Explorer<'_>, setup: &Setup, style: Style, seed: u64) {
    let mut rng = Rng::with_seed(seed);
    let media = setup.recorder(setup.created(), Rc::new(setup.unwritten()));
    explorer.label = format!("schedule {seed}");
    let played = (|| -> Result<(), Violation> {
        let mut play = Play::begin(setup, &media)?;
        for number in 0..style.length {
            let op = next(&mut rng, setup, style);
            if !play.makes_sense(&op) {
                continue;
            }
            explorer.label = format!("schedule {seed}, operation {number}: {op:?}");
            let is_explored = rng.u32(..style.explored) == 0;
            if is_explored {
                media.record();
            }
            play.apply(&op)?;
            if is_explored {
                explorer.explore(&media.take_points());
            }
            if explorer.found().is_some() {
                break;
            }
        }
        Ok(())
    })();
    if let Err(violation) = played {
        explorer.report(violation, "no crash");
    }
}

fn next(rng: &mut Rng, setup: &Setup, style: Style) -> Op {
    let block = rng.usize(..setup.lbas.len());
    let has_neighbour = setup.lbas.get(block + 1).is_some_and(|&next| next == setup.lbas[block] + 1);
    let mut blocks = block..block + 1 + usize::from(has_neighbour && rng.u8(..4) == 0);
    let command = if rng.u8(..6) == 0 { Discard } else { Write };
    if command == Discard && rng.bool() {
        // with all between them, which may be pages of the array
        blocks.end = rng.usize(blocks.end..=setup.lbas.len());
    }
    match rng.u32(..100) {
        0..20 => Op::Do(command, blocks),
        20..38 => Op::Submit(command, blocks),
        38..44 if style.checkpoints => Op::WriteHalves,
        38..50 => Op::GoOn,
        50..54 => Op::Finish,
        54..62 => Op::Flush,
        62..72 => Op::BeginFlush,
        72..76 => Op::FinishFlushes,
        76..82 => Op::Commit(rng.bool()),
        82..98 if !style.checkpoints => Op::BeginFlush,
        82..90 => Op::Step,
        90..91 => Op::Checkpoint,
        91 => Op::Tick,
        92 => Op::NoteDamage(rng.bool()),
        93..94 => Op::Reopen,
        94 => Op::Kill,
        95 => Op::Cut(rng.u64(..1 << 20)),
        96 => Op::Grow(setup.grown_size()),
        97 => Op::Heal,
        _ if style.faults => Op::Fail {
            after: rng.u64(..6),
            count: if rng.u8(..4) == 0 { u64::MAX } else { rng.u64(1..4) },
            damage: *rng.choice(&[Damage::None, Damage::Part, Damage::All]).expect("some"),
            errno: if rng.bool() { EIO } else { ENOSPC },
        },
        _ => Op::Finish,
    }
}
