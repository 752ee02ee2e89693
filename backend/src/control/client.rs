//! A client of the control socket. Each wait has a limit, whatever is at the other end.

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};
use serde_json::Value;
use thiserror::Error;

use super::protocol::{ControlReply, ControlRequest};

/// The length of the longest reply that is read, in bytes.
const REPLY_LEN_MAX: usize = 16 << 20;

/// Why there is no result.
#[derive(Debug, Error)]
pub enum ClientError {
    /// No process listens on the socket.
    #[error("cannot reach {}: is the disk running, with `--control {}`?", path.display(), path.display())]
    Unreachable {
        /// The socket.
        path: PathBuf,
        /// The system's error.
        #[source]
        source: io::Error,
    },
    /// The reply is missing or incomplete.
    #[error("no reply from {}", path.display())]
    NoAnswer {
        /// The socket.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// There was no complete reply within the limit.
    #[error("no reply from {} within {} s: give it longer with --timeout", path.display(), limit.as_secs_f64())]
    Late {
        /// The socket.
        path: PathBuf,
        /// The limit.
        limit: Duration,
    },
    /// The disk has refused the request.
    #[error("{0}")]
    Refused(String),
}

/// Sends `request` to the control socket at `path`. Returns its result, if that arrives within
/// `limit`.
pub fn ask(path: &Path, request: &ControlRequest, limit: Duration) -> Result<Value, ClientError> {
    let deadline = Deadline(Instant::now() + limit);
    let failed = |is_connected: bool| {
        move |source: io::Error| {
            let path = path.to_owned();
            match source.kind() {
                io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => ClientError::Late { path, limit },
                _ if is_connected => ClientError::NoAnswer { path, source },
                _ => ClientError::Unreachable { path, source },
            }
        }
    };
    let mut stream = open(path, &deadline).map_err(failed(false))?;
    match exchange(&mut stream, request, &deadline).map_err(failed(true))? {
        ControlReply::Ok(result) => Ok(result),
        ControlReply::Error(reason) => Err(ClientError::Refused(reason)),
    }
}

/// The time at which an exchange is given up.
struct Deadline(Instant);

impl Deadline {
    /// The time left, which is more than zero.
    fn left(&self) -> io::Result<Duration> {
        let left = self.0.saturating_duration_since(Instant::now());
        if left.is_zero() { Err(io::ErrorKind::TimedOut.into()) } else { Ok(left) }
    }
}

/// Connects within the limit, also where the backlog of the socket is full.
fn open(path: &Path, deadline: &Deadline) -> io::Result<UnixStream> {
    let address = SocketAddrUnix::new(path)?;
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    loop {
        // the kernel waits as long for room in the backlog
        set_socket_timeout(&socket, Timeout::Send, Some(deadline.left()?))?;
        match connect(&socket, &address) {
            Err(Errno::INTR) => {}
            connected => {
                connected?;
                return Ok(socket.into());
            }
        }
    }
}

fn exchange(
    stream: &mut UnixStream,
    request: &ControlRequest,
    deadline: &Deadline,
) -> io::Result<ControlReply> {
    let mut line = serde_json::to_vec(request)?;
    line.push(b'\n');
    stream.set_write_timeout(Some(deadline.left()?))?;
    // a client that is refused gets a reply although its request is not read
    let sent = stream.write_all(&line);
    let mut reply = Vec::new();
    let mut part = [0; 1 << 14];
    while reply.last() != Some(&b'\n') {
        stream.set_read_timeout(Some(deadline.left()?))?;
        match stream.read(&mut part) {
            Ok(0) if reply.is_empty() => {
                sent?;
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            Ok(0) => break,
            Ok(len) => reply.extend_from_slice(&part[..len]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
        if reply.len() > REPLY_LEN_MAX {
            return Err(io::Error::other("the reply is too long"));
        }
    }
    Ok(serde_json::from_slice(&reply)?)
}
