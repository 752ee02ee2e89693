//! When the log gave requests leave to change blocks, noted while slow requests are looked for.

use std::time::Instant;

use integrity::sidecar::Intent;

use crate::device::operation::DeviceOperation;

/// The requests that got leave, and when.
#[derive(Debug, Default)]
pub(super) struct Grants {
    is_on: bool,
    noted: Vec<(usize, Instant)>,
}

impl Grants {
    /// Notes from now on, or stops to.
    pub(super) fn switch(&mut self, on: bool) {
        self.is_on = on;
        self.noted.clear();
    }

    /// The log has granted these changes now.
    pub(super) fn note(&mut self, granted: &[(DeviceOperation, Intent)]) {
        if !self.is_on || granted.is_empty() {
            return;
        }
        let now = Instant::now();
        self.noted.extend(granted.iter().map(|(operation, _)| (operation.request(), now)));
    }

    /// Gives the grants that were noted since the last call.
    pub(super) fn take(&mut self) -> Vec<(usize, Instant)> {
        std::mem::take(&mut self.noted)
    }
}
