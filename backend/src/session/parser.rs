//! The `vhost` crate's handler, which parses messages and calls [`Session`], without its socket.
//!
//! The crate reads from a socket, blocks there until a message is whole, and takes a message that it does not know or that
//! is malformed for the end of the connection. So it gets a socket of its own, which only ever holds one whole message, and
//! what becomes of the connection is for [`super::dispatch`] to say.

use std::io;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex};

use rustix::net::{RecvFlags, recv};
use vhost::vhost_user::message::MAX_MSG_SIZE;
use vhost::vhost_user::{BackendReqHandler, Result as VhostResult};

use super::connection::{Connection, ConnectionError, HEADER_SIZE, Message};
use super::state::Session;
use crate::device::BlockDevice;

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

    /// Has `message` done. Returns the handler's reply, if there is one, and what came of it.
    pub(super) fn handle(
        &mut self,
        message: &Message,
    ) -> Result<(Option<Message>, VhostResult<()>), ConnectionError> {
        self.near.send(message)?;
        // The crate reads until a message is whole, however long that takes. Where it has lost a part, as the kernel takes it away
        // together with descriptors for which there is no room, it must find something else to read.
        self.near.send_padding(MAX_MSG_SIZE + HEADER_SIZE)?;
        let outcome = self.inner.handle_request();
        self.discard_rest()?;
        Ok((self.near.receive()?, outcome))
    }

    /// The padding, and what was not read of a message that was refused.
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
