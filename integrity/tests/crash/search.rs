//! The search for a state that breaks a promise, in both modes: all short programs, then random
//! schedules.
//!
//! A seed decides everything about a schedule. A failure names it; `STABLEBLK_SEED` runs that one
//! again. With `STABLEBLK_SOAK_SECONDS`, more seeds are run for that time.

use std::env;
use std::ops::AddAssign;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use stableblk_integrity::sidecar::IntentMode;

use crate::directed;
use crate::explorer::Explorer;
use crate::programs;
use crate::schedules::{self, Style};
use crate::setup::{Mutant, Setup};
use crate::skip::skip;

/// States that were recovered and checked.
#[derive(Debug, Default, Clone, Copy)]
struct Tally {
    states: u64,
    /// States that were recovered once more with a sector of the sidecar that cannot be read; not
    /// among `states`.
    unreadable: u64,
}

impl AddAssign for Tally {
    fn add_assign(&mut self, other: Self) {
        self.states += other.states;
        self.unreadable += other.unreadable;
    }
}

/// States in each of the modes.
const STATES: u64 = 700_000;

#[test]
fn region_mode_keeps_its_promises() {
    search(IntentMode::Region);
}

#[test]
fn block_mode_keeps_its_promises() {
    search(IntentMode::Block);
}

#[test]
fn soak() {
    let Ok(seconds) = env::var("STABLEBLK_SOAK_SECONDS") else {
        return skip("it runs for STABLEBLK_SOAK_SECONDS, which is not set");
    };
    let end = Instant::now() + Duration::from_secs(seconds.parse().expect("a number of seconds"));
    let first = SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock").as_secs() << 20;
    let (mut seed, mut tally) = (first, Tally::default());
    while Instant::now() < end {
        for mode in [IntentMode::Region, IntentMode::Block] {
            tally += schedule(mode, seed);
        }
        seed += 1;
    }
    let Tally { states, unreadable } = tally;
    say(&format!(
        "{states} states of {} schedules, from seed {first} on, {unreadable} of them once more with EIO",
        seed - first
    ));
}

fn search(mode: IntentMode) {
    if let Ok(seed) = env::var("STABLEBLK_SEED") {
        schedule(mode, seed.parse().expect("a number"));
        return;
    }
    let mut tally = Tally::default();
    let small = Setup::small(mode);
    let alphabet = programs::everything();
    tally += explored(&small, |explorer| programs::exhaust(explorer, &small, &alphabet, 4));
    tally += explored(&small, |explorer| programs::exhaust_faults(explorer, &small, &alphabet, 2));
    for (setup, program) in directed::all(mode, Mutant::None) {
        tally += explored(&setup, |explorer| directed::run(explorer, &setup, &program));
    }
    let programs = tally.states;
    let mut seed = 0;
    while tally.states < STATES {
        tally += schedule(mode, seed);
        seed += 1;
    }
    say(&format!(
        "{mode:?}: {programs} states of all short programs, {} of {seed} schedules, {} of them once more with EIO",
        tally.states - programs,
        tally.unreadable
    ));
}

/// Runs the schedule of `seed`.
fn schedule(mode: IntentMode, seed: u64) -> Tally {
    let setup = match seed % 8 {
        0 => Setup::two_regions(mode),
        1 => Setup::marked_ahead(mode),
        2 if seed % 16 < 8 => Setup::bounded(mode),
        2 | 3 => Setup::tight_cache(mode),
        4 | 5 => Setup::growing(mode),
        _ => Setup::small(mode),
    };
    let style =
        Style { length: 300, explored: 40, faults: seed / 8 % 2 == 1, checkpoints: seed / 16 % 4 != 3 };
    explored(&setup, |explorer| schedules::run(explorer, &setup, style, seed))
}

/// Explores, and reports what must not be.
fn explored(setup: &Setup, explore: impl FnOnce(&mut Explorer<'_>)) -> Tally {
    let mut explorer = Explorer::new(setup, 0);
    explore(&mut explorer);
    if let Some((violation, how)) = explorer.found() {
        panic!("{:?} mode: {violation}: {how}", setup.mode);
    }
    Tally { states: explorer.states(), unreadable: explorer.unreadable() }
}

/// Prints what a test has found although it passes; the output of `println` would be hidden.
pub(crate) fn say(line: &str) {
    use std::io::Write;

    writeln!(std::io::stdout().lock(), "{line}").expect("standard output");
}
