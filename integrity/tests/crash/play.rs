//! Operations that schedules are made of.

use std::fmt;
use std::ops::Range;

use stableblk_integrity::sidecar::Loaded;

use crate::cuts::cuts;
use crate::damage;
use crate::host::{self, Command, Host};
use crate::oracle;
use crate::recorder::{Damage, Recorder};
use crate::setup::Setup;
use crate::violation::Violation;
use fastrand::Rng;

/// The next event on the host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Op {
    /// A request, from its arrival to its end.
    Do(Command, Range<usize>),
    /// A request arrives and asks for leave.
    Submit(Command, Range<usize>),
    /// All requests are granted and have half of their data written.
    WriteHalves,
    /// Each request takes a step.
    GoOn,
    /// All requests are done.
    Finish,
    /// A flush, from its arrival to its end.
    Flush,
    BeginFlush,
    FinishFlushes,
    /// The log's thread commits; true: requests ask in the midst of it.
    Commit(bool),
    /// The log's thread takes a step of a checkpoint.
    Step,
    /// A checkpoint of all that is complete, to its end.
    Checkpoint,
    Tick,
    /// The log's thread writes a damage list, with a block or without.
    NoteDamage(bool),
    /// The session ends, and another begins.
    Reopen,
    /// The same, and in between the image grows to this size.
    Grow(u64),
    /// The process is killed, and another begins a session.
    Kill,
    /// Power is cut, which leaves one of the possible states, by its number; then another session
    /// begins.
    Cut(u64),
    /// Operations on the medium fail: `count` of them, after `after` others.
    Fail {
        after: u64,
        count: u64,
        damage: Damage,
        errno: i32,
    },
    /// The medium is well again.
    Heal,
}

impl fmt::Display for Op {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self:?}")
    }
}

/// A disk in use.
#[derive(Debug)]
pub(crate) struct Play<'m> {
    setup: &'m Setup,
    media: &'m Recorder,
    host: Option<Host<'m>>,
}

impl<'m> Play<'m> {
    pub(crate) fn begin(setup: &'m Setup, media: &'m Recorder) -> Result<Self, Violation> {
        let opened = host::open(setup, media).map_err(|_| Violation::CannotOpen)?;
        let host = Some(Host::new(setup, media, opened, setup.unwritten(), 0));
        Ok(Self { setup, media, host })
    }

    /// Whether `op` would do anything.
    pub(crate) fn makes_sense(&self, op: &Op) -> bool {
        let Some(host) = &self.host else {
            return false;
        };
        match op {
            Op::Do(_, blocks) | Op::Submit(_, blocks) => host.has(blocks) && !host.is_busy(blocks),
            Op::WriteHalves | Op::GoOn | Op::Finish => host.has_requests(),
            Op::FinishFlushes => host.has_flushes(),
            Op::Grow(size) => !host.has_grown_to(*size),
            _ => true,
        }
    }

    pub(crate) fn apply(&mut self, op: &Op) -> Result<(), Violation> {
        let host = self.host.as_mut().expect("a session");
        match op {
            Op::Do(command, blocks) => {
                host.submit(*command, blocks.clone());
                host.finish(blocks)?;
            }
            Op::Submit(command, blocks) => host.submit(*command, blocks.clone()),
            Op::WriteHalves => host.write_halves(),
            Op::GoOn => host.go_on(),
            Op::Finish => host.finish_requests()?,
            Op::Flush => {
                host.begin_flush();
                host.finish_flushes()?;
            }
            Op::BeginFlush => host.begin_flush(),
            Op::FinishFlushes => host.finish_flushes()?,
            Op::Commit(meddling) => drop(host.commit(*meddling)),
            Op::Step => {
                if !host.has_checkpoint() {
                    host.want_checkpoint();
                }
                host.work(false);
            }
            Op::Checkpoint => host.checkpoint_all()?,
            Op::Tick => host.tick(),
            Op::NoteDamage(is_listed) => damage::note(self.setup, self.media, *is_listed),
            Op::Reopen => self.reopen(None)?,
            Op::Grow(size) => self.reopen(Some(*size))?,
            Op::Kill => self.crash()?,
            Op::Cut(number) => {
                let medium = self.media.medium();
                let choices = medium.choices();
                let cuts = cuts(&choices, &mut Rng::with_seed(*number));
                let chosen = &cuts[usize::try_from(*number).expect("a small number") % cuts.len()];
                self.media.replace_medium(medium.cut(&choices, chosen));
                self.crash()?;
            }
            Op::Fail { after, count, damage, errno } => self.media.fail(*after, *count, *damage, *errno),
            Op::Heal => self.media.heal(),
        }
        self.host.as_mut().expect("a session").read_all()
    }

    fn reopen(&mut self, size: Option<u64>) -> Result<(), Violation> {
        let mut host = self.host.take().expect("a session");
        if !host.close()? {
            if !self.media.is_faulty() && !self.media.durability_lost() {
                return Err(Violation::Failed);
            }
            self.host = Some(host);
            return self.crash();
        }
        if oracle::is_marked(&self.setup.layout(), &self.media.medium(), 0) {
            return Err(Violation::LeftDirty);
        }
        if let Some(size) = size {
            self.grow(size)?;
        }
        self.open(host)
    }

    fn grow(&self, size: u64) -> Result<(), Violation> {
        let mut loaded = Loaded::from(self.media).map_err(|_| Violation::CannotOpen)?;
        let grown = loaded.superblock.grown_to(size).expect("room in the map");
        match loaded.replace(self.media, grown) {
            Err(_) if !self.media.is_faulty() => Err(Violation::Failed),
            _ => Ok(()),
        }
    }

    fn crash(&mut self) -> Result<(), Violation> {
        let host = self.host.take().expect("a session");
        self.open(host)
    }

    /// Begins a new session after that of `host`, however it ended.
    fn open(&mut self, host: Host<'_>) -> Result<(), Violation> {
        let (mut promise, writes) = (host.promised().clone(), host.writes());
        drop(host);
        self.media.promise(&promise.during_recovery());
        self.media.opened_again();
        let first = host::open(self.setup, self.media);
        let is_first = first.is_ok();
        if !is_first {
            promise.owed |= self.media.owes();
            self.media.promise(&promise.during_recovery());
            self.media.heal();
            self.media.opened_again();
        }
        let opened = first.or_else(|_| host::open(self.setup, self.media));
        let mut opened = opened.map_err(|_| Violation::CannotOpen)?;
        let held = oracle::check(self.setup, self.media, &mut opened, &promise, None, is_first)?;
        self.host = Some(Host::new(self.setup, self.media, opened, held, writes));
        Ok(())
    }
}
