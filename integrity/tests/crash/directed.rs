//! Programs that are too long to be found by trying all.

use stableblk_integrity::sidecar::IntentMode::{self, Block, Region};
use stableblk_integrity::sidecar::Verify;

use crate::explorer::Explorer;
use crate::host::Command::{Discard, Write};
use crate::play::Op;
use crate::programs;
use crate::recorder::Damage;
use crate::setup::{Mutant, Setup};

/// Pages of the log: see [`Setup`].
const RING: usize = 64;

/// Cuts that are tried where a program continues after one.
const CUTS: u64 = 32;

/// Operations of a recovery, one of which fails.
const FAULTS: u64 = 8;

const FIRST: Op = Op::Do(Write, 0..1);
const SECOND: Op = Op::Do(Write, 1..2);

/// All of them, with the disks on which they run.
pub(crate) fn all(mode: IntentMode, mutant: Mutant) -> Vec<(Setup, Vec<Op>)> {
    let small = Setup::small(mode).with(mutant);
    let mut programs: Vec<_> = [
        overtaking(),
        two_pages(mode),
        commit_fails_in_checkpoint(),
        settled_beside_others(),
        marked_twice(),
        damage_noted(),
    ]
    .into_iter()
    .map(|program| (small.clone(), program))
    .collect();
    let before = Setup { verify: Verify::BeforeServing, ..small.clone() };
    programs.extend((0..FAULTS).map(|after| (before.clone(), recovered_twice(after))));
    let bounded = Setup::bounded(mode).with(mutant);
    programs.extend(
        [two_in_doubt(), larger_than_the_doubt(), data_of_many_records()]
            .map(|program| (bounded.clone(), program)),
    );
    let pages = Setup::tight_cache(mode).with(mutant);
    programs.extend([discarded_pages(), discarded_in_part()].map(|program| (pages.clone(), program)));
    programs.extend((0..CUTS).map(|cut| match mode {
        Region => (Setup::two_regions(mode).with(mutant), pages_of_a_lost_batch(cut)),
        Block => (small.clone(), pages_of_a_failed_batch(cut)),
    }));
    programs
}

/// Explores the last operations of `program`.
pub(crate) fn run(explorer: &mut Explorer<'_>, setup: &Setup, program: &[Op]) {
    for end in program.len().saturating_sub(4)..program.len() {
        programs::run(explorer, setup, &program[..=end]);
    }
}

/// The sync of the next commit but `writes` writes fails.
fn sync_fails(writes: u64, damage: Damage) -> Op {
    Op::Fail { after: writes, count: 1, damage, errno: 5 }
}

/// The log comes round without a checkpoint.
fn overtaking() -> Vec<Op> {
    let page = [Op::Submit(Write, 0..1), Op::Commit(false), Op::GoOn, Op::GoOn, Op::GoOn, Op::BeginFlush];
    let pages = page.iter().chain(&[Op::Commit(false)]).cycle().take(7 * (RING + 2));
    pages.chain(&[Op::Flush]).cloned().collect()
}

/// A commit writes the page of one that has failed, and another beside it.
fn two_pages(mode: IntentMode) -> Vec<Op> {
    let failing = [sync_fails(1, Damage::None), Op::Commit(false)];
    let (begun, ended) = match mode {
        Region => (vec![FIRST, Op::BeginFlush], vec![]),
        Block => (vec![Op::Submit(Write, 0..1)], vec![Op::GoOn, Op::GoOn]),
    };
    [begun, failing.to_vec(), ended, vec![Op::Heal, SECOND, Op::Flush]].concat()
}

/// A sync that fails gives up the tuples of a checkpoint beside it.
fn commit_fails_in_checkpoint() -> Vec<Op> {
    let mut program = vec![FIRST, Op::Flush, Op::Step, Op::Step, Op::Step, Op::Step];
    program.extend([Op::Submit(Write, 1..2), Op::BeginFlush, sync_fails(1, Damage::Part), Op::Commit(false)]);
    program.extend([Op::Heal, Op::Step, Op::Step, Op::Step, Op::Step]);
    program
}

/// The record that settles a failed write lies behind a page that another write keeps from being
/// complete.
fn settled_beside_others() -> Vec<Op> {
    let failing = Op::Fail { after: 0, count: 1, damage: Damage::None, errno: 5 };
    let mut program = vec![FIRST, Op::Flush, Op::Checkpoint, Op::Submit(Write, 0..1), Op::Commit(false)];
    program.extend([
        Op::GoOn,
        failing,
        Op::GoOn,
        Op::Heal,
        Op::Submit(Write, 1..2),
        Op::Commit(false),
        Op::GoOn,
    ]);
    program.extend(vec![Op::Step; 8]);
    program
}

/// A recovery fails after some operations, and another follows.
fn recovered_twice(after: u64) -> Vec<Op> {
    let failing = Op::Fail { after, count: 1, damage: Damage::Part, errno: 5 };
    vec![Op::Submit(Write, 0..1), Op::Commit(false), Op::WriteHalves, Op::Finish, failing, Op::Kill, SECOND]
}

/// Two writes at once, of which only one may be in doubt. A page of the log says that all before
/// them was durable.
fn two_in_doubt() -> Vec<Op> {
    let mut program = vec![FIRST, SECOND, Op::Flush, Op::Do(Write, 2..3), Op::Flush];
    program.extend([
        Op::Submit(Write, 0..1),
        Op::Submit(Write, 1..2),
        Op::GoOn,
        Op::GoOn,
        Op::Finish,
        Op::Flush,
    ]);
    program
}

/// A write of more blocks than may be in doubt.
fn larger_than_the_doubt() -> Vec<Op> {
    vec![FIRST, SECOND, Op::Flush, Op::Submit(Write, 0..2), Op::WriteHalves, Op::Finish, Op::Flush]
}

/// A region is asked for again while the commit that marks it is running.
fn marked_twice() -> Vec<Op> {
    let mut program =
        vec![Op::Submit(Write, 0..1), Op::Commit(true), Op::WriteHalves, SECOND, Op::Commit(true)];
    program.extend([Op::Flush, Op::Commit(true), Op::Checkpoint, Op::Finish]);
    program
}

/// A block is noted as damaged, and written, beside a write that is half done.
fn damage_noted() -> Vec<Op> {
    let noted = [Op::NoteDamage(true), Op::Submit(Write, 0..1), Op::WriteHalves, Op::NoteDamage(false)];
    let again = [Op::NoteDamage(true), Op::Finish, Op::Flush];
    [FIRST, SECOND, Op::Flush].into_iter().chain(noted).chain(again).collect()
}

/// Two writes whose records become durable without a flush, until their data is made durable too;
/// then a record that says so. As if it were durable, one of them may be in doubt.
fn data_of_many_records() -> Vec<Op> {
    let recorded = |write| [write, Op::BeginFlush, Op::Commit(false)];
    let mut program = [FIRST, SECOND].map(recorded).concat();
    // meanwhile the log's thread has time for more than commits
    program.extend([Op::Submit(Write, 2..3), Op::WriteHalves, Op::Finish]);
    program.extend(recorded(Op::Do(Write, 2..3)));
    program
}

/// Pages of the array become unwritten, and one of their blocks is written before the array has
/// that.
fn discarded_pages() -> Vec<Op> {
    let mut program: Vec<_> = (0..5).map(|block| Op::Do(Write, block..block + 1)).collect();
    program.extend([Op::Flush, Op::Checkpoint, Op::Submit(Discard, 1..5), Op::WriteHalves, Op::Finish]);
    program.extend([Op::Do(Write, 2..3), Op::Flush, Op::Checkpoint, Op::Do(Discard, 0..5), Op::Checkpoint]);
    program
}

/// A discard of pages fails when half of it is done.
fn discarded_in_part() -> Vec<Op> {
    let mut program: Vec<_> = (0..5).map(|block| Op::Do(Write, block..block + 1)).collect();
    let failing = Op::Fail { after: 0, count: 1, damage: Damage::Part, errno: 5 };
    program.extend([Op::Flush, Op::Checkpoint, Op::Submit(Discard, 0..5), Op::WriteHalves, failing]);
    program.extend([Op::Finish, Op::Heal, Op::Flush, Op::Checkpoint]);
    program
}

/// Of two pages in a batch that a power cut hits, the second may be there without the first.
fn pages_of_a_lost_batch(cut: u64) -> Vec<Op> {
    let mut program = vec![FIRST, Op::BeginFlush, Op::Submit(Write, 0..1), Op::GoOn, Op::GoOn, Op::GoOn];
    program.extend([Op::BeginFlush, sync_fails(2, Damage::None), Op::Commit(false), Op::Heal]);
    program.extend([Op::Cut(cut), SECOND, Op::Flush]);
    program
}

/// The same where each commit is of one page, unless it was tried before.
fn pages_of_a_failed_batch(cut: u64) -> Vec<Op> {
    let mut program =
        vec![Op::Submit(Write, 0..1), sync_fails(1, Damage::None), Op::Commit(false), Op::GoOn, Op::GoOn];
    program.extend([Op::Submit(Write, 1..2), sync_fails(2, Damage::None), Op::Commit(false), Op::Heal]);
    program.extend([Op::Cut(cut), SECOND, Op::Flush]);
    program
}
