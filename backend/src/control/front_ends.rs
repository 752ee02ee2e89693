//! Front-ends: accepted one after another, each served by a session.

use std::io;
use std::net::Shutdown;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::clients::ACCEPT_PAUSE;
use super::counters::log_counters;
use super::epoll::EpollSet;
use super::error::{ControlError, STOP_LIMIT};
use super::session_thread::SessionThread;
use super::socket::Endpoint;
use super::token::Token;
use crate::device::BlockDevice;
use crate::metrics::QueueState;
use crate::session::{FrontendTurn, Offer};
use crate::worker::disk::Disk;

/// The socket of front-ends, and the session of the one that is connected.
#[derive(Debug)]
pub(super) struct FrontEnds<'a, B> {
    disk: &'a Arc<Disk<B>>,
    offer: &'a Offer,
    endpoint: &'a Endpoint,
    session: Option<SessionThread>,
    /// When front-ends are accepted again, after that has failed.
    accept_at: Option<Instant>,
}

impl<'a, B: BlockDevice> FrontEnds<'a, B> {
    /// The front-ends that `endpoint` has for `disk`.
    pub(super) fn new(disk: &'a Arc<Disk<B>>, offer: &'a Offer, endpoint: &'a Endpoint) -> io::Result<Self> {
        if let Some(listener) = endpoint.listener() {
            // another process may have the socket too, and accept a front-end before we do
            listener.set_nonblocking(true)?;
        }
        Ok(Self { disk, offer, endpoint, session: None, accept_at: None })
    }

    /// The session of the front-end that is connected, if there is one.
    pub(super) fn session(&self) -> Option<&SessionThread> {
        self.session.as_ref()
    }

    /// Whether a front-end waits until it is served.
    pub(super) fn is_any_waiting(&self) -> bool {
        let Some(listener) = self.endpoint.listener_fd() else {
            return false;
        };
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        poll(&mut [PollFd::new(&listener, PollFlags::IN)], Some(&now)).is_ok_and(|ready| ready > 0)
    }

    /// Starts with the front-end that is connected already, or with the listener.
    pub(super) fn start(&mut self, epoll: &EpollSet) -> io::Result<()> {
        if let Endpoint::Connected(stream) = self.endpoint {
            self.start_session(epoll, stream.try_clone()?)?;
        }
        self.listen(epoll).map(drop)
    }

    /// Waits for the next front-end. False: there will be none.
    fn listen(&self, epoll: &EpollSet) -> io::Result<bool> {
        match self.endpoint.listener_fd() {
            Some(listener) => epoll.watch(listener, Token::Listener.into()).map(|()| true),
            None => Ok(false),
        }
    }

    /// Accepts a front-end and serves it. The next one waits in the backlog, until the session has
    /// ended or the failure has passed.
    pub(super) fn accept(&mut self, epoll: &EpollSet) -> io::Result<()> {
        let Some(listener) = self.endpoint.listener() else {
            return Ok(());
        };
        let served = match listener.accept() {
            // another process has accepted it
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
            Err(error) => Err(("accept", error)),
            Ok((stream, _)) => {
                tracing::info!("front-end connected");
                self.start_session(epoll, stream).map_err(|error| ("serve", error))
            }
        };
        epoll.forget(listener.as_fd())?;
        if let Err((action, error)) = served {
            self.accept_at = Some(Instant::now() + ACCEPT_PAUSE);
            let failures = &self.disk.events.failed_frontends;
            if failures.add_logged() {
                let times = failures.get();
                tracing::error!(times, "cannot {action} a front-end, trying again every second: {error}");
            }
        }
        Ok(())
    }

    /// The time until [`Self::accept_again`] has something to do; none: it has nothing.
    pub(super) fn rest(&self, now: Instant) -> Option<Duration> {
        self.accept_at.map(|at| at.saturating_duration_since(now))
    }

    /// Accepts front-ends again, some time after that has failed.
    pub(super) fn accept_again(&mut self, epoll: &EpollSet, now: Instant) {
        if self.accept_at.is_some_and(|at| at <= now) {
            self.accept_at = self.listen(epoll).err().map(|_| now + ACCEPT_PAUSE);
        }
    }

    fn start_session(&mut self, epoll: &EpollSet, stream: UnixStream) -> io::Result<()> {
        let turn = match self.endpoint {
            Endpoint::Connected(_) => FrontendTurn::Only,
            Endpoint::Bound(_) | Endpoint::Listener(_) => FrontendTurn::OneOfMany,
        };
        let session = SessionThread::start(self.disk.clone(), self.offer.clone(), stream, turn)?;
        epoll.watch(session.end_fd(), Token::Session.into()).inspect_err(|_| {
            // its end would not be noticed
            session.shut_down(Shutdown::Both);
        })?;
        self.disk.events.frontends.add(1);
        self.session = Some(session);
        Ok(())
    }

    /// Takes back a session that has ended, and waits for the next front-end. False: there will
    /// be none.
    pub(super) fn end_session(&mut self, epoll: &EpollSet) -> io::Result<bool> {
        if let Some(session) = self.session.take() {
            epoll.forget(session.end_fd())?;
            session.join();
            log_counters(self.disk);
        }
        self.listen(epoll)
    }

    /// Ends the session, if there is one, before the process ends.
    pub(super) fn stop(&mut self) -> Result<(), ControlError> {
        let Some(session) = self.session.take() else {
            return Ok(());
        };
        // not the other direction: a front-end that sees the end of the stream takes the used rings
        // of that moment for final
        session.shut_down(Shutdown::Read);
        if !session.wait_for_end(STOP_LIMIT)? {
            return Err(hangs(self.disk));
        }
        session.join();
        log_counters(self.disk);
        Ok(())
    }
}

/// The error for a session that has not ended.
fn hangs<B>(disk: &Disk<B>) -> ControlError {
    let queues =
        disk.metrics.iter().enumerate().filter(|(_, metrics)| metrics.ring.state() != QueueState::Stopped);
    let queues: Vec<_> = queues
        .map(|(queue, metrics)| format!("queue {queue} with {} requests in flight", metrics.in_flight.get()))
        .collect();
    let what = if queues.is_empty() { "the session".to_owned() } else { queues.join(", ") };
    ControlError::Hangs { what: format!("{what} has not stopped"), seconds: STOP_LIMIT.as_secs() }
}
