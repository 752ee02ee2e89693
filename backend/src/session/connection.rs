//! Whole vhost-user messages over a stream socket, which may deliver them slowly and in pieces.
//!
//! Nothing here blocks for a message: the part that was received is kept until the rest follows. So
//! a front-end that sends half a message blocks no thread.

use std::io::{self, ErrorKind, IoSlice, IoSliceMut};
use std::mem::{self, MaybeUninit};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};
use thiserror::Error;
use vhost::vhost_user::message::{MAX_ATTACHED_FD_ENTRIES, MAX_MSG_SIZE, VhostUserHeaderFlag};

/// The size of a message's header, in bytes.
pub(super) const HEADER_SIZE: usize = 12;
const VERSION: u32 = 1;
/// How long a reply may wait for room in the socket: a front-end that does not read its replies
/// must not keep the session from its other work.
const SEND_LIMIT: Duration = Duration::from_secs(10);

/// Why no further message can be received or sent.
#[derive(Debug, Error)]
pub(super) enum ConnectionError {
    /// The front-end closed the stream, or it was shut down.
    #[error("the front-end has left")]
    Disconnected,
    /// The front-end left in the middle of a message.
    #[error("the front-end left within a message, after {0} bytes of it")]
    Partial(usize),
    /// The message has another version, so its end is unknown.
    #[error("a message of version {0}, not {VERSION}")]
    Version(u32),
    /// The message is longer than any message can be.
    #[error("a message of {0} bytes, more than {MAX_MSG_SIZE}")]
    TooLong(u32),
    /// The front-end has no room for the reply.
    #[error("the front-end does not read its replies")]
    NotRead,
    /// The socket failed.
    #[error("the socket failed")]
    Io(#[from] io::Error),
}

/// The header of a message (vhost-user, "Message specification").
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Header {
    /// The number of the request.
    pub(super) request: u32,
    flags: u32,
    size: u32,
}

impl Header {
    fn parse(bytes: &[u8; HEADER_SIZE]) -> Result<Self, ConnectionError> {
        let field = |at: usize| u32::from_ne_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
        let header = Self { request: field(0), flags: field(4), size: field(8) };
        let version = header.flags & VhostUserHeaderFlag::VERSION.bits();
        if version != VERSION {
            return Err(ConnectionError::Version(version));
        }
        if header.size as usize > MAX_MSG_SIZE {
            return Err(ConnectionError::TooLong(header.size));
        }
        Ok(header)
    }

    fn bytes(self) -> [u8; HEADER_SIZE] {
        let mut bytes = [0; HEADER_SIZE];
        for (at, field) in bytes.chunks_exact_mut(4).zip([self.request, self.flags, self.size]) {
            at.copy_from_slice(&field.to_ne_bytes());
        }
        bytes
    }

    /// Whether the sender waits for an acknowledgement, where that was negotiated.
    pub(super) fn needs_reply(self) -> bool {
        self.flags & VhostUserHeaderFlag::NEED_REPLY.bits() != 0
    }
}

/// A message with the descriptors that came with it.
#[derive(Debug)]
pub(super) struct VhostUserMessage {
    pub(super) header: Header,
    pub(super) body: Vec<u8>,
    pub(super) files: Vec<OwnedFd>,
    /// Whether more descriptors came than any message has. They are closed.
    pub(super) files_lost: bool,
}

impl VhostUserMessage {
    /// Our request without a body.
    pub(super) fn request(request: u32) -> Self {
        Self::new(request, 0, Vec::new())
    }

    /// The reply to `request` with `body`.
    pub(super) fn reply(request: Header, body: Vec<u8>) -> Self {
        Self::new(request.request, VhostUserHeaderFlag::REPLY.bits(), body)
    }

    /// The reply to `request` that is one number.
    pub(super) fn reply_u64(request: Header, value: u64) -> Self {
        Self::reply(request, value.to_ne_bytes().to_vec())
    }

    fn new(request: u32, flags: u32, body: Vec<u8>) -> Self {
        let size = u32::try_from(body.len()).expect("we make no long messages");
        let header = Header { request, flags: flags | VERSION, size };
        Self { header, body, files: Vec::new(), files_lost: false }
    }

    /// The body, if it is one number.
    pub(super) fn u64(&self) -> Option<u64> {
        self.body.as_slice().try_into().ok().map(u64::from_ne_bytes)
    }
}

/// The part of a message that was received.
#[derive(Debug, Default)]
struct Partial {
    bytes: Vec<u8>,
    files: Vec<OwnedFd>,
    files_lost: bool,
}

impl Partial {
    /// The header, once it is complete.
    fn header(&self) -> Result<Option<Header>, ConnectionError> {
        self.bytes.first_chunk().map(Header::parse).transpose()
    }

    /// The number of bytes that are missing to the header, or then to the whole message.
    fn missing(&self) -> Result<usize, ConnectionError> {
        let size = self.header()?.map_or(0, |header| header.size as usize);
        Ok(HEADER_SIZE + size - self.bytes.len())
    }

    fn add_files(&mut self, files: impl Iterator<Item = OwnedFd>) {
        for file in files {
            if self.files.len() < MAX_ATTACHED_FD_ENTRIES {
                self.files.push(file);
            } else {
                self.files_lost = true;
            }
        }
    }
}

/// A stream of messages.
#[derive(Debug)]
pub(super) struct Connection {
    stream: UnixStream,
    partial: Partial,
}

impl Connection {
    pub(super) fn new(stream: UnixStream) -> Self {
        Self { stream, partial: Partial::default() }
    }

    /// The next message; `None` while it is incomplete.
    pub(super) fn receive(&mut self) -> Result<Option<VhostUserMessage>, ConnectionError> {
        loop {
            let missing = self.partial.missing()?;
            if missing > 0 {
                if !self.receive_some(missing)? {
                    return Ok(None);
                }
            } else if let Some(header) = self.partial.header()? {
                let Partial { mut bytes, files, files_lost } = mem::take(&mut self.partial);
                let body = bytes.split_off(HEADER_SIZE);
                return Ok(Some(VhostUserMessage { header, body, files, files_lost }));
            }
        }
    }

    /// Receives up to `len` bytes, and none of the next message, whose descriptors would come with
    /// them. False: there are none yet.
    fn receive_some(&mut self, len: usize) -> Result<bool, ConnectionError> {
        let mut bytes = [0; MAX_MSG_SIZE];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_ATTACHED_FD_ENTRIES))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let flags = RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC;
        let received =
            match recvmsg(&self.stream, &mut [IoSliceMut::new(&mut bytes[..len])], &mut control, flags) {
                Ok(received) => received,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(false),
                Err(error) if error.kind() == ErrorKind::Interrupted => return Ok(true),
                Err(error) if error.kind() == ErrorKind::ConnectionReset => {
                    return Err(ConnectionError::Disconnected);
                }
                Err(error) => return Err(io::Error::from(error).into()),
            };
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(files) = message {
                self.partial.add_files(files);
            }
        }
        self.partial.files_lost |= received.flags.contains(ReturnFlags::CTRUNC);
        match (received.bytes, self.partial.bytes.len()) {
            (0, 0) => Err(ConnectionError::Disconnected),
            (0, before) => Err(ConnectionError::Partial(before)),
            (count, _) => {
                self.partial.bytes.extend_from_slice(&bytes[..count]);
                Ok(true)
            }
        }
    }

    /// Sends `message`, its descriptors with its first byte.
    pub(super) fn send(&self, message: &VhostUserMessage) -> Result<(), ConnectionError> {
        let bytes = [&message.header.bytes(), message.body.as_slice()].concat();
        let files: Vec<BorrowedFd<'_>> = message.files.iter().map(AsFd::as_fd).collect();
        let deadline = Instant::now() + SEND_LIMIT;
        let mut sent = 0;
        while sent < bytes.len() {
            match send_some(&self.stream, &bytes[sent..], if sent == 0 { &files } else { &[] }) {
                Ok(count) => sent += count,
                Err(error) if error.kind() == ErrorKind::WouldBlock => self.wait_for_room(deadline)?,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::BrokenPipe => {
                    return Err(ConnectionError::Disconnected);
                }
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    /// Sends `len` zeros, which are no message, if there is room for them.
    pub(super) fn send_padding(&self, len: usize) -> io::Result<()> {
        match send_some(&self.stream, &vec![0; len], &[])? {
            sent if sent == len => Ok(()),
            _ => Err(ErrorKind::WriteZero.into()),
        }
    }

    /// Sends `message` if there is room for it. It must be short and without descriptors.
    pub(super) fn send_now(&self, message: &VhostUserMessage) -> io::Result<()> {
        let bytes = [&message.header.bytes(), message.body.as_slice()].concat();
        // a stream socket takes a message of a few bytes whole, or not at all
        send_some(&self.stream, &bytes, &[]).map(drop)
    }

    fn wait_for_room(&self, deadline: Instant) -> Result<(), ConnectionError> {
        let left = deadline.saturating_duration_since(Instant::now());
        let left = Timespec::try_from(left).map_err(io::Error::other)?;
        match poll(&mut [PollFd::new(&self.stream, PollFlags::OUT)], Some(&left)) {
            Ok(0) => Err(ConnectionError::NotRead),
            Ok(_) => Ok(()),
            Err(error) if error.kind() == ErrorKind::Interrupted => Ok(()),
            Err(error) => Err(io::Error::from(error).into()),
        }
    }
}

impl AsFd for Connection {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}

fn send_some(stream: &UnixStream, bytes: &[u8], files: &[BorrowedFd<'_>]) -> io::Result<usize> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_ATTACHED_FD_ENTRIES))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !files.is_empty() && !control.push(SendAncillaryMessage::ScmRights(files)) {
        return Err(io::Error::new(ErrorKind::InvalidInput, "too many descriptors for one message"));
    }
    // by flag, because the file's mode is shared with the process that passed us the socket
    let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
    Ok(sendmsg(stream, &[IoSlice::new(bytes)], &mut control, flags)?)
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use rustix::event::{EventfdFlags, eventfd};

    use super::*;

    fn pair() -> (UnixStream, Connection) {
        let (theirs, ours) = UnixStream::pair().unwrap();
        (theirs, Connection::new(ours))
    }

    fn message(request: u32, body: &[u8]) -> Vec<u8> {
        let size = u32::try_from(body.len()).unwrap();
        [&Header { request, flags: VERSION, size }.bytes(), body].concat()
    }

    #[test]
    fn a_message_that_comes_byte_by_byte_is_received_whole() {
        let (mut theirs, mut connection) = pair();
        let bytes = message(2, &[7; 8]);
        for (at, byte) in bytes.iter().enumerate() {
            assert!(connection.receive().unwrap().is_none(), "complete after {at} bytes");
            theirs.write_all(&[*byte]).unwrap();
        }
        let received = connection.receive().unwrap().unwrap();
        assert_eq!((received.header.request, received.body), (2, vec![7; 8]));
        assert!(connection.receive().unwrap().is_none());
    }

    #[test]
    fn several_messages_at_once_keep_their_descriptors() {
        let (theirs, mut connection) = pair();
        let other = Connection::new(theirs);
        for (count, request) in [(0, 1), (2, 5), (1, 12)] {
            let mut message = VhostUserMessage::request(request);
            message.files = (0..count).map(|_| eventfd(0, EventfdFlags::CLOEXEC).unwrap()).collect();
            other.send(&message).unwrap();
        }
        for (count, request) in [(0, 1), (2, 5), (1, 12)] {
            let received = connection.receive().unwrap().unwrap();
            assert_eq!((received.header.request, received.files.len()), (request, count));
            assert!(!received.files_lost);
        }
    }

    #[test]
    fn descriptors_with_every_byte_are_bounded() {
        let (theirs, mut connection) = pair();
        let fd = eventfd(0, EventfdFlags::CLOEXEC).unwrap();
        let files = [fd.as_fd(); MAX_ATTACHED_FD_ENTRIES];
        for byte in message(2, &[0; 8]) {
            send_some(&theirs, &[byte], &files).unwrap();
        }
        let received = connection.receive().unwrap().unwrap();
        assert!(received.files_lost);
        assert_eq!(received.files.len(), MAX_ATTACHED_FD_ENTRIES);
    }

    #[test]
    fn a_message_without_a_known_end_ends_the_connection() {
        let refused = |bytes: &[u8]| {
            let (mut theirs, mut connection) = pair();
            theirs.write_all(bytes).unwrap();
            drop(theirs);
            connection.receive().unwrap_err()
        };
        let header = |flags, size| Header { request: 1, flags, size }.bytes();
        assert!(matches!(refused(&[]), ConnectionError::Disconnected));
        assert!(matches!(refused(&[1; 7]), ConnectionError::Partial(7)));
        assert!(matches!(refused(&header(VERSION, 8)), ConnectionError::Partial(12)));
        assert!(matches!(refused(&header(2, 0)), ConnectionError::Version(2)));
        assert!(matches!(refused(&header(VERSION, 4097)), ConnectionError::TooLong(4097)));
        assert!(matches!(refused(&header(VERSION, u32::MAX)), ConnectionError::TooLong(u32::MAX)));
    }
}
