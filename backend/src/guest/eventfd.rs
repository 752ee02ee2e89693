//! The eventfds that a front-end hands over. They are checked: a file of another kind could block a
//! worker, or wake it without end.
//!
//! The front-end keeps the open file description, so it can clear `O_NONBLOCK` and fill the counter
//! at any time: a `write` of ours could then block. The kernel itself never blocks when it signals
//! an eventfd. So a call is signalled by a small io_uring of its own, with which the eventfd is
//! registered: each completion on it makes the kernel signal the eventfd, and completions are had
//! by no-operations.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;
use std::{fmt, thread};

use io_uring::{IoUring, opcode};

/// How often the kernel is asked again to take a no-operation when it has no memory for it.
const TRIES: u32 = 1000;

/// The eventfd by which the driver signals that buffers are available.
#[derive(Debug)]
pub struct KickFd(Arc<OwnedFd>);

/// An eventfd by which we signal that buffers were used, or that the queue was given up.
pub struct CallFd {
    ring: Box<IoUring>,
}

impl fmt::Debug for CallFd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CallFd").finish_non_exhaustive()
    }
}

impl KickFd {
    /// Takes a file of the front-end's. Fails with `InvalidInput` when it is no eventfd.
    pub fn new(file: File) -> io::Result<Self> {
        Ok(Self(Arc::new(eventfd(file)?)))
    }

    /// The eventfd, for the device's queue that polls it.
    pub fn shared(&self) -> &Arc<OwnedFd> {
        &self.0
    }
}

impl CallFd {
    /// Takes a file of the front-end's. Fails with `InvalidInput` when it is no eventfd.
    pub fn new(file: File) -> io::Result<Self> {
        let fd = eventfd(file)?;
        let ring = IoUring::new(1)?;
        // the ring keeps the eventfd, so the descriptor is closed at the end of this function
        ring.submitter().register_eventfd(fd.as_raw_fd())?;
        Ok(Self { ring: Box::new(ring) })
    }

    /// Interrupts the driver. Never blocks: a counter that is full stays so, and the driver has
    /// been interrupted already.
    pub fn signal(&mut self) {
        for _ in 0..TRIES {
            // an operation that the kernel did not take the last time is still there
            if self.ring.submission().is_empty() && !self.push() {
                break;
            }
            let submitted = self.ring.submit();
            self.ring.completion().for_each(drop);
            match submitted {
                Ok(1..) => return,
                // interrupted, or without memory for the moment
                Ok(0) | Err(_) => thread::yield_now(),
            }
        }
        tracing::error!("cannot interrupt the driver: io_uring takes no operation");
    }

    #[expect(unsafe_code, reason = "submission queue entries may carry pointers")]
    fn push(&mut self) -> bool {
        // SAFETY: a no-operation has no address, so the kernel accesses no memory for it.
        unsafe { self.ring.submission().push(&opcode::Nop::new().build()) }.is_ok()
    }
}

fn eventfd(file: File) -> io::Result<OwnedFd> {
    let link = std::fs::read_link(format!("/proc/self/fd/{}", file.as_raw_fd()))?;
    if link.as_os_str() == "anon_inode:[eventfd]" {
        return Ok(file.into());
    }
    Err(io::Error::new(io::ErrorKind::InvalidInput, format!("expected an eventfd, got {}", link.display())))
}

#[cfg(test)]
mod tests {
    use rustix::event::{EventfdFlags, eventfd as new_eventfd};
    use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};

    use super::*;

    #[test]
    fn only_an_eventfd_is_taken() {
        assert!(KickFd::new(new_eventfd(0, EventfdFlags::empty()).unwrap().into()).is_ok());
        let error = KickFd::new(File::open("/dev/null").unwrap()).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
    }

    #[test]
    fn each_signal_adds_one() {
        let fd = new_eventfd(0, EventfdFlags::empty()).unwrap();
        let mut call = CallFd::new(fd.try_clone().unwrap().into()).unwrap();
        let mut counter = [0; 8];
        for signals in 1..4 {
            (0..signals).for_each(|_| call.signal());
            rustix::io::read(&fd, &mut counter).unwrap();
            assert_eq!(u64::from_ne_bytes(counter), signals);
        }
    }

    /// The front-end may make it blocking after it was handed over: the flag belongs to the open
    /// file description, which both processes have.
    #[test]
    fn a_full_counter_does_not_block_a_signal() {
        let fd = new_eventfd(0, EventfdFlags::NONBLOCK).unwrap();
        let mut call = CallFd::new(fd.try_clone().unwrap().into()).unwrap();
        fcntl_setfl(&fd, fcntl_getfl(&fd).unwrap() - OFlags::NONBLOCK).unwrap();
        rustix::io::write(&fd, &(u64::MAX - 1).to_ne_bytes()).unwrap();
        call.signal();
    }
}
