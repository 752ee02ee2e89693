//! Guest memory as a worker holds it.

use std::ops::Deref;
use std::rc::Rc;

use virtio::Segments;

use super::failure::Failure;
use crate::guest::memory_table::{self, GuestMemory};
use crate::guest::sigbus;

/// Guest memory as a worker holds it: once, for the ring, for copies and for transfers without a
/// bounce. A transfer counts among the worker's own references, so it never touches a count that
/// all workers share.
#[derive(Debug)]
pub(super) struct WorkerMemory {
    regions: Rc<GuestMemory>,
    /// Mappings that had been lost before the queue was started.
    losses_before: u64,
}

impl WorkerMemory {
    /// The regions of `memory`.
    pub(super) fn new(memory: &GuestMemory) -> Self {
        Self { regions: Rc::new(memory.clone()), losses_before: sigbus::losses() }
    }

    /// Takes over the regions of `memory`, among which are all that there were, at their places.
    pub(super) fn replace(&mut self, memory: &GuestMemory) {
        self.regions = Rc::new(memory.clone());
    }

    /// The regions, for a transfer that keeps them mapped.
    pub(super) fn regions(&self) -> &Rc<GuestMemory> {
        &self.regions
    }

    /// Whether any mapping of the process was lost since the queue was started.
    pub(super) fn has_new_losses(&self) -> bool {
        sigbus::losses() != self.losses_before
    }

    /// Whether any region is lost, or the dirty log that writes to it are marked in.
    pub(super) fn is_any_lost(&self) -> bool {
        memory_table::is_any_lost(&self.regions)
    }

    /// Fails when memory of `data` is lost: then what was copied is not what the guest has there.
    /// To be called after each copy.
    pub(super) fn check(&self, data: &Segments) -> Result<(), Failure> {
        if self.has_new_losses() && memory_table::is_lost(&self.regions, data) {
            return Err(Failure::MemoryLost);
        }
        Ok(())
    }
}

impl Deref for WorkerMemory {
    type Target = GuestMemory;

    fn deref(&self) -> &GuestMemory {
        &self.regions
    }
}
