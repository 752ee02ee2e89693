//! Where messages come in: which of them are ours to answer, which the crate's, and what a refusal means for the connection.
//!
//! A message that is refused leaves the session as it was. If the front-end asked for an acknowledgement it gets a negative
//! one, and the connection goes on. If not, the only way left to tell it is to end the connection, unless it does no harm
//! to go on without what it wanted.

use std::io::{self, ErrorKind};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use thiserror::Error;
use vhost::vhost_user::message::{FrontendReq, VhostUserProtocolFeatures};
use vhost::vhost_user::{Error as VhostError, Result as VhostResult};

use super::backend_channel::BackendChannel;
use super::connection::{Connection, ConnectionError, Header, Message};
use super::notice::Notice;
use super::parser::Parser;
use super::state::Session;
use crate::device::BlockDevice;
use crate::guest::sigbus::Loss;
use crate::inbox::Inbox;
use crate::metrics::Counter;

/// Why a session has ended.
#[derive(Debug, Error)]
pub(super) enum Ended {
    #[error(transparent)]
    Connection(#[from] ConnectionError),
    /// There was no other way to tell the front-end.
    #[error("{request} cannot be refused in another way")]
    Refused { request: String },
    /// A queue cannot go on.
    #[error("{request} failed")]
    Failed { request: String },
    /// A worker has ended by itself, and has logged why.
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

/// Whether the front-end is still there.
#[derive(Debug, PartialEq, Eq)]
enum Turn {
    More,
    Last,
}

/// What came of a message: the reply that its type has, and whether it was done.
type Outcome = (Option<Message>, VhostResult<()>);

/// A front-end's messages, and those of the control thread.
pub(super) struct Dispatcher<B: BlockDevice> {
    connection: Connection,
    inbox: Arc<Inbox<Notice>>,
    parser: Parser<B>,
    session: Arc<Mutex<Session<B>>>,
    refusals: Counter,
}

impl<B: BlockDevice> Dispatcher<B> {
    pub(super) fn new(
        session: Arc<Mutex<Session<B>>>,
        stream: UnixStream,
        inbox: Arc<Inbox<Notice>>,
    ) -> io::Result<Self> {
        let parser = Parser::new(session.clone())?;
        let connection = Connection::new(stream);
        Ok(Self { connection, inbox, parser, session, refusals: Counter::default() })
    }

    /// Serves the front-end until it leaves or must be left.
    pub(super) fn serve(&mut self) -> Result<(), Ended> {
        loop {
            self.wait()?;
            let outcome = self.take_turn();
            // before any other cause, which may follow from it
            if let Some((what, loss)) = self.session().lost_memory() {
                return Err(Ended::MemoryLost { what, loss });
            }
            if outcome? == Turn::Last {
                return Ok(());
            }
        }
    }

    /// Does what the control thread and the workers say, and answers one message.
    fn take_turn(&mut self) -> Result<Turn, Ended> {
        self.session().report_unshared_rings();
        for notice in self.inbox.receive() {
            let ended = match notice {
                Notice::WhileStopped(_) => {
                    Ended::Failed { request: "a notice of the control thread".to_owned() }
                }
                Notice::WorkerEnded => Ended::Worker,
            };
            self.session().notice(notice).map_err(|_| ended)?;
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

    /// Sleeps until there is a part of a message, the end of the stream, a notice, or something to report.
    fn wait(&self) -> io::Result<()> {
        let limit = self.session().rest().map(Timespec::try_from).transpose().map_err(io::Error::other)?;
        let mut fds = [
            PollFd::new(&self.connection, PollFlags::IN),
            PollFd::from_borrowed_fd(self.inbox.wake_fd(), PollFlags::IN),
        ];
        match poll(&mut fds, limit.as_ref()) {
            Err(error) if error.kind() != ErrorKind::Interrupted => Err(error.into()),
            _ => Ok(()),
        }
    }

    fn answer(&mut self, message: &Message) -> Result<(), Ended> {
        let header = message.header;
        let (reply, outcome) = self.perform(message)?;
        let refused = outcome.is_err();
        if let Err(error) = outcome {
            let request = name(header);
            if matches!(error, VhostError::BackendInternalError) {
                return Err(Ended::Failed { request });
            }
            if self.refusals.add_logged() {
                tracing::warn!("{request} refused: {}", explain(&error));
            }
        }
        let reply = reply.or_else(|| self.acknowledgement(header, refused));
        match reply {
            Some(reply) => Ok(self.connection.send(&reply)?),
            None if refused && !is_harmless(header) => Err(Ended::Refused { request: name(header) }),
            None => Ok(()),
        }
    }

    fn perform(&mut self, message: &Message) -> Result<Outcome, Ended> {
        let header = message.header;
        if message.files_lost {
            return Ok((None, Err(VhostError::IncorrectFds)));
        }
        Ok(match FrontendReq::try_from(header.request) {
            Ok(FrontendReq::SET_BACKEND_REQ_FD) => (None, self.set_backend_channel(message)),
            Ok(FrontendReq::SET_STATUS) => (None, self.set_status(message)),
            Ok(FrontendReq::GET_STATUS) => match self.get_status(message) {
                Ok(status) => (Some(Message::reply_u64(header, status.into())), Ok(())),
                Err(error) => (None, Err(error)),
            },
            // a reply without the userfault descriptor is how this one fails
            Ok(FrontendReq::POSTCOPY_ADVISE) => {
                let refusal = Err(VhostError::InvalidOperation("postcopy is not supported"));
                (Some(Message::reply(header, Vec::new())), refusal)
            }
            Ok(request) if is_supported(request) => self.parser.handle(message)?,
            _ => (None, Err(VhostError::InvalidOperation("no such message is supported"))),
        })
    }

    /// `REPLY_ACK`: zero for success, for a message that has no reply of its own.
    fn acknowledgement(&self, header: Header, refused: bool) -> Option<Message> {
        let asked = header.needs_reply() && !has_reply(header);
        (asked && self.session().has(VhostUserProtocolFeatures::REPLY_ACK).is_ok())
            .then(|| Message::reply_u64(header, refused.into()))
    }

    fn set_backend_channel(&mut self, message: &Message) -> VhostResult<()> {
        self.session().has(VhostUserProtocolFeatures::BACKEND_REQ)?;
        let [file] = message.files.as_slice() else {
            return Err(VhostError::IncorrectFds);
        };
        let channel = file.try_clone().map_err(VhostError::ReqHandlerError)?;
        let channel = BackendChannel::new(channel).ok_or(VhostError::NotStreamSocket)?;
        self.session().channel = Some(channel);
        Ok(())
    }

    fn set_status(&mut self, message: &Message) -> VhostResult<()> {
        let status = message.u64().and_then(|status| u8::try_from(status).ok());
        self.session().set_status(status.ok_or(VhostError::InvalidMessage)?)
    }

    fn get_status(&self, message: &Message) -> VhostResult<u8> {
        let session = self.session();
        session.has(VhostUserProtocolFeatures::STATUS)?;
        if message.body.is_empty() { Ok(session.status) } else { Err(VhostError::InvalidMessage) }
    }

    fn session(&self) -> MutexGuard<'_, Session<B>> {
        self.session.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What the crate can parse, and a disk has a use for.
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

/// Messages whose reply is not an acknowledgement, and which `REPLY_ACK` therefore does not change.
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

/// Whether the session can go on as if the message had not come, though nobody is told that it was refused. What we do not
/// know may be a hint; and what the driver may cause it to send, as writes to the configuration space, must not end a
/// session.
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

fn explain(error: &VhostError) -> String {
    match error {
        VhostError::ReqHandlerError(error) => error.to_string(),
        VhostError::InvalidOperation(reason) => (*reason).to_owned(),
        error => error.to_string(),
    }
}
