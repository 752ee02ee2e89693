//! Rings that lie outside of the memory that the front-end shares, so that their guest waits for
//! ever.

use std::time::{Duration, Instant};

use super::state::Session;
use crate::device::BlockDevice;
use crate::metrics::RingTrouble;

/// How long a ring may lie outside before that is reported: regions come one message at a time.
const UNSHARED_LIMIT: Duration = Duration::from_secs(2);

impl<B: BlockDevice> Session<B> {
    /// The time until [`Self::report_unshared_rings`] has something to report; none: it has
    /// nothing.
    pub(super) fn rest(&mut self) -> Option<Duration> {
        let is_unshared = |index| {
            let addresses = self.should_run(index).filter(|addresses| self.translate(*addresses).is_none());
            addresses.is_some() && self.disk.metrics[index].ring.trouble().is_none()
        };
        if !(0..self.queues.len()).any(is_unshared) {
            self.unshared_since = None;
            return None;
        }
        let since = *self.unshared_since.get_or_insert_with(Instant::now);
        Some(UNSHARED_LIMIT.saturating_sub(since.elapsed()))
    }

    /// Reports each queue that should run and whose ring lies outside. The log has one line for
    /// all.
    pub(super) fn report_unshared_rings(&mut self) {
        if self.unshared_since.is_none_or(|since| since.elapsed() < UNSHARED_LIMIT) {
            return;
        }
        let mut logged = false;
        for index in 0..self.queues.len() {
            let Some(addresses) = self.should_run(index) else { continue };
            let trouble = &self.disk.metrics[index].ring.trouble;
            if self.translate(addresses).is_none() && trouble.get() == 0 {
                trouble.set(RingTrouble::NotShared.code());
                if !std::mem::replace(&mut logged, true) {
                    tracing::warn!(queue = index, "{}", RingTrouble::NotShared.explain());
                }
            }
        }
    }
}
