//! The metrics of the ring of a queue.

use super::counter::Gauge;
use super::ring_trouble::RingTrouble;

/// Whether a queue is served.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum QueueState {
    /// The front-end has not set it up, or has stopped it.
    Stopped,
    /// A worker serves it.
    Running,
    /// It is stopped for a moment and continues by itself: for a drain, a growth, or a change that
    /// the front-end makes.
    Paused,
    /// Its ring is broken. The driver must reset it.
    Retired,
}

impl QueueState {
    const ALL: [Self; 4] = [Self::Stopped, Self::Running, Self::Paused, Self::Retired];

    /// The name of the state, for status and metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Stopped => "stopped",
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Retired => "retired",
        }
    }
}

/// The state of a ring, as its session, its worker and the watchdog see it.
#[derive(Debug, Default)]
pub struct RingMetrics {
    /// The number of its entries; 0 while it is stopped.
    pub size: Gauge,
    /// Kicks after which the ring was empty, while no chain was ever popped from it.
    pub empty_kicks: Gauge,
    /// The likely trouble of the ring, as a code of [`RingTrouble`].
    pub trouble: Gauge,
    state: Gauge,
}

impl RingMetrics {
    /// Whether the queue is served.
    pub fn state(&self) -> QueueState {
        let code = self.state.get();
        QueueState::ALL.into_iter().find(|state| *state as u64 == code).unwrap_or(QueueState::Stopped)
    }

    /// Sets the state. Only the session may call it, or the worker, while it runs.
    pub fn set_state(&self, state: QueueState) {
        self.state.set(state as u64);
        if state == QueueState::Stopped {
            self.size.set(0);
        }
    }

    /// Forgets the trouble of an earlier ring.
    pub fn forget_trouble(&self) {
        self.empty_kicks.set(0);
        self.trouble.set(0);
    }

    /// Why the ring gives no requests, where that is known.
    pub fn trouble(&self) -> Option<RingTrouble> {
        RingTrouble::of(&self.trouble)
    }
}
