//! The sockets that front-ends and clients connect to.

use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, chown};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use rustix::fs::Mode;
use rustix::io::Errno;
use rustix::net::sockopt::{socket_acceptconn, socket_domain, socket_type};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};
use thiserror::Error;

use crate::storage::group::group_id;

/// The length of the longest path of a Unix socket, in bytes: `sun_path` less its terminating zero.
const PATH_LEN_MAX: usize = 107;

/// Why there is no socket to serve on.
#[derive(Debug, Error)]
pub enum SocketError {
    /// The kernel has no room for the path.
    #[error("socket path {} has {} bytes, more than {PATH_LEN_MAX}: choose a shorter one", .0.display(), .0.as_os_str().len())]
    PathTooLong(PathBuf),
    /// Another process accepts connections at the path.
    #[error("socket {} is in use by another process: stop that process or choose another path", .0.display())]
    InUse(PathBuf),
    /// Another process has a socket of another type at the path.
    #[error("socket {} is of another type and belongs to another service: choose another path", .0.display())]
    OfAnotherType(PathBuf),
    /// The path names something that is no socket, which we must not remove.
    #[error("{} exists and is not a socket: remove it or choose another path", .0.display())]
    NotASocket(PathBuf),
    /// The directory of the socket does not exist.
    #[error("there is no directory {} for the socket: make it or choose another path", .0.display())]
    NoDirectory(PathBuf),
    /// This user may not make files in the directory.
    #[error("no permission to make socket {}: run as a user with write permission for its directory, or choose another path", .0.display())]
    Permission(PathBuf),
    /// No user may make files in the directory.
    #[error("socket {} would be on a read-only file system: choose another path, for example in /run", .0.display())]
    ReadOnlyFileSystem(PathBuf),
    /// There is no such group.
    #[error("there is no group {0}: name an existing one with --socket-group")]
    NoGroup(String),
    /// Neither the command line nor systemd names a socket.
    #[error("no socket to serve on: give --socket-path or --fd, or start by a systemd socket unit")]
    None,
    /// systemd has passed several sockets, and a disk uses one.
    #[error("systemd passed {0} sockets, but a disk has one: use a socket unit for each disk")]
    ManyActivated(usize),
    /// systemd's environment variables do not fit the open descriptors.
    #[error(
        "LISTEN_FDS does not fit the open descriptors ({0}): unset it, or start by a systemd socket unit"
    )]
    Activation(io::Error),
    /// The descriptor that they name is not a usable socket.
    #[error(
        "descriptor {fd}, which LISTEN_FDS names, is {what}: unset LISTEN_FDS, or start by a systemd socket unit"
    )]
    BadActivation {
        /// The number of the descriptor.
        fd: RawFd,
        /// The reason why it is not usable.
        what: &'static str,
    },
    /// `--fd` names a descriptor that is not a usable socket.
    #[error("--fd {fd} is {what}: pass a listening or connected Unix stream socket")]
    BadFd {
        /// The number of the descriptor.
        fd: RawFd,
        /// The reason why it is not usable.
        what: &'static str,
    },
    /// Any other failure.
    #[error("cannot {action} socket {}", path.display())]
    Io {
        /// The step that failed.
        action: &'static str,
        /// The path of the socket.
        path: PathBuf,
        /// The system's error.
        #[source]
        source: io::Error,
    },
}

/// The socket of the front-ends.
#[derive(Debug)]
pub enum Endpoint {
    /// A socket that was made by this process, which removes it at the end.
    Bound(BoundSocket),
    /// A listening socket that was inherited.
    Listener(UnixListener),
    /// A connection to the only front-end.
    Connected(UnixStream),
}

/// A listening socket and its place in the file system.
#[derive(Debug)]
pub struct BoundSocket {
    listener: UnixListener,
    path: PathBuf,
    inode: u64,
}

impl BoundSocket {
    /// The listening socket.
    pub fn listener(&self) -> &UnixListener {
        &self.listener
    }
}

impl Drop for BoundSocket {
    fn drop(&mut self) {
        // another process may have put its own socket there since
        if fs::symlink_metadata(&self.path).is_ok_and(|meta| meta.ino() == self.inode) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Listens at `path`, which then has permissions `mode` and, when given, group `group`. A socket on
/// which no process accepts any more is replaced.
pub fn bind(path: &Path, mode: u32, group: Option<&str>) -> Result<BoundSocket, SocketError> {
    if path.as_os_str().len() > PATH_LEN_MAX {
        return Err(SocketError::PathTooLong(path.to_owned()));
    }
    let fail = |action| move |source| SocketError::Io { action, path: path.to_owned(), source };
    let group =
        group.map(|name| group_id(name).ok_or_else(|| SocketError::NoGroup(name.to_owned()))).transpose()?;
    match fs::symlink_metadata(path) {
        Ok(meta) if !meta.file_type().is_socket() => return Err(SocketError::NotASocket(path.to_owned())),
        Ok(_) => match connect_now(path) {
            // the only error that says that no process has the socket
            Err(Errno::CONNREFUSED) => fs::remove_file(path).map_err(fail("replace"))?,
            Err(Errno::NOENT) => {}
            Err(Errno::PROTOTYPE) => return Err(SocketError::OfAnotherType(path.to_owned())),
            // also when its backlog is full
            Ok(()) | Err(Errno::AGAIN) => return Err(SocketError::InUse(path.to_owned())),
            Err(error) => return Err(fail("find out whether another process uses")(error.into())),
        },
        Err(_) => {}
    }
    // no process may connect before group and mode are set
    let umask = rustix::process::umask(Mode::from_raw_mode(0o777));
    let listener = UnixListener::bind(path);
    rustix::process::umask(umask);
    let listener = listener.map_err(|error| match path.parent() {
        Some(directory) if error.kind() == io::ErrorKind::NotFound => {
            SocketError::NoDirectory(directory.to_owned())
        }
        _ => match error.kind() {
            io::ErrorKind::PermissionDenied => SocketError::Permission(path.to_owned()),
            io::ErrorKind::ReadOnlyFilesystem => SocketError::ReadOnlyFileSystem(path.to_owned()),
            _ => fail("listen on")(error),
        },
    })?;
    let inode = fs::symlink_metadata(path).map_err(fail("examine"))?.ino();
    let socket = BoundSocket { listener, path: path.to_owned(), inode };
    if group.is_some() {
        chown(path, None, group).map_err(fail("change the group of"))?;
    }
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).map_err(fail("change the mode of"))?;
    Ok(socket)
}

/// Connects to the stream socket at `path`, without waiting for room in its backlog.
fn connect_now(path: &Path) -> Result<(), Errno> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    connect(&socket, &SocketAddrUnix::new(path)?)
}

/// Takes over descriptor `fd`, a listening or a connected socket; `SO_ACCEPTCONN` distinguishes
/// them.
///
/// # Safety
///
/// This process has opened no descriptor itself, and takes over each number once. So a descriptor
/// that is open, other than the standard streams, was inherited and has no other owner.
#[expect(unsafe_code, reason = "a descriptor that is given by its number has no owner yet")]
pub unsafe fn inherit(fd: RawFd) -> Result<Endpoint, SocketError> {
    let bad = |what| SocketError::BadFd { fd, what };
    if fd <= 2 {
        return Err(bad("one of the standard streams"));
    }
    // SAFETY: this command takes no address and changes nothing, whatever the number is.
    if unsafe { libc::fcntl(fd, libc::F_GETFD) } < 0 {
        return Err(bad("not open"));
    }
    // SAFETY: the descriptor is open and no standard stream, so by the contract of this function it
    // has no other owner.
    let owned = unsafe { OwnedFd::from_raw_fd(fd) };
    let kind = (socket_domain(&owned), socket_type(&owned));
    if kind != (Ok(AddressFamily::UNIX), Ok(SocketType::STREAM)) {
        return Err(bad("no Unix stream socket"));
    }
    rustix::io::fcntl_setfd(&owned, rustix::io::FdFlags::CLOEXEC).map_err(|_| bad("not usable"))?;
    match socket_acceptconn(&owned) {
        Ok(true) => Ok(Endpoint::Listener(owned.into())),
        Ok(false) if rustix::net::getpeername(&owned).is_ok() => Ok(Endpoint::Connected(owned.into())),
        _ => Err(bad("neither listening nor connected")),
    }
}

/// The one socket that systemd passed to this process, `None` when it passed none
/// (`sd_listen_fds(3)`).
///
/// # Safety
///
/// As for [`inherit`].
#[expect(unsafe_code, reason = "as `inherit`")]
pub unsafe fn activated() -> Result<Option<Endpoint>, SocketError> {
    let mut passed = sd_notify::listen_fds().map_err(SocketError::Activation)?;
    match (passed.next(), passed.len()) {
        (None, _) => Ok(None),
        (Some(fd), 0) => {
            // SAFETY: the caller keeps the contract, which is the same.
            let inherited = unsafe { inherit(fd) };
            inherited.map(Some).map_err(|error| match error {
                SocketError::BadFd { fd, what } => SocketError::BadActivation { fd, what },
                other => other,
            })
        }
        (Some(_), more) => Err(SocketError::ManyActivated(more + 1)),
    }
}

impl Endpoint {
    /// The listening socket, if there is one.
    pub fn listener(&self) -> Option<&UnixListener> {
        match self {
            Self::Bound(socket) => Some(socket.listener()),
            Self::Listener(listener) => Some(listener),
            Self::Connected(_) => None,
        }
    }

    /// The descriptor that the next front-end makes readable.
    pub fn listener_fd(&self) -> Option<BorrowedFd<'_>> {
        self.listener().map(AsFd::as_fd)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stale_socket_is_replaced_and_a_live_one_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        drop(UnixListener::bind(&path).unwrap());
        let socket = bind(&path, 0o600, None).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        assert!(matches!(bind(&path, 0o600, None), Err(SocketError::InUse(_))));
        drop(socket);
        assert!(!path.exists());
    }

    /// A datagram socket, as that of `sd_notify(3)` is, refuses a stream as if no process had it.
    #[test]
    fn a_socket_of_another_type_stays() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let _datagrams = std::os::unix::net::UnixDatagram::bind(&path).unwrap();
        assert!(matches!(bind(&path, 0o600, None), Err(SocketError::OfAnotherType(_))));
        assert!(path.exists());
        let path = dir.path().join("packets");
        let packets =
            socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).unwrap();
        rustix::net::bind(&packets, &SocketAddrUnix::new(&path).unwrap()).unwrap();
        rustix::net::listen(&packets, 1).unwrap();
        assert!(matches!(bind(&path, 0o600, None), Err(SocketError::OfAnotherType(_))));
        assert!(path.exists());
    }

    #[test]
    fn a_socket_whose_backlog_is_full_is_in_use() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let listener =
            socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None).unwrap();
        rustix::net::bind(&listener, &SocketAddrUnix::new(&path).unwrap()).unwrap();
        rustix::net::listen(&listener, 0).unwrap();
        let waiting: Vec<_> = std::iter::from_fn(|| connect_waiting(&path)).collect();
        assert!(!waiting.is_empty());
        assert!(matches!(bind(&path, 0o600, None), Err(SocketError::InUse(_))));
        assert!(path.exists());
    }

    /// A connection that waits in the backlog; none when there is no room for it.
    fn connect_waiting(path: &Path) -> Option<OwnedFd> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None).unwrap();
        connect(&socket, &SocketAddrUnix::new(path).unwrap()).is_ok().then_some(socket)
    }

    #[test]
    fn a_file_that_is_no_socket_stays() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        fs::write(&path, "precious").unwrap();
        assert!(matches!(bind(&path, 0o600, None), Err(SocketError::NotASocket(_))));
        assert_eq!(fs::read(&path).unwrap(), b"precious");
    }

    #[test]
    fn an_error_names_the_missing_directory() {
        let missing = tempfile::tempdir().unwrap().path().join("missing");
        let error = bind(&missing.join("s"), 0o600, None).unwrap_err();
        assert!(matches!(error, SocketError::NoDirectory(directory) if directory == missing));
    }

    #[test]
    fn a_successor_keeps_its_socket_when_we_end() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let first = bind(&path, 0o600, None).unwrap();
        fs::remove_file(&path).unwrap();
        let _second = UnixListener::bind(&path).unwrap();
        drop(first);
        assert!(path.exists());
    }

    #[test]
    fn a_long_path_is_refused_by_its_length() {
        let path = PathBuf::from(format!("/tmp/{}", "x".repeat(120)));
        assert!(matches!(bind(&path, 0o600, None), Err(SocketError::PathTooLong(_))));
    }
}
