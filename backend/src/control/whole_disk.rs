//! Changes of the whole disk, of which one can be under way: it is resized, or frozen.

use std::time::{Duration, Instant};

/// Whether the disk is being resized.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Resizing {
    No,
    /// The storage may have changed: it is measured, and the disk follows.
    ByItself,
    /// A client has asked for it.
    Asked,
}

/// How far the disk is on its way to being frozen and back.
#[derive(Debug, Default)]
pub(super) enum Freeze {
    #[default]
    Not,
    /// The queues drain, and the device is closed.
    Begun {
        since: Instant,
        limit: Duration,
    },
    Frozen {
        since: Instant,
        until: Instant,
    },
    /// The device is opened again.
    Ending {
        since: Instant,
    },
}

impl Freeze {
    /// Since when no request is taken; none while the disk is not frozen.
    pub(super) fn since(&self) -> Option<Instant> {
        match *self {
            Self::Not => None,
            Self::Begun { since, .. } | Self::Frozen { since, .. } | Self::Ending { since } => Some(since),
        }
    }

    /// The time until the disk is to be thawed; none: it is not frozen.
    pub(super) fn rest(&self, now: Instant) -> Option<Duration> {
        match self {
            Self::Frozen { until, .. } => Some(until.saturating_duration_since(now)),
            _ => None,
        }
    }
}
