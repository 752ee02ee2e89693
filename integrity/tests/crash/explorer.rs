//! All the crashes at a place, and what recovery makes of them.

use std::collections::HashSet;
use std::rc::Rc;

use fastrand::Rng;
use stableblk_integrity::sidecar::{File, LoadError, SECTOR_SIZE};

use crate::cuts::cuts;
use crate::hash::{QuickHasher, fingerprint};
use crate::host;
use crate::medium::Medium;
use crate::oracle::{self, Corruption};
use crate::promise::Promise;
use crate::recorder::Point;
use crate::sectors::Sector;
use crate::setup::Setup;
use crate::unreadable;
use crate::violation::Violation;

type Seen = HashSet<u128, QuickHasher>;

/// The crash after which nothing was recovered yet, and the crash during or after that recovery.
const CRASHES: usize = 2;

/// One of this number of states with an unreadable sector is written to until the sector
/// can be read.
const MENDED: u128 = 16;

#[derive(Debug)]
pub(crate) struct Explorer<'s> {
    setup: &'s Setup,
    rng: Rng,
    /// By the number of crashes before.
    points: [Seen; CRASHES],
    states: [Seen; CRASHES],
    found: Option<(Violation, String)>,
    unreadable: u64,
    /// The name of the exploration, for reports.
    pub(crate) label: String,
}

impl<'s> Explorer<'s> {
    pub(crate) fn new(setup: &'s Setup, seed: u64) -> Self {
        Self {
            setup,
            rng: Rng::with_seed(seed),
            points: Default::default(),
            states: Default::default(),
            found: None,
            unreadable: 0,
            label: String::new(),
        }
    }

    /// States of the medium after a crash, all different, that were recovered and checked.
    pub(crate) fn states(&self) -> u64 {
        self.states.iter().map(|seen| seen.len() as u64).sum()
    }

    /// The states that were recovered once more with a sector of the sidecar that cannot be
    /// read.
    pub(crate) fn unreadable(&self) -> u64 {
        self.unreadable
    }

    /// The first violation, and how it came about.
    pub(crate) fn found(&self) -> Option<(Violation, &str)> {
        self.found.as_ref().map(|(violation, how)| (*violation, how.as_str()))
    }

    pub(crate) fn report(&mut self, violation: Violation, how: &str) {
        self.found.get_or_insert_with(|| (violation, format!("{} after {}", how, self.label)));
    }

    pub(crate) fn explore(&mut self, points: &[Point]) {
        for (medium, promise) in points {
            if self.found.is_some() {
                return;
            }
            self.point(medium, promise, 0);
        }
    }

    /// A crash at a place: by power, which leaves any of the cuts, or of the process, which leaves
    /// the caches.
    fn point(&mut self, medium: &Medium, promise: &Rc<Promise>, crashes: usize) {
        if !self.points[crashes].insert(fingerprint(&(medium, promise))) {
            return;
        }
        let choices = medium.choices();
        for chosen in cuts(&choices, &mut self.rng) {
            self.state(&medium.cut(&choices, &chosen), promise, crashes);
        }
        self.state(medium, promise, crashes);
    }

    fn state(&mut self, medium: &Medium, promise: &Rc<Promise>, crashes: usize) {
        let key = fingerprint(&(medium, promise));
        if self.states[..crashes].iter().any(|seen| seen.contains(&key)) || !self.states[crashes].insert(key)
        {
            return;
        }
        let how = match (crashes, medium.choices().is_empty()) {
            (0, true) => "power cut",
            (0, false) => "kill -9",
            (_, true) => "power cut in recovery",
            (_, false) => "kill -9 in recovery",
        };
        let media = self.setup.recorder(medium.clone(), promise.clone());
        if crashes + 1 < CRASHES {
            media.record();
        }
        let mut adopted = 0;
        let checked = match host::open(self.setup, &media) {
            Ok(mut opened) => {
                adopted = opened.recovered.as_ref().map_or(0, |found| found.unnamed_adoptions);
                oracle::check(self.setup, &media, &mut opened, promise, None, crashes == 0)
            }
            Err(_) => Err(Violation::CannotOpen),
        };
        match checked {
            Err(violation) => self.report(violation, how),
            Ok(now) if crashes + 1 < CRASHES => {
                // data that the guest reads from now on must stay
                self.point(&media.medium(), &Rc::new(now), crashes + 1);
                self.corrupt(medium, promise, key, adopted);
                self.make_unreadable(medium, promise, key);
            }
            Ok(_) => {}
        }
        for (medium, promise) in media.take_points() {
            self.point(&medium, &promise, crashes + 1);
        }
    }

    /// Makes a sector of the sidecar unreadable, another one in each state.
    fn make_unreadable(&mut self, medium: &Medium, promise: &Promise, key: u128) {
        if !medium.choices().is_empty() {
            return;
        }
        let Some(at) = unreadable::sector(medium, key) else {
            return;
        };
        self.unreadable += 1;
        let mends = key.is_multiple_of(MENDED);
        if let Err(violation) = unreadable::check(self.setup, medium.clone(), promise, at, mends) {
            self.report(violation, &format!("sector {at} of the sidecar unreadable"));
        }
    }

    /// Damages a settled block, another one in each state. Without that, `adopted` blocks that no
    /// record names are adopted.
    fn corrupt(&mut self, medium: &Medium, promise: &Promise, key: u128, adopted: u64) {
        let settled: Vec<_> = (0..promise.len()).filter(|&block| promise[block].is_settled()).collect();
        if settled.is_empty() || !medium.choices().is_empty() {
            return;
        }
        let block = settled[key as usize % settled.len()];
        let lba = self.setup.lbas[block];
        let mut damaged = medium.clone();
        let mut bytes = [0; SECTOR_SIZE];
        let offset = lba * u64::from(self.setup.interval);
        damaged.read(File::Image, offset, &mut bytes);
        bytes[100] ^= 4;
        damaged.damage(File::Image, offset, Sector::of(&bytes));
        let may_be_adopted = oracle::may_be_adopted(self.setup, medium, &promise[block], lba);
        let media = self.setup.recorder(damaged, Rc::default());
        let checked = match host::open(self.setup, &media) {
            Ok(mut opened) if lba < opened.journal.layout().intervals() => {
                let corruption = Corruption { block, may_be_adopted };
                oracle::check(self.setup, &media, &mut opened, promise, Some(corruption), true).map(drop)
            }
            Ok(_) => Ok(()),
            // the crash alone has used up the bound
            Err(LoadError::TwoMoments(_)) if may_be_adopted && adopted == self.setup.doubt_max => Ok(()),
            Err(_) => Err(Violation::CannotOpen),
        };
        if let Err(violation) = checked {
            self.report(violation, "power cut and corruption");
        }
    }
}
