//! The thread of a session, so that a slow drain does not keep the control thread from signals.

use std::io;
use std::net::Shutdown;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::sockopt::socket_peercred;

use super::status::Connected;
use crate::device::BlockDevice;
use crate::inbox::Inbox;
use crate::session::{self, FrontendTurn, Notice, Offer};
use crate::worker::disk::Disk;

/// A front-end that a thread of its own serves.
#[derive(Debug)]
pub(super) struct SessionThread {
    thread: JoinHandle<()>,
    stream: UnixStream,
    inbox: Arc<Inbox<Notice>>,
    connected: Connected,
    /// The other end is dropped when the thread ends.
    ended: UnixStream,
}

impl SessionThread {
    pub(super) fn start<B: BlockDevice>(
        disk: Arc<Disk<B>>,
        offer: Offer,
        stream: UnixStream,
        turn: FrontendTurn,
    ) -> io::Result<Self> {
        let (ended, running) = UnixStream::pair()?;
        let served = stream.try_clone()?;
        let inbox = Arc::new(Inbox::new()?);
        let notices = inbox.clone();
        let thread = thread::Builder::new().name("session".to_owned()).spawn(move || {
            if let Err(error) = session::serve(disk, offer, served, notices, turn) {
                tracing::error!("cannot serve a front-end: {error}");
            }
            drop(running);
        })?;
        let pid = socket_peercred(&stream).ok().map(|peer| peer.pid.as_raw_nonzero().get());
        let connected = Connected { pid, since: Instant::now() };
        Ok(Self { thread, stream, inbox, connected, ended })
    }

    /// The front-end.
    pub(super) fn connected(&self) -> Connected {
        self.connected
    }

    /// Posts a notice to the session.
    pub(super) fn post(&self, notice: Notice) {
        self.inbox.post(notice);
    }

    /// The descriptor that the end of the thread makes readable.
    pub(super) fn end_fd(&self) -> BorrowedFd<'_> {
        self.ended.as_fd()
    }

    /// Ends the session. With [`Shutdown::Read`], the session sees the end of the stream, and the
    /// front-end sees none before everything in flight is done.
    pub(super) fn shut_down(&self, how: Shutdown) {
        let _ = self.stream.shutdown(how);
    }

    /// Waits for the end of the thread, but not longer than `limit`. False: it has not ended.
    pub(super) fn wait_for_end(&self, limit: Duration) -> io::Result<bool> {
        let limit = Timespec::try_from(limit).map_err(io::Error::other)?;
        loop {
            match poll(&mut [PollFd::new(&self.ended, PollFlags::IN)], Some(&limit)) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                polled => return Ok(polled? > 0),
            }
        }
    }

    pub(super) fn join(self) {
        if self.thread.join().is_err() {
            tracing::error!("the session panicked");
        }
    }
}
