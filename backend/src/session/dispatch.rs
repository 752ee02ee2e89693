//! Where messages arrive: which of them are answered here, which by the `vhost` crate, and what a
//! refusal means for the connection.
//!
//! A message that is refused leaves the session as it was. If the front-end asked for an
//! acknowledgement, it gets a negative one, and the connection stays open. If not, the front-end
//! can only be notified by the end of the connection, unless it can safely continue without what it
//! wanted.

use std::io::{self, ErrorKind};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use thiserror::Error;
use vhost::vhost_user::message::{FrontendReq, VhostUserProtocolFeatures};

use super::backend_channel::BackendChannel;
use super::connection::{Connection, ConnectionError, Header, VhostUserMessage};
use super::error::{SessionError, SessionResult, refuse};
use super::notice::Notice;
use super::parser::{Answer, Parser};
use super::state::Session;
use crate::device::BlockDevice;
use crate::guest::sigbus::Loss;
use crate::inbox::Inbox;
use crate::metrics::Counter;

/// How long a front-end may take to negotiate anything, where others wait for their turn.
const NEGOTIATION_LIMIT: Duration = Duration::from_secs(10);

/// Why a session has ended.
#[derive(Debug, Error)]
pub(super) enum Ended {
    #[error(transparent)]
    Connection(#[from] ConnectionError),
    /// The front-end keeps others out for nothing.
    #[error("the front-end has negotiated nothing within {} s", NEGOTIATION_LIMIT.as_secs())]
    Idle,
    /// The end of the session is the only notification that the front-end can get.
    #[error("{request} cannot be refused in another way")]
    Refused { request: String },
    /// A queue or the disk cannot be used any more.
    #[error("{request} failed")]
    Failed { request: String },
    /// A worker has ended by itself, and has logged the cause.
    #[error("a queue's worker has ended")]
    Worker,
    /// Memory that the front-end shares cannot be used any more.
    #[error("{what} is lost: {loss}")]
    MemoryLost { what: String, loss: Loss },
}

impl From<io::Error> for Ended {
    fn from(error: io::Error) -> Self {
        Self::Connection(error.into())
    }
}

/// Whether others wait while a front-end is served.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FrontendTurn {
    /// It came by a socket on which others may wait. It must negotiate something in time.
    OneOfMany,
    /// There is no other.
    Only,
}

/// Whether the front-end is still connected.
#[derive(Debug, PartialEq, Eq)]
enum Turn {
    More,
    Last,
}

/// Takes the messages of a front-end, and the notices of control thread and workers.
pub(super) struct Dispatcher<B: BlockDevice> {
    connection: Connection,
    inbox: Arc<Inbox<Notice>>,
    parser: Parser<B>,
    session: Arc<Mutex<Session<B>>>,
    refusals: Counter,
    /// When the session ends unless the front-end has negotiated something; none: it has, or need
    /// not.
    negotiate_by: Option<Instant>,
}

impl<B: BlockDevice> Dispatcher<B> {
    pub(super) fn new(
        session: Arc<Mutex<Session<B>>>,
        stream: UnixStream,
        inbox: Arc<Inbox<Notice>>,
        turn: FrontendTurn,
    ) -> io::Result<Self> {
        let parser = Parser::new(session.clone())?;
        let connection = Connection::new(stream);
        let negotiate_by = match turn {
            FrontendTurn::OneOfMany => Some(Instant::now() + NEGOTIATION_LIMIT),
            FrontendTurn::Only => None,
        };
        Ok(Self { connection, inbox, parser, session, refusals: Counter::default(), negotiate_by })
    }

    /// Serves the front-end until it leaves, or the session must end.
    pub(super) fn serve(&mut self) -> Result<(), Ended> {
        loop {
            self.wait()?;
            let turn = self.take_turn();
            // first, because any other cause may follow from it
            if let Some((what, loss)) = self.session().lost_memory() {
                return Err(Ended::MemoryLost { what, loss });
            }
            if turn? == Turn::Last {
                return Ok(());
            }
            self.refuse_idleness()?;
        }
    }

    /// Ends the session of a front-end that has negotiated nothing in time.
    fn refuse_idleness(&mut self) -> Result<(), Ended> {
        let Some(deadline) = self.negotiate_by else { return Ok(()) };
        if self.session().has_negotiated() {
            self.negotiate_by = None;
        } else if Instant::now() >= deadline {
            return Err(Ended::Idle);
        }
        Ok(())
    }

    /// Carries out the notices, and answers one message.
    fn take_turn(&mut self) -> Result<Turn, Ended> {
        self.session().report_unshared_rings();
        for notice in self.inbox.receive() {
            self.carry_out(notice)?;
        }
        // one at a time, so that no flood of messages keeps notices out
        match self.connection.receive() {
            Ok(Some(message)) => self.answer(&message)?,
            Ok(None) => {}
            Err(ConnectionError::Disconnected) => return Ok(Turn::Last),
            Err(error) => return Err(error.into()),
        }
        Ok(Turn::More)
    }

    fn carry_out(&self, notice: Notice) -> Result<(), Ended> {
        match notice {
            Notice::WhileStopped(work) => self
                .session()
                .work_while_stopped(work)
                .map_err(|_| Ended::Failed { request: "a notice of the control thread".to_owned() }),
            Notice::WorkerEnded => {
                // the queues that failed have been logged
                let _ = self.session().stop_all();
                Err(Ended::Worker)
            }
        }
    }

    /// Sleeps until there is a part of a message, the end of the stream, a notice, or something to
    /// report.
    fn wait(&self) -> io::Result<()> {
        let negotiation = self.negotiate_by.map(|by| by.saturating_duration_since(Instant::now()));
        let limit = [self.session().rest(), negotiation].into_iter().flatten().min();
        let limit = limit.map(Timespec::try_from).transpose().map_err(io::Error::other)?;
        let mut fds = [
            PollFd::new(&self.connection, PollFlags::IN),
            PollFd::from_borrowed_fd(self.inbox.wake_fd(), PollFlags::IN),
        ];
        match poll(&mut fds, limit.as_ref()) {
            Err(error) if error.kind() != ErrorKind::Interrupted => Err(error.into()),
            _ => Ok(()),
        }
    }

    fn answer(&mut self, message: &VhostUserMessage) -> Result<(), Ended> {
        let header = message.header;
        let Answer { reply, result } = self.perform(message)?;
        let refused = result.is_err();
        match result {
            Ok(()) => {}
            Err(SessionError::Failed) => return Err(Ended::Failed { request: name(header) }),
            Err(SessionError::Refused(reason)) => {
                self.session().disk.events.refused_messages.add(1);
                if self.refusals.add_logged() {
                    tracing::warn!("{} refused: {reason}", name(header));
                }
            }
        }
        let reply = reply.or_else(|| self.acknowledgement(header, refused));
        match reply {
            Some(reply) => Ok(self.connection.send(&reply)?),
            None if refused && !is_harmless(header) => Err(Ended::Refused { request: name(header) }),
            None => Ok(()),
        }
    }

    fn perform(&mut self, message: &VhostUserMessage) -> Result<Answer, Ended> {
        let header = message.header;
        let without_reply = |result| Answer { reply: None, result };
        if message.files_lost {
            return Ok(without_reply(Err(refuse("more descriptors than any message has"))));
        }
        Ok(match FrontendReq::try_from(header.request) {
            Ok(FrontendReq::SET_BACKEND_REQ_FD) => without_reply(self.set_backend_channel(message)),
            Ok(FrontendReq::SET_STATUS) => without_reply(self.set_status(message)),
            Ok(FrontendReq::GET_STATUS) => match self.get_status(message) {
                Ok(status) => {
                    Answer { reply: Some(VhostUserMessage::reply_u64(header, status.into())), result: Ok(()) }
                }
                Err(error) => without_reply(Err(error)),
            },
            // the refusal of this message is a reply without the userfault descriptor
            Ok(FrontendReq::POSTCOPY_ADVISE) => Answer {
                reply: Some(VhostUserMessage::reply(header, Vec::new())),
                result: Err(refuse("postcopy is not supported")),
            },
            Ok(request) if is_supported(request) => self.parser.handle(message)?,
            _ => without_reply(Err(refuse("no such message is supported"))),
        })
    }

    /// The acknowledgement by `REPLY_ACK`, zero for success, of a message that has no reply of its
    /// own.
    fn acknowledgement(&self, header: Header, refused: bool) -> Option<VhostUserMessage> {
        let asked = header.needs_reply() && !has_reply(header);
        (asked && self.session().has(VhostUserProtocolFeatures::REPLY_ACK).is_ok())
            .then(|| VhostUserMessage::reply_u64(header, refused.into()))
    }

    fn set_backend_channel(&mut self, message: &VhostUserMessage) -> SessionResult<()> {
        self.session().has(VhostUserProtocolFeatures::BACKEND_REQ)?;
        let [file] = message.files.as_slice() else {
            return Err(refuse(format!("{} descriptors, not one", message.files.len())));
        };
        let channel = file.try_clone().map_err(|error| refuse(error.to_string()))?;
        let channel =
            BackendChannel::new(channel).ok_or_else(|| refuse("no connected Unix stream socket"))?;
        self.session().channel = Some(channel);
        Ok(())
    }

    fn set_status(&mut self, message: &VhostUserMessage) -> SessionResult<()> {
        let status = message.u64().and_then(|status| u8::try_from(status).ok());
        self.session().set_status(status.ok_or_else(|| refuse("no status of one byte"))?)
    }

    fn get_status(&self, message: &VhostUserMessage) -> SessionResult<u8> {
        let session = self.session();
        session.has(VhostUserProtocolFeatures::STATUS)?;
        if message.body.is_empty() { Ok(session.status) } else { Err(refuse("it has a body")) }
    }

    fn session(&self) -> MutexGuard<'_, Session<B>> {
        self.session.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether the crate can parse the message, and a disk has a use for it.
fn is_supported(request: FrontendReq) -> bool {
    !matches!(
        request,
        FrontendReq::SET_LOG_FD
            | FrontendReq::SEND_RARP
            | FrontendReq::NET_SET_MTU
            | FrontendReq::IOTLB_MSG
            | FrontendReq::SET_VRING_ENDIAN
            | FrontendReq::CREATE_CRYPTO_SESSION
            | FrontendReq::CLOSE_CRYPTO_SESSION
            | FrontendReq::POSTCOPY_LISTEN
            | FrontendReq::POSTCOPY_END
            | FrontendReq::GPU_SET_SOCKET
            | FrontendReq::VRING_KICK
    )
}

/// Whether the message has a reply of its own, which `REPLY_ACK` does not change.
fn has_reply(header: Header) -> bool {
    matches!(
        FrontendReq::try_from(header.request),
        Ok(FrontendReq::GET_FEATURES
            | FrontendReq::SET_LOG_BASE
            | FrontendReq::GET_VRING_BASE
            | FrontendReq::GET_PROTOCOL_FEATURES
            | FrontendReq::GET_QUEUE_NUM
            | FrontendReq::GET_CONFIG
            | FrontendReq::CREATE_CRYPTO_SESSION
            | FrontendReq::POSTCOPY_ADVISE
            | FrontendReq::GET_INFLIGHT_FD
            | FrontendReq::GET_MAX_MEM_SLOTS
            | FrontendReq::GET_STATUS
            | FrontendReq::GET_SHARED_OBJECT
            | FrontendReq::SET_DEVICE_STATE_FD
            | FrontendReq::CHECK_DEVICE_STATE
            | FrontendReq::GET_SHMEM_CONFIG)
    )
}

/// Whether the session can continue as if the message had not come, although the front-end does not
/// learn of the refusal. An unknown message may be a hint. A message that the driver can cause,
/// such as a write to the configuration space, must not end a session.
fn is_harmless(header: Header) -> bool {
    match FrontendReq::try_from(header.request) {
        Ok(FrontendReq::SET_CONFIG) | Err(()) => true,
        Ok(request) => !is_supported(request) && !has_reply(header),
    }
}

fn name(header: Header) -> String {
    FrontendReq::try_from(header.request)
        .map_or_else(|()| format!("message {}", header.request), |request| format!("{request:?}"))
}
