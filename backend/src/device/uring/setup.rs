//! Sets up an io_uring, and explains why the kernel refuses one.

use std::{io, mem};

use io_uring::{IoUring, Probe, cqueue, opcode, squeue};
use rustix::process::{Resource, getrlimit};

/// Entries of the submission queue. A larger batch costs one more system call, nothing else.
const SUBMISSIONS: u32 = 256;
/// Entries of the completion queue: as many as can be in flight, so that it does not overflow in
/// practice.
const COMPLETIONS: u32 = 4096;
/// Memory that a ring locks besides its entries, rounded up to pages, in bytes.
const RING_HEADER: usize = 8 << 10;

/// Fails where this process may not use io_uring, or not all that it needs of it.
pub fn probe() -> io::Result<()> {
    let uring = build::<squeue::Entry, cqueue::Entry>()?;
    let mut probe = Probe::new();
    uring.submitter().register_probe(&mut probe)?;
    let needed = [opcode::ReadFixed::CODE, opcode::Writev::CODE, opcode::Fsync::CODE, opcode::PollAdd::CODE];
    if needed.into_iter().all(|code| probe.is_supported(code)) {
        Ok(())
    } else {
        Err(io::Error::new(
            io::ErrorKind::Unsupported,
            "the kernel's io_uring lacks fixed buffers or polling",
        ))
    }
}

/// A ring for the calling thread.
pub(super) fn build<S: squeue::EntryMarker, C: cqueue::EntryMarker>() -> io::Result<IoUring<S, C>> {
    // With deferred task work (Linux 6.1) the kernel runs completions in one batch when it is
    // entered, and does not interrupt the thread for each.
    let deferred = IoUring::<S, C>::builder()
        .setup_cqsize(COMPLETIONS)
        .setup_single_issuer()
        .setup_defer_taskrun()
        .setup_taskrun_flag()
        .build(SUBMISSIONS);
    match deferred {
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {
            IoUring::<S, C>::builder().setup_cqsize(COMPLETIONS).build(SUBMISSIONS)
        }
        other => other,
    }
    .map_err(explain::<S, C>)
}

/// Names the limit that a ring did not fit into.
fn explain<S, C>(error: io::Error) -> io::Error {
    if error.raw_os_error() != Some(libc::ENOMEM) {
        return error;
    }
    let Some(limit) = getrlimit(Resource::Memlock).current else {
        let reason = "Cannot allocate memory for io_uring's rings: free some memory";
        return io::Error::new(io::ErrorKind::OutOfMemory, reason);
    };
    let limit = format!("{} KiB", limit >> 10);
    let entries = SUBMISSIONS as usize * mem::size_of::<S>() + COMPLETIONS as usize * mem::size_of::<C>();
    let ring = (entries + RING_HEADER) >> 10;
    let reason = format!(
        "Cannot allocate memory: RLIMIT_MEMLOCK ({limit}) is too small for the rings of all processes of this user; \
         each queue that is used locks {ring} KiB, 64 queues {} MiB, and 8 MiB more each where there is room: raise \
         it (`ulimit -l`, LimitMEMLOCK= in a systemd unit), or use fewer queues",
        (64 * ring).div_ceil(1 << 10)
    );
    io::Error::new(io::ErrorKind::OutOfMemory, reason)
}
