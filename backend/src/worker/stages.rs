//! The stages of a request, timed while slow requests are looked for. No clock is read for it
//! otherwise.

use std::time::Instant;

use crate::metrics::SlowStages;

/// A stage that a request reaches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    /// Its range is held, and its turn has come.
    Range,
    /// Its first part has a folio.
    Folio,
    /// Its last part was given to the device.
    Submitted,
    /// Its last part has come back.
    Completed,
}

/// When a request reached its stages.
#[derive(Debug)]
pub(super) struct Stages {
    popped: Instant,
    range: Option<Instant>,
    folio: Option<Instant>,
    log: Option<Instant>,
    submitted: Option<Instant>,
    completed: Option<Instant>,
}

impl Stages {
    /// Those of a request that is popped now.
    pub(super) fn begin() -> Self {
        let popped = Instant::now();
        Self { popped, range: None, folio: None, log: None, submitted: None, completed: None }
    }

    /// The request reaches `stage` now.
    pub(super) fn reach(&mut self, stage: Stage) {
        let now = Instant::now();
        match stage {
            Stage::Range => _ = self.range.get_or_insert(now),
            Stage::Folio => _ = self.folio.get_or_insert(now),
            Stage::Submitted => self.submitted = Some(now),
            Stage::Completed => self.completed = Some(now),
        }
    }

    /// The log gave a part leave to change blocks.
    pub(super) fn granted(&mut self, at: Instant) {
        self.log = Some(at);
    }

    /// When the request was popped.
    pub(super) fn popped(&self) -> Instant {
        self.popped
    }

    /// The times from the pop on.
    pub(super) fn times(&self) -> SlowStages {
        let since =
            |stage: Option<Instant>| stage.map(|at| microseconds(at.saturating_duration_since(self.popped)));
        SlowStages {
            range_us: since(self.range),
            folio_us: since(self.folio),
            log_us: since(self.log),
            // the device has it in hand only then
            submitted_us: since(self.submitted.max(self.log)),
            completed_us: since(self.completed),
        }
    }
}

/// A time in microseconds.
pub(super) fn microseconds(time: std::time::Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}
