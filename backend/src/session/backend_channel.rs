//! The channel on which the back-end sends requests (vhost-user, "Back-end communication").
//!
//! The `vhost` crate's `Backend` has no message for a change of the configuration space.

use std::io::ErrorKind;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;

use rustix::net::sockopt::{socket_acceptconn, socket_domain, socket_type};
use rustix::net::{AddressFamily, SocketType};
use vhost::vhost_user::message::BackendReq;

use super::connection::{Connection, VhostUserMessage};

/// The front-end's socket for our requests.
#[derive(Debug)]
pub(super) struct BackendChannel(Connection);

impl BackendChannel {
    /// Takes the front-end's descriptor; `None` when it is no connected Unix stream socket.
    pub(super) fn new(fd: OwnedFd) -> Option<Self> {
        let is_stream = socket_domain(&fd) == Ok(AddressFamily::UNIX)
            && socket_type(&fd) == Ok(SocketType::STREAM)
            && socket_acceptconn(&fd) == Ok(false);
        is_stream.then(|| Self(Connection::new(UnixStream::from(fd))))
    }

    /// `VHOST_USER_BACKEND_CONFIG_CHANGE_MSG`: the front-end is to read the configuration space
    /// again.
    ///
    /// No reply is asked for. The front-end may ask us for the configuration space before it
    /// replies, and would wait for ever if we waited for its reply.
    pub(super) fn config_changed(&self) {
        match self.0.send_now(&VhostUserMessage::request(BackendReq::CONFIG_CHANGE_MSG.into())) {
            Ok(()) => tracing::debug!("notified the front-end of a new configuration space"),
            // the requests that it has not read yet say the same
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(error) => tracing::warn!("cannot notify the front-end of a new configuration space: {error}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::Read;
    use std::os::unix::net::{UnixDatagram, UnixListener};

    use super::*;

    #[test]
    fn only_a_connected_stream_socket_is_taken() {
        let dir = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(dir.path().join("s")).unwrap();
        let tcp = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let others: [OwnedFd; 4] = [
            File::open("/dev/null").unwrap().into(),
            UnixDatagram::unbound().unwrap().into(),
            listener.into(),
            tcp.into(),
        ];
        for other in others {
            assert!(BackendChannel::new(other).is_none());
        }
        assert!(BackendChannel::new(UnixStream::pair().unwrap().0.into()).is_some());
    }

    #[test]
    fn a_change_is_reported_without_waiting_for_a_front_end_that_does_not_read() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let channel = BackendChannel::new(ours.into()).unwrap();
        for _ in 0..100_000 {
            channel.config_changed();
        }
        let mut header = [0; 12];
        theirs.read_exact(&mut header).unwrap();
        assert_eq!(header, [2, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0]);
        drop(theirs);
        channel.config_changed();
    }
}
