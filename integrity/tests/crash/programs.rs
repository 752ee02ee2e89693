//! Every short program of a small disk.

use std::rc::Rc;

use crate::explorer::Explorer;
use crate::host::Command::{Discard, Write};
use crate::play::{Op, Play};
use crate::recorder::Damage;
use crate::setup::Setup;
use crate::violation::Violation;

const EIO: i32 = 5;

/// The operations on two blocks.
pub(crate) fn everything() -> Vec<Op> {
    vec![
        Op::Do(Write, 0..1),
        Op::Do(Write, 1..2),
        Op::Submit(Write, 0..1),
        Op::WriteHalves,
        Op::Finish,
        Op::Flush,
        Op::BeginFlush,
        Op::Commit(true),
        Op::Step,
        Op::Checkpoint,
        Op::Tick,
        Op::Do(Discard, 0..1),
        Op::Reopen,
    ]
}

/// All programs of up to `depth` operations, but those that begin with one that makes no sense.
pub(crate) fn exhaust(explorer: &mut Explorer<'_>, setup: &Setup, alphabet: &[Op], depth: usize) {
    extend(&mut Vec::new(), depth, alphabet, &mut |program| run(explorer, setup, program));
}

/// All programs of up to `depth` operations, in the last of which each operation on the medium
/// fails in each way; afterwards the medium works again, and the program continues.
pub(crate) fn exhaust_faults(explorer: &mut Explorer<'_>, setup: &Setup, alphabet: &[Op], depth: usize) {
    extend(&mut Vec::new(), depth, alphabet, &mut |program| {
        let (last, before) = program.split_last().expect("an operation");
        let count = operations_of(setup, before, last);
        for after in 0..count {
            for damage in [Damage::None, Damage::Part, Damage::All] {
                let mut faulty = before.to_vec();
                faulty.push(Op::Fail { after, count: 1, damage, errno: EIO });
                let rest = [last.clone(), Op::Heal, Op::Finish, Op::Flush, Op::Checkpoint];
                // and by the next owner, where what the image was to get is lost
                let next = [Op::Reopen, Op::Flush, Op::Kill];
                let next = if damage == Damage::Part { &next[..] } else { &[] };
                for op in rest.into_iter().chain(next.iter().cloned()) {
                    faulty.push(op);
                    run(explorer, setup, &faulty);
                }
            }
        }
        count > 0 && explorer.found().is_none()
    });
}

pub(crate) fn extend(
    program: &mut Vec<Op>,
    depth: usize,
    alphabet: &[Op],
    run: &mut impl FnMut(&[Op]) -> bool,
) {
    if depth == 0 {
        return;
    }
    for op in alphabet {
        program.push(op.clone());
        if run(program) {
            extend(program, depth - 1, alphabet, run);
        }
        program.pop();
    }
}

/// Explores all crashes in the last operation of `program`. False when no program needs to continue
/// from there.
pub(crate) fn run(explorer: &mut Explorer<'_>, setup: &Setup, program: &[Op]) -> bool {
    let (last, before) = program.split_last().expect("an operation");
    let media = setup.recorder(setup.created(), Rc::new(setup.unwritten()));
    let played = (|| -> Result<bool, Violation> {
        let mut play = Play::begin(setup, &media)?;
        for op in before {
            if play.makes_sense(op) {
                play.apply(op)?;
            }
        }
        if !play.makes_sense(last) {
            return Ok(false);
        }
        media.record();
        play.apply(last)?;
        Ok(true)
    })();
    explorer.label = format!("{program:?}");
    match played {
        Ok(false) => return false,
        Ok(true) => explorer.explore(&media.take_points()),
        Err(violation) => explorer.report(violation, "no crash"),
    }
    explorer.found().is_none()
}

/// How often `last` does something to the medium.
fn operations_of(setup: &Setup, before: &[Op], last: &Op) -> u64 {
    let media = setup.recorder(setup.created(), Rc::new(setup.unwritten()));
    let played = (|| -> Result<u64, Violation> {
        let mut play = Play::begin(setup, &media)?;
        for op in before {
            play.apply(op)?;
        }
        if !play.makes_sense(last) {
            return Ok(0);
        }
        let operations = media.operations();
        play.apply(last)?;
        Ok(media.operations() - operations)
    })();
    played.unwrap_or(0)
}
