//! Connections to the control socket. Nothing here blocks: a client that does not read gets no more
//! replies, and a client that sends too much is cut off.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use rustix::net::sockopt::socket_peercred;

use super::epoll::{EpollSet, Interest};
use super::protocol::{ControlReply, REQUEST_LEN_MAX};
use crate::control::socket::BoundSocket;
use crate::metrics::Counter;

/// The time without a further try to accept, after that has failed: the cause may lie in the whole
/// system.
pub(super) const ACCEPT_PAUSE: Duration = Duration::from_secs(1);
/// The largest number of connections. One more takes the place of the one that has been silent for
/// longest.
pub(crate) const CLIENTS_MAX: usize = 16;

/// The control socket and the clients that are connected to it.
#[derive(Debug)]
pub(super) struct Clients {
    socket: BoundSocket,
    listener_token: u64,
    /// When connections are accepted again, after that has failed.
    accept_at: Option<Instant>,
    /// How often that has failed.
    failures: Counter,
    /// The clients by number, which is also their token in the epoll set.
    connected: BTreeMap<u64, Client>,
    next: u64,
}

/// One connection.
#[derive(Debug)]
struct Client {
    stream: UnixStream,
    received: Vec<u8>,
    unsent: Vec<u8>,
    /// Whether a request of the client is being carried out.
    busy: bool,
    /// The time of its connection, or of its last reply.
    silent_since: Instant,
    /// Whether the client has ended its side of the connection.
    ended: bool,
    /// Whether its last reply is on the way; further requests are ignored.
    closing: bool,
    interest: Interest,
}

impl Clients {
    /// Accepts on `socket`, whose events have `listener_token`. Clients have tokens from
    /// `first_token` on.
    pub(super) fn new(
        socket: BoundSocket,
        epoll: &EpollSet,
        listener_token: u64,
        first_token: u64,
    ) -> io::Result<Self> {
        socket.listener().set_nonblocking(true)?;
        epoll.watch(socket.listener().as_fd(), listener_token)?;
        Ok(Self {
            socket,
            listener_token,
            accept_at: None,
            failures: Counter::default(),
            connected: BTreeMap::new(),
            next: first_token,
        })
    }

    /// The time until [`Self::accept_again`] has something to do; none: it has nothing.
    pub(super) fn rest(&self, now: Instant) -> Option<Duration> {
        self.accept_at.map(|at| at.saturating_duration_since(now))
    }

    /// Accepts connections again, if it is time for that.
    pub(super) fn accept_again(&mut self, epoll: &EpollSet, now: Instant) {
        if self.accept_at.is_some_and(|at| at <= now) {
            let watched = epoll.watch(self.socket.listener().as_fd(), self.listener_token);
            self.accept_at = watched.err().map(|_| now + ACCEPT_PAUSE);
        }
    }

    /// Accepts a connection, if its user may control this process.
    pub(super) fn accept(&mut self, epoll: &EpollSet) {
        let accepted = match self.socket.listener().accept() {
            Ok((stream, _)) => stream,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
            Err(error) => {
                if self.failures.add_logged() {
                    let times = self.failures.get();
                    tracing::warn!(
                        times,
                        "cannot accept on the control socket, trying again every second: {error}"
                    );
                }
                // the connection in the backlog would be reported again at once
                if epoll.forget(self.socket.listener().as_fd()).is_ok() {
                    self.accept_at = Some(Instant::now() + ACCEPT_PAUSE);
                }
                return;
            }
        };
        if let Err(error) = self.admit(epoll, accepted) {
            tracing::warn!("a connection to the control socket was refused: {error}");
        }
    }

    fn admit(&mut self, epoll: &EpollSet, mut stream: UnixStream) -> io::Result<()> {
        stream.set_nonblocking(true)?;
        let (peer, own) = (socket_peercred(&stream)?, rustix::process::geteuid());
        if !peer.uid.is_root() && peer.uid != own {
            let reason =
                format!("not for uid {}: come as root or as uid {}", peer.uid.as_raw(), own.as_raw());
            let _ = stream.write(&encode(&ControlReply::Error(reason.clone())));
            return Err(io::Error::new(io::ErrorKind::PermissionDenied, reason));
        }
        if self.connected.len() >= CLIENTS_MAX {
            let idle = self.connected.iter().filter(|(_, client)| !client.busy);
            let silent = idle.min_by_key(|(_, client)| client.silent_since).map(|(&id, _)| id);
            let Some(silent) = silent else {
                let _ = stream.write(&encode(&ControlReply::Error(
                    "too many requests at once: try again later".to_owned(),
                )));
                return Ok(());
            };
            self.connected.remove(&silent);
        }
        epoll.watch(stream.as_fd(), self.next)?;
        self.connected.insert(self.next, Client::new(stream));
        self.next += 1;
        Ok(())
    }

    /// Sends and receives as much as possible. A client that is gone is removed.
    pub(super) fn attend(&mut self, epoll: &EpollSet, id: u64, gone: bool) {
        let Some(client) = self.connected.get_mut(&id) else {
            return;
        };
        let moved = if gone && client.interest == Interest::Hangup {
            Err(io::ErrorKind::BrokenPipe.into())
        } else {
            client.send().and_then(|()| client.receive())
        };
        self.settle(epoll, id, moved);
    }

    /// The next request of a client, complete or with an error. There is none before the last reply
    /// has been sent.
    pub(super) fn next_request(
        &mut self,
        epoll: &EpollSet,
        id: u64,
    ) -> Option<Result<Vec<u8>, &'static str>> {
        let request = self.connected.get_mut(&id)?.next_request();
        self.settle(epoll, id, Ok(()));
        request
    }

    /// Sends the reply to the request of a client, which may be gone.
    pub(super) fn reply(&mut self, epoll: &EpollSet, id: u64, reply: &ControlReply) {
        let Some(client) = self.connected.get_mut(&id) else {
            return;
        };
        client.busy = false;
        client.silent_since = Instant::now();
        client.unsent = encode(reply);
        let sent = client.send();
        self.settle(epoll, id, sent);
    }

    /// Chooses the events to wait for after a step with a client, or removes the client when
    /// nothing is left to do.
    fn settle(&mut self, epoll: &EpollSet, id: u64, outcome: io::Result<()>) {
        let Some(client) = self.connected.get_mut(&id) else {
            return;
        };
        let interest = client.interest_now();
        let changed = match (outcome, interest) {
            (Ok(()), Some(interest)) if interest == client.interest => return,
            (Ok(()), Some(interest)) => {
                client.interest = interest;
                epoll.change(client.stream.as_fd(), id, interest)
            }
            (Ok(()), None) => Err(io::ErrorKind::UnexpectedEof.into()),
            (Err(error), _) => Err(error),
        };
        if changed.is_err() {
            // closing the stream takes it out of the epoll set
            self.connected.remove(&id);
        }
    }
}

impl Client {
    fn new(stream: UnixStream) -> Self {
        Self {
            stream,
            received: Vec::new(),
            unsent: Vec::new(),
            busy: false,
            silent_since: Instant::now(),
            ended: false,
            closing: false,
            interest: Interest::Read,
        }
    }

    fn send(&mut self) -> io::Result<()> {
        while !self.unsent.is_empty() {
            match self.stream.write(&self.unsent) {
                Ok(sent) => drop(self.unsent.drain(..sent)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Reads once, so that other clients get their turn.
    fn receive(&mut self) -> io::Result<()> {
        if self.interest_now() != Some(Interest::Read) {
            return Ok(());
        }
        let mut bytes = [0; REQUEST_LEN_MAX];
        let room = REQUEST_LEN_MAX - self.received.len();
        if room == 0 {
            return Ok(());
        }
        match self.stream.read(&mut bytes[..room]) {
            Ok(0) => self.ended = true,
            Ok(len) => self.received.extend_from_slice(&bytes[..len]),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
        Ok(())
    }

    fn next_request(&mut self) -> Option<Result<Vec<u8>, &'static str>> {
        if self.busy || self.closing || !self.unsent.is_empty() {
            return None;
        }
        let Some(end) = self.received.iter().position(|&byte| byte == b'\n') else {
            if self.received.len() < REQUEST_LEN_MAX {
                return None;
            }
            self.busy = true;
            self.closing = true;
            return Some(Err("the request is too long"));
        };
        self.busy = true;
        let mut request: Vec<_> = self.received.drain(..=end).collect();
        request.pop();
        Some(Ok(request))
    }

    /// Whether [`Self::next_request`] would return a request.
    fn has_request(&self) -> bool {
        !self.closing && (self.received.contains(&b'\n') || self.received.len() == REQUEST_LEN_MAX)
    }

    /// The events to wait for; none when nothing is left to do.
    fn interest_now(&self) -> Option<Interest> {
        if !self.unsent.is_empty() {
            Some(Interest::Write)
        } else if self.busy || self.has_request() {
            Some(Interest::Hangup)
        } else if self.ended || self.closing {
            None
        } else {
            Some(Interest::Read)
        }
    }
}

fn encode(reply: &ControlReply) -> Vec<u8> {
    // strings and numbers: it cannot fail
    let mut line = serde_json::to_vec(reply).unwrap_or_default();
    line.push(b'\n');
    line
}
