//! Notifications of the service manager, by the protocol of `sd_notify(3)`: ready, status,
//! stopping, and signs of life for its watchdog.
//!
//! The socket is connected once, at the start, so that the process needs none later.

use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::path::Path;
use std::time::{Duration, Instant};

use sd_notify::NotifyState;

/// The variable with the address of the service manager's socket.
const ADDRESS: &str = "NOTIFY_SOCKET";

/// The service manager, if there is one.
#[derive(Debug, Default)]
pub struct ServiceManager {
    socket: Option<UnixDatagram>,
    heartbeat: Option<Heartbeat>,
    /// The status that was sent last.
    status: String,
}

/// The signs of life that the watchdog of the service manager asks for.
#[derive(Debug)]
struct Heartbeat {
    interval: Duration,
    next: Instant,
    /// Whether the last one was left out.
    withheld: bool,
}

impl ServiceManager {
    /// Connects to the service manager that the environment names. Without one, or without a
    /// connection, nothing is sent.
    #[must_use]
    pub fn connect() -> Self {
        let Some(address) = std::env::var_os(ADDRESS).filter(|address| !address.is_empty()) else {
            return Self::default();
        };
        let socket = match connect(address.as_bytes()) {
            Ok(socket) => socket,
            Err(error) => {
                tracing::warn!("cannot connect to the service manager at {ADDRESS}: {error}");
                return Self::default();
            }
        };
        // twice as often as it must be, as sd_watchdog_enabled(3) recommends
        let interval = sd_notify::watchdog_enabled().map(|limit| limit / 2).filter(|it| !it.is_zero());
        let heartbeat =
            interval.map(|interval| Heartbeat { interval, next: Instant::now(), withheld: false });
        Self { socket: Some(socket), heartbeat, status: String::new() }
    }

    /// Sends that the disk is served.
    pub(super) fn ready(&self) {
        self.send(&NotifyState::Ready);
    }

    /// Sends that the process is about to end.
    pub(super) fn stopping(&self) {
        self.send(&NotifyState::Stopping);
    }

    /// Sends `status`, a line for people, if it is another than before.
    pub(super) fn set_status(&mut self, status: String) {
        if self.socket.is_some() && status != self.status {
            self.send(&NotifyState::Status(&status));
            self.status = status;
        }
    }

    /// The time until the next sign of life; none: the service manager wants none.
    pub(super) fn rest(&self, now: Instant) -> Option<Duration> {
        self.heartbeat.as_ref().map(|heartbeat| heartbeat.next.saturating_duration_since(now))
    }

    /// Sends a sign of life, if it is time for one, unless `blocked` names what a restart would
    /// cure.
    pub(super) fn beat(&mut self, now: Instant, blocked: Option<&str>) {
        let Some(heartbeat) = self.heartbeat.as_mut().filter(|heartbeat| heartbeat.next <= now) else {
            return;
        };
        heartbeat.next = now + heartbeat.interval;
        let was_withheld = std::mem::replace(&mut heartbeat.withheld, blocked.is_some());
        match blocked {
            None => self.send(&NotifyState::Watchdog),
            Some(what) if !was_withheld => {
                tracing::error!(
                    "{what}: the service manager gets no sign of life, and restarts this process"
                );
            }
            Some(_) => {}
        }
    }

    fn send(&self, state: &NotifyState<'_>) {
        let Some(socket) = &self.socket else { return };
        if let Err(error) = socket.send(format!("{state}\n").as_bytes()) {
            tracing::warn!("cannot notify the service manager: {error}");
        }
    }
}

/// A socket that is connected to `address`, a path or, with `@` first, an abstract name.
fn connect(address: &[u8]) -> io::Result<UnixDatagram> {
    let address = match address.split_first() {
        Some((b'@', name)) => SocketAddr::from_abstract_name(name)?,
        _ => SocketAddr::from_pathname(Path::new(std::ffi::OsStr::from_bytes(address)))?,
    };
    let socket = UnixDatagram::unbound()?;
    socket.connect_addr(&address)?;
    // a service manager that does not read must not block the control thread
    socket.set_nonblocking(true)?;
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use super::*;

    const INTERVAL: Duration = Duration::from_secs(15);

    /// The service manager's end, and ours, which is to send a sign of life each interval.
    fn rig(now: Instant) -> (UnixDatagram, ServiceManager) {
        let (theirs, ours) = UnixDatagram::pair().unwrap();
        theirs.set_nonblocking(true).unwrap();
        let heartbeat = Some(Heartbeat { interval: INTERVAL, next: now, withheld: false });
        (theirs, ServiceManager { socket: Some(ours), heartbeat, status: String::new() })
    }

    fn received(theirs: &UnixDatagram) -> Vec<String> {
        let mut message = [0; 256];
        std::iter::from_fn(|| {
            let len = theirs.recv(&mut message).ok()?;
            Some(String::from_utf8_lossy(&message[..len]).trim_end().to_owned())
        })
        .collect()
    }

    #[test]
    fn signs_of_life_come_in_time_and_not_while_a_worker_is_blocked() {
        let start = Instant::now();
        let (theirs, mut manager) = rig(start);
        assert_eq!(manager.rest(start), Some(Duration::ZERO));
        manager.beat(start, None);
        manager.beat(start, None);
        assert_eq!(received(&theirs), ["WATCHDOG=1"]);
        assert_eq!(manager.rest(start), Some(INTERVAL));
        manager.beat(start + INTERVAL, Some("the worker of queue 0 is blocked"));
        assert!(received(&theirs).is_empty());
        manager.beat(start + 2 * INTERVAL, None);
        assert_eq!(received(&theirs), ["WATCHDOG=1"]);
    }

    #[test]
    fn a_status_is_sent_when_it_changes() {
        let (theirs, mut manager) = rig(Instant::now());
        for status in ["waiting", "waiting", "serving"] {
            manager.set_status(status.to_owned());
        }
        assert_eq!(received(&theirs), ["STATUS=waiting", "STATUS=serving"]);
    }

    #[test]
    fn an_address_is_a_path_or_an_abstract_name() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("notify");
        let at_path = UnixDatagram::bind(&path).unwrap();
        let name = format!("stableblk-test-{}", std::process::id());
        let address = SocketAddr::from_abstract_name(&name).unwrap();
        let at_name = UnixDatagram::bind_addr(&address).unwrap();
        for (theirs, address) in
            [(&at_path, path.as_os_str().as_bytes()), (&at_name, format!("@{name}").as_bytes())]
        {
            theirs.set_nonblocking(true).unwrap();
            let manager = ServiceManager { socket: Some(connect(address).unwrap()), ..Default::default() };
            manager.ready();
            assert_eq!(received(theirs), ["READY=1"]);
        }
    }

    #[test]
    fn without_a_service_manager_nothing_is_due() {
        let mut manager = ServiceManager::default();
        manager.ready();
        manager.beat(Instant::now(), None);
        assert_eq!(manager.rest(Instant::now()), None);
    }
}
