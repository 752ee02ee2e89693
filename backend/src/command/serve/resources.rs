//! Open files and memory that the queues need, and the limits of the system on them.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use super::error::ServeError;
use crate::control;
use crate::device::bounce::ARENA_SIZE;
use crate::guest::MEMORY_SLOTS_MAX;

/// The number of descriptors of one queue: kick, the rings of call and error, wake and its copy,
/// io_uring, the image for its syncs, and one to spare.
const FILES_PER_QUEUE: u64 = 8;
/// The number of descriptors of a memory region: its file, and for a moment a copy of it on the way
/// to the parser of messages.
const FILES_PER_SLOT: u64 = 2;
/// The number of memory regions that a front-end can rely on: those of a machine at its start, and
/// some to plug in.
const MEMORY_SLOTS_MIN: usize = 32;
/// The number of all other descriptors.
const FILES_BESIDES: u64 = 64 + control::CLIENTS_MAX as u64 + CONTROL_FILES;
/// The number of descriptors of the control thread: epoll set, socket, results, size and the queue
/// of a flush.
const CONTROL_FILES: u64 = 12;

/// Raises the limit of open files, and refuses more queues than the system has files or memory for.
pub(super) fn check_resources(queues: u16) -> Result<(), ServeError> {
    let needed = files_without_memory(queues) + FILES_PER_SLOT * MEMORY_SLOTS_MIN as u64;
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if let Some(limit) = maximum.filter(|maximum| *maximum < needed) {
        return Err(ServeError::TooManyQueues { queues, needed, limit });
    }
    if current != maximum {
        // to the maximum, because the memory that a front-end shares takes descriptors too
        let raised = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum });
        raised.map_err(|error| ServeError::Setup {
            action: "raise the limit of open files",
            source: error.into(),
        })?;
    }
    let memory = rustix::system::sysinfo();
    let total = memory.totalram.saturating_mul(memory.mem_unit.into()) >> 20;
    let needed = u64::from(queues) * (ARENA_SIZE as u64 >> 20);
    if needed > total {
        return Err(ServeError::TooMuchMemory { queues, needed, total });
    }
    Ok(())
}

/// The number of descriptors that are needed before the front-end shares any memory.
fn files_without_memory(queues: u16) -> u64 {
    u64::from(queues) * FILES_PER_QUEUE + FILES_BESIDES
}

/// The number of memory regions that a front-end may share. Each takes an open file.
pub(super) fn memory_slots(queues: u16) -> usize {
    let left = |limit: u64| limit.saturating_sub(files_without_memory(queues)) / FILES_PER_SLOT;
    let slots = getrlimit(Resource::Nofile).maximum.map_or(u64::MAX, left);
    usize::try_from(slots).map_or(MEMORY_SLOTS_MAX, |slots| slots.min(MEMORY_SLOTS_MAX))
}
