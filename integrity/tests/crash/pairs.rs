//! Pairs of two moments: the sidecar of one step with the image of another, as copies that were
//! made one after the other, or a backup of which one file was restored, leave them. They are
//! refused, and then nothing is changed; or what is served is right, block by block: it is
//! verified, or fails its reads, or was adopted within the bound and reported.

use std::collections::HashSet;
use std::rc::Rc;

use stableblk_integrity::Guard;
use stableblk_integrity::sidecar::{
    self, File, IntentMode, LoadError, Loaded, PAGE_SIZE, Rules, Superblock, WriteSession,
};

use crate::hash::{QuickHasher, fingerprint};
use crate::host::Command::Write;
use crate::host::{self, read_block, tuples_of};
use crate::medium::Medium;
use crate::play::{Op, Play};
use crate::programs;
use crate::promise::{Promise, Version};
use crate::search::say;
use crate::setup::{Mutant, Setup};
use crate::violation::Violation;

/// Operations of a program, at most.
const DEPTH: usize = 4;

/// The medium at some step, and the promise to the guest then.
type Moment = (Medium, Rc<Promise>);

#[derive(Debug)]
struct Pairs<'s> {
    setup: &'s Setup,
    seen: HashSet<u128, QuickHasher>,
    refused: u64,
}

impl Pairs<'_> {
    /// Tries the sidecar of one moment with the image of the other.
    fn pair(&mut self, sidecar: &Moment, image: &Moment) -> Result<(), Violation> {
        let medium = Medium { sidecar: sidecar.0.sidecar.clone(), ..image.0.clone() };
        if !self.seen.insert(fingerprint(&(&medium, &image.1))) {
            return Ok(());
        }
        let media = self.setup.recorder(medium.clone(), Rc::default());
        let Ok(Loaded { superblock, .. }) = Loaded::from(&media) else {
            return Err(Violation::CannotOpen);
        };
        let mut opened = match host::open(self.setup, &media) {
            Ok(opened) => opened,
            Err(LoadError::TwoMoments(_)) if media.medium().sidecar.current == medium.sidecar.current => {
                self.refused += 1;
                return Ok(());
            }
            Err(LoadError::TwoMoments(_)) => return Err(Violation::RefusedAndChanged),
            Err(_) => return Err(Violation::CannotOpen),
        };
        let reported: HashSet<_> =
            opened.recovered.iter().flat_map(|found| found.adoptions.iter().map(|it| it.lba)).collect();
        let (profile, named) = (self.setup.profile(), named_by_log(&medium, &superblock));
        let (mut adopted, mut unnamed) = (0, 0);
        for (block, &lba) in self.setup.lbas.iter().enumerate() {
            let data = read_block(self.setup, &media, lba);
            let tuple = tuples_of(&mut opened.journal, &media, &(lba..lba + 1));
            if sidecar::verify(&profile, lba, &data, &tuple).is_err() {
                continue;
            }
            if reported.contains(&lba) {
                adopted += 1;
                unnamed += u64::from(!named.contains(&lba));
            } else if !sidecar::is_adopted(&profile, &tuple) && !image.1[block].has(&Version::of(&data)) {
                return Err(Violation::UnmarkedMixture);
            }
        }
        if unnamed > self.setup.doubt_max {
            return Err(Violation::TooManyAdopted);
        }
        let stamp = image.0.stamp.map(|stamp| stamp.session);
        if adopted > 0 && stamp.is_some_and(|image| are_apart(superblock.session(), image)) {
            return Err(Violation::TwoSessions);
        }
        Ok(())
    }

    /// Plays `program`, and pairs what there is at its end with what there was before.
    fn run(&mut self, program: &[Op]) -> Result<(), (Violation, String)> {
        let setup = self.setup;
        let media = setup.recorder(setup.created(), Rc::new(setup.unwritten()));
        let why = |violation| (violation, format!("{program:?}"));
        let mut play = Play::begin(setup, &media).map_err(why)?;
        let mut moments: Vec<Moment> = vec![media.moment()];
        for op in program {
            if !play.makes_sense(op) {
                return Ok(());
            }
            play.apply(op).map_err(why)?;
            moments.push(media.moment());
        }
        let (last, before) = moments.split_last().expect("there is a beginning");
        for other in before {
            self.pair(other, last).and_then(|()| self.pair(last, other)).map_err(why)?;
        }
        Ok(())
    }
}

/// The blocks that the log names in records which were not known to have their data durable: by the
/// format alone.
fn named_by_log(medium: &Medium, superblock: &Superblock) -> HashSet<u64> {
    let mut page = [0; PAGE_SIZE];
    let number =
        |page: &[u8; PAGE_SIZE], at| u64::from_be_bytes(*page[at..].first_chunk().expect("in a page"));
    let (mut committed, mut named) = (0, Vec::new());
    for seq in superblock.tail().. {
        medium.read(File::Sidecar, superblock.layout().log_page_offset(seq), &mut page);
        let is_ours =
            [(24, superblock.epoch()), (32, seq)].iter().all(|&(at, value)| number(&page, at) == value);
        if !is_ours || number(&page, 4088) != Guard::Crc64Nvme.compute(&page[..4088]) {
            break;
        }
        committed = committed.max(number(&page, 40));
        let end = 56 + usize::try_from(number(&page, 48) >> 32).expect("bytes of a page");
        let mut at = 56;
        while at < end {
            let (count, kind) = (number(&page, at + 8) >> 32, number(&page, at + 8) & 0xFFFF_FFFF);
            let first = number(&page, at);
            named.extend((first..first + count).map(|lba| (seq, lba)));
            at += 16 + usize::try_from(count * kind * 16).expect("bytes of a page");
        }
    }
    named.into_iter().filter(|(seq, _)| *seq > committed).map(|(_, lba)| lba).collect()
}

/// Whether the two are no crash between the steps of an opening or a closing.
fn are_apart(sidecar: WriteSession, image: WriteSession) -> bool {
    let is_same = sidecar.epoch == image.epoch && (image.is_open || !sidecar.is_open);
    !is_same && image.epoch + 1 != sidecar.epoch
        || (sidecar.epoch == image.epoch && sidecar.is_open && !image.is_open)
}

/// Two blocks change in a session after a page of the log has said that they were durable. A copy
/// of the sidecar from before knows nothing of that.
fn two_changes_in_a_session() -> Vec<Op> {
    let write = |block| Op::Do(Write, block..block + 1);
    vec![write(0), write(1), Op::Flush, write(2), Op::Flush, write(0), write(1), Op::Flush]
}

/// Tries the pairs of all short programs. Returns their number, how many were refused, and what was
/// found that must not be.
fn search(setup: &Setup) -> (usize, u64, Option<String>) {
    let mut pairs = Pairs { setup, seen: HashSet::default(), refused: 0 };
    let mut found = None;
    programs::extend(&mut Vec::new(), DEPTH, &programs::everything(), &mut |program| {
        if found.is_none()
            && let Err((violation, how)) = pairs.run(program)
        {
            found = Some(format!("{violation} after {how}"));
        }
        found.is_none()
    });
    if found.is_none()
        && let Err((violation, how)) = pairs.run(&two_changes_in_a_session())
    {
        found = Some(format!("{violation} after {how}"));
    }
    (pairs.seen.len(), pairs.refused, found)
}

#[test]
fn pairs_are_refused_or_served_within_the_promise() {
    for mode in [IntentMode::Region, IntentMode::Block] {
        let (states, refused, found) = search(&Setup::bounded(mode));
        assert_eq!(found, None, "{mode:?} mode");
        assert!(refused > 0, "no pair was refused in {mode:?} mode");
        say(&format!("{mode:?}: {states} pairs of two moments, {refused} of them refused"));
    }
}

#[test]
fn each_refusal_is_needed() {
    for (rule, mode) in [
        (Rules::SAME_SESSION, IntentMode::Region),
        (Rules::SAME_SESSION, IntentMode::Block),
        (Rules::BOUNDED_ADOPTION, IntentMode::Region),
    ] {
        let (states, _, found) = search(&Setup::bounded(mode).with(Mutant::WithoutRule(rule)));
        say(&format!(
            "| not {rule:?} | {mode:?} | {} ({states} pairs) |",
            found.as_deref().unwrap_or("NOTHING")
        ));
        assert!(found.is_some(), "nothing is seen without {rule:?} in {mode:?} mode");
    }
}
