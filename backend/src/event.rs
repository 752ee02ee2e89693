//! The eventfds that a front-end hands over, checked: a file of another kind could block a worker or wake it for ever.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};

/// The driver signals it: buffers are available.
#[derive(Debug)]
pub struct KickFd(OwnedFd);

/// We signal it: buffers were used, or the queue was given up.
#[derive(Debug)]
pub struct CallFd(OwnedFd);

impl KickFd {
    /// Takes a file of the front-end's. Fails with `InvalidInput` when it is no eventfd.
    pub fn new(file: File) -> io::Result<Self> {
        eventfd(file).map(Self)
    }

    /// For the ring's poll.
    pub fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl CallFd {
    /// Takes a file of the front-end's. Fails with `InvalidInput` when it is no eventfd.
    pub fn new(file: File) -> io::Result<Self> {
        let fd = eventfd(file)?;
        // A front-end that fills the counter would else block the worker in the next signal.
        fcntl_setfl(&fd, fcntl_getfl(&fd)? | OFlags::NONBLOCK)?;
        Ok(Self(fd))
    }

    /// Interrupts the driver.
    pub fn signal(&self) {
        // Fails when the counter is full: then the driver has been told already.
        let _ = rustix::io::write(&self.0, &1u64.to_ne_bytes());
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

    use super::*;

    #[test]
    fn only_an_eventfd_is_taken() {
        assert!(KickFd::new(new_eventfd(0, EventfdFlags::empty()).unwrap().into()).is_ok());
        let error = KickFd::new(File::open("/dev/null").unwrap()).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
    }

    #[test]
    fn a_full_counter_does_not_block_a_signal() {
        let fd = new_eventfd(0, EventfdFlags::empty()).unwrap();
        rustix::io::write(&fd, &(u64::MAX - 1).to_ne_bytes()).unwrap();
        CallFd::new(fd.into()).unwrap().signal();
    }
}
