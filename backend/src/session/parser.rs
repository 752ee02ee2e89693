//! The `vhost` crate's handler, which parses messages and calls [`Session`], without its socket.
//!
//! The crate reads from a socket, blocks there until a message is whole, and takes an unknown or
//! malformed message for the end of the connection. So it gets a socket of its own, which only ever
//! holds one whole message, and [`super::dispatch`] decides what becomes of the connection.

use std::io;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex};

use rustix::net::{RecvFlags, recv};
use vhost::vhost_user::message::MAX_MSG_SIZE;
use vhost::vhost_user::{BackendReqHandler, Error as VhostError};

use super::connection::{Connection, ConnectionError, HEADER_SIZE, VhostUserMessage};
use super::error::{SessionError, SessionResult, refuse};
use super::state::Session;
use crate::device::BlockDevice;

/// The answer to a message: the reply that messages of its type have, and whether it was carried
/// out.
pub(super) struct Answer {
    pub(super) reply: Option<VhostUserMessage>,
    pub(super) result: SessionResult<()>,
}

pub(super) struct Parser<B: BlockDevice> {
    inner: BackendReqHandler<Mutex<Session<B>>>,
    /// Our end of the handler's socket.
    near: Connection,
    /// The handler's end.
    far: UnixStream,
}

impl<B: BlockDevice> Parser<B> {
    pub(super) fn new(session: Arc<Mutex<Session<B>>>) -> io::Result<Self> {
        let (near, far) = UnixStream::pair()?;
        let inner = BackendReqHandler::from_stream(far.try_clone()?, session);
        Ok(Self { inner, near: Connection::new(near), far })
    }

    /// Parses `message` and carries it out.
    pub(super) fn handle(&mut self, message: &VhostUserMessage) -> Result<Answer, ConnectionError> {
        self.near.send(message)?;
        // The crate reads until a message is whole, however long that takes. Where a part is
        // missing, because the kernel drops it together with descriptors for which there is no
        // room, it must find something else to read.
        self.near.send_padding(MAX_MSG_SIZE + HEADER_SIZE)?;
        let result = self.inner.handle_request().map_err(session_error);
        self.discard_rest()?;
        Ok(Answer { reply: self.near.receive()?, result })
    }

    /// Discards the padding, and the unread part of a message that was refused.
    fn discard_rest(&self) -> io::Result<()> {
        let mut rest = [0; MAX_MSG_SIZE];
        loop {
            match recv(&self.far, &mut rest[..], RecvFlags::DONTWAIT) {
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error.into()),
            }
        }
    }
}

/// Our error for one that the crate has found itself, or passes on from [`Session`].
fn session_error(error: VhostError) -> SessionError {
    match error {
        VhostError::BackendInternalError => SessionError::Failed,
        VhostError::ReqHandlerError(error) => refuse(error.to_string()),
        error => refuse(error.to_string()),
    }
}
