//! The sockets of a disk: for its front-end, and for control.

use std::os::fd::RawFd;
use std::path::PathBuf;

use crate::control::socket::{self, BoundSocket, Endpoint, SocketError};

/// The mode of the control socket: it is for its owner alone.
const CONTROL_MODE: u32 = 0o600;

/// Which sockets a disk is to have.
#[derive(Debug)]
pub(super) struct SocketConfig {
    /// The socket of the front-end.
    pub(super) endpoint: EndpointConfig,
    /// The path of the control socket, if there is to be one.
    pub(super) control: Option<PathBuf>,
}

/// Where the socket of the front-end comes from.
#[derive(Debug)]
pub(super) enum EndpointConfig {
    /// It was inherited, and is open.
    Inherited(Endpoint),
    /// It is to be made.
    Path {
        /// Where.
        path: PathBuf,
        /// The permissions of the socket.
        mode: u32,
        /// The group of the socket, by name or number.
        group: Option<String>,
    },
}

/// The sockets, open.
#[derive(Debug)]
pub(super) struct Sockets {
    pub(super) endpoint: Endpoint,
    pub(super) control: Option<BoundSocket>,
}

impl EndpointConfig {
    /// The socket that was named, by descriptor or by path; else the one that systemd passed.
    ///
    /// # Safety
    ///
    /// This process has opened no descriptor itself, and calls this once.
    #[expect(unsafe_code, reason = "takes over a descriptor by its number")]
    pub(super) unsafe fn find(
        fd: Option<RawFd>,
        path: Option<PathBuf>,
        mode: u32,
        group: Option<String>,
    ) -> Result<Self, SocketError> {
        match (fd, path) {
            // SAFETY: the caller keeps the contract, which is the same.
            (Some(fd), _) => unsafe { socket::inherit(fd) }.map(Self::Inherited),
            (None, Some(path)) => Ok(Self::Path { path, mode, group }),
            (None, None) => {
                // SAFETY: the caller keeps the contract, which is the same.
                let activated = unsafe { socket::activated() }?;
                activated.map(Self::Inherited).ok_or(SocketError::None)
            }
        }
    }
}

impl SocketConfig {
    /// Makes the sockets that were not inherited. From then on others can see them.
    pub(super) fn open(self) -> Result<Sockets, SocketError> {
        let control = self.control.map(|path| socket::bind(&path, CONTROL_MODE, None)).transpose()?;
        let endpoint = match self.endpoint {
            EndpointConfig::Inherited(endpoint) => endpoint,
            EndpointConfig::Path { path, mode, group } => {
                Endpoint::Bound(socket::bind(&path, mode, group.as_deref())?)
            }
        };
        Ok(Sockets { endpoint, control })
    }
}
