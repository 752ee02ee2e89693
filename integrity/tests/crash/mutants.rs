//! Each sync and each rule taken away in turn: something must then be seen that must never be.

use std::fmt;

use stableblk_integrity::sidecar::{File, IntentMode, Reason, Rules, Verify};

use crate::directed;
use crate::explorer::Explorer;
use crate::programs;
use crate::search::say;
use crate::setup::{Mutant, Setup};

const BOTH: &[IntentMode] = &[IntentMode::Region, IntentMode::Block];
const REGION: &[IntentMode] = &[IntentMode::Region];
const BLOCK: &[IntentMode] = &[IntentMode::Block];

/// All of them, with the modes in which they matter.
fn mutants() -> Vec<(Mutant, &'static [IntentMode])> {
    let syncs = [
        (File::Sidecar, Reason::Commit),
        (File::Image, Reason::DataOfLog),
        (File::Image, Reason::CheckpointData),
        (File::Sidecar, Reason::CheckpointTuples),
        (File::Sidecar, Reason::Superblock),
        (File::Image, Reason::RecoveryLeftovers),
        (File::Sidecar, Reason::RecoveryTuples),
        (File::Image, Reason::Close),
    ];
    let syncs = syncs.into_iter().map(|(file, reason)| (Mutant::WithoutSync(file, reason), BOTH));
    let modes = |rule| match rule {
        Rules::RECORD_BEFORE_DATA => BLOCK,
        Rules::BIT_BEFORE_DATA
        | Rules::BIT_BEFORE_RECORD
        | Rules::FLUSH_WAITS_FOR_RECORDS
        | Rules::CLEAN_WHEN_CHECKPOINTED
        | Rules::BOUNDED_DOUBT
        | Rules::MAP_AFTER_SUPERBLOCK
        | Rules::VERIFY_LATER
        | Rules::DIRTY_UNTIL_VERIFIED => REGION,
        _ => BOTH,
    };
    // these refuse what is not left by a crash: see `pairs`
    let refusals = Rules::SAME_SESSION | Rules::BOUNDED_ADOPTION;
    let rules = (Rules::all() - refusals).iter().map(|rule| (Mutant::WithoutRule(rule), modes(rule)));
    let others = [
        (Mutant::FlushWithoutData, BOTH),
        (Mutant::UnreadableStops, BOTH),
        // with intents by block no sector of zeros says more than one that is missing
        (Mutant::UnreadableIsZero, REGION),
        (Mutant::PagesInPart, BOTH),
        (Mutant::LastPartVolatile, BOTH),
        // with intents by block, recovery writes all pages that it judges
        (Mutant::LostIsSeen, REGION),
        (Mutant::DamageInMap, REGION),
    ];
    others.into_iter().chain(syncs).chain(rules).collect()
}

impl fmt::Display for Mutant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => f.pad("none"),
            Self::WithoutSync(file, reason) => f.pad(&format!("no sync of {file:?} for {reason:?}")),
            Self::WithoutRule(rule) => {
                f.pad(&format!("not {}", rule.iter_names().map(|(name, _)| name).collect::<String>()))
            }
            Self::FlushWithoutData => f.pad("flush without a sync of Image"),
            Self::UnreadableStops => f.pad("EIO is no damage"),
            Self::UnreadableIsZero => f.pad("EIO is taken for zeros"),
            Self::PagesInPart => f.pad("pages written in part"),
            Self::LostIsSeen => f.pad("lost tuples are seen by recovery"),
            Self::DamageInMap => f.pad("damage list in the dirty map"),
            Self::LastPartVolatile => f.pad("last page of a commit not durable"),
        }
    }
}

/// Programs that are tried together.
enum Programs {
    /// All of this length; with or without one operation of the medium that fails.
    All(usize, bool),
    Directed,
}

/// Tries short programs, then long ones, then those between, of which there are most.
fn search(setup: &Setup) -> Option<String> {
    use Programs::{All, Directed};
    let alphabet = programs::everything();
    let mut states = 0;
    let mut seen = |explorer: &Explorer<'_>| {
        states += explorer.states();
        let (violation, how) = explorer.found()?;
        Some(format!("{violation} ({states} states; {how:.160})"))
    };
    let groups = [All(1, false), All(2, false), All(1, true), Directed, All(3, false), All(2, true)];
    groups.into_iter().find_map(|programs| match programs {
        Directed => directed::all(setup.mode, setup.mutant).into_iter().find_map(|(setup, program)| {
            let mut explorer = Explorer::new(&setup, 1);
            directed::run(&mut explorer, &setup, &program);
            seen(&explorer)
        }),
        All(depth, faults) => {
            let mut explorer = Explorer::new(setup, 1);
            if faults {
                programs::exhaust_faults(&mut explorer, setup, &alphabet, depth);
            } else {
                programs::exhaust(&mut explorer, setup, &alphabet, depth);
            }
            seen(&explorer)
        }
    })
}

#[test]
fn each_mutant_is_caught() {
    let mut missed = Vec::new();
    say("| mutant | mode | seen |\n|-|-|-|");
    for (mutant, modes) in mutants() {
        for &mode in modes {
            let later = Setup::small(mode).with(mutant);
            let before = Setup { verify: Verify::BeforeServing, ..later.clone() };
            let verdict = search(&later).or_else(|| search(&before));
            say(&format!("| {mutant} | {mode:?} | {} |", verdict.as_deref().unwrap_or("NOTHING")));
            if verdict.is_none() {
                missed.push((mutant, mode));
            }
        }
    }
    assert_eq!(missed, []);
}
