//! The control thread: who comes next, and when to stop. One epoll, no timer, no wake-up while nothing happens.

use std::io::{self, Read};
use std::net::Shutdown;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::thread::{self, JoinHandle};

use sd_notify::NotifyState;
use signal_hook::consts::{SIGINT, SIGTERM};

use crate::device::BlockDevice;
use crate::disk::Disk;
use crate::inbox::Inbox;
use crate::session::{self, Offer};
use crate::socket::Endpoint;

/// SIGTERM and SIGINT as something to wait on. The first asks for a clean stop; a second one ends the process at once.
#[derive(Debug)]
pub struct Termination {
    signalled: UnixStream,
}

impl Termination {
    /// Catches the signals from now on.
    pub fn catch() -> io::Result<Self> {
        let (signalled, signal) = UnixStream::pair()?;
        let stopping = Arc::new(AtomicBool::new(false));
        for number in [SIGTERM, SIGINT] {
            // in this order: the first signal finds the flag unset and then sets it
            signal_hook::flag::register_conditional_shutdown(number, 1, stopping.clone())?;
            signal_hook::flag::register(number, stopping.clone())?;
            signal_hook::low_level::pipe::register(number, signal.try_clone()?)?;
        }
        Ok(Self { signalled })
    }
}

const TERMINATION: u64 = 0;
const LISTENER: u64 = 1;
const SESSION: u64 = 2;

/// An epoll set.
#[derive(Debug)]
struct Epoll(RawFd);

impl Epoll {
    fn new() -> io::Result<Self> {
        epoll::create(true).map(Self)
    }

    fn watch(&self, fd: BorrowedFd<'_>, data: u64) -> io::Result<()> {
        let event = epoll::Event::new(epoll::Events::EPOLLIN, data);
        epoll::ctl(self.0, epoll::ControlOptions::EPOLL_CTL_ADD, fd.as_raw_fd(), event)
    }

    fn forget(&self, fd: BorrowedFd<'_>) -> io::Result<()> {
        let event = epoll::Event::new(epoll::Events::empty(), 0);
        epoll::ctl(self.0, epoll::ControlOptions::EPOLL_CTL_DEL, fd.as_raw_fd(), event)
    }

    fn wait(&self) -> io::Result<u64> {
        let mut events = [epoll::Event::new(epoll::Events::empty(), 0)];
        loop {
            match epoll::wait(self.0, -1, &mut events) {
                Ok(0) => {}
                Ok(_) => return Ok(events[0].data),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }
}

impl Drop for Epoll {
    fn drop(&mut self) {
        let _ = epoll::close(self.0);
    }
}

/// A front-end being served on a thread of its own, so that a slow drain does not keep us from signals.
#[derive(Debug)]
struct Running {
    thread: JoinHandle<()>,
    stream: UnixStream,
    /// Its other end is dropped when the thread ends.
    ended: UnixStream,
}

impl Running {
    fn start<B: BlockDevice>(disk: Arc<Disk<B>>, offer: Offer, stream: UnixStream) -> io::Result<Self> {
        let (ended, running) = UnixStream::pair()?;
        let served = stream.try_clone()?;
        let inbox = Arc::new(Inbox::new()?);
        let thread = thread::Builder::new().name("session".to_owned()).spawn(move || {
            if let Err(error) = session::serve(disk, offer, served, inbox) {
                tracing::error!("cannot serve a front-end: {error}");
            }
            drop(running);
        })?;
        Ok(Self { thread, stream, ended })
    }

    fn join(self) {
        if self.thread.join().is_err() {
            tracing::error!("the session panicked");
        }
    }
}

/// Serves one front-end after another until a signal, or until the only one has left.
pub fn run<B: BlockDevice>(
    disk: &Arc<Disk<B>>,
    offer: &Offer,
    endpoint: &Endpoint,
    termination: &mut Termination,
) -> io::Result<()> {
    tell_service_manager(NotifyState::Ready);
    let epoll = Epoll::new()?;
    epoll.watch(termination.signalled.as_fd(), TERMINATION)?;
    let mut running = match endpoint {
        Endpoint::Connected(stream) => Some(start_watched(&epoll, disk, offer, stream.try_clone()?)?),
        Endpoint::Bound(_) | Endpoint::Listener(_) => None,
    };
    if let Some(listener) = endpoint.listener_fd().filter(|_| running.is_none()) {
        epoll.watch(listener, LISTENER)?;
    }
    loop {
        match epoll.wait()? {
            TERMINATION => {
                let _ = termination.signalled.read(&mut [0; 16]);
                tracing::info!("stopping");
                tell_service_manager(NotifyState::Stopping);
                if let Some(session) = running {
                    // For the session it is the end of the stream. The front-end sees none before everything in flight is
                    // done: it takes the used rings of that moment for final.
                    let _ = session.stream.shutdown(Shutdown::Read);
                    session.join();
                    log_counters(disk);
                }
                return Ok(());
            }
            LISTENER => {
                let Some(listener) = endpoint.listener() else {
                    continue;
                };
                match listener.accept() {
                    Ok((stream, _)) => {
                        tracing::info!("front-end connected");
                        running = Some(start_watched(&epoll, disk, offer, stream)?);
                        // the next one waits in the backlog
                        epoll.forget(listener.as_fd())?;
                    }
                    Err(error) => tracing::warn!("cannot accept a front-end: {error}"),
                }
            }
            _ => {
                if let Some(session) = running.take() {
                    epoll.forget(session.ended.as_fd())?;
                    session.join();
                    log_counters(disk);
                }
                match endpoint.listener_fd() {
                    Some(listener) => epoll.watch(listener, LISTENER)?,
                    None => return Ok(()),
                }
            }
        }
    }
}

/// By the protocol of `sd_notify(3)`, where there is somebody to tell.
fn tell_service_manager(state: NotifyState<'_>) {
    if let Err(error) = sd_notify::notify(&[state]) {
        tracing::warn!("cannot tell the service manager: {error}");
    }
}

fn start_watched<B: BlockDevice>(
    epoll: &Epoll,
    disk: &Arc<Disk<B>>,
    offer: &Offer,
    stream: UnixStream,
) -> io::Result<Running> {
    let session = Running::start(disk.clone(), offer.clone(), stream)?;
    epoll.watch(session.ended.as_fd(), SESSION)?;
    Ok(session)
}

fn log_counters<B>(disk: &Disk<B>) {
    let sum =
        |counter: fn(&crate::metrics::QueueMetrics) -> u64| disk.metrics.iter().map(counter).sum::<u64>();
    tracing::info!(
        reads = sum(|queue| queue.reads.count()),
        bytes_read = sum(|queue| queue.bytes_read.get()),
        writes = sum(|queue| queue.writes.count()),
        bytes_written = sum(|queue| queue.bytes_written.get()),
        flushes = sum(|queue| queue.flushes.count()),
        integrity_errors = sum(|queue| queue.integrity_errors.get()),
        unstable_writes = sum(|queue| queue.unstable_writes.get()),
        zeroings = sum(|queue| queue.zeroings.count()),
        no_space = sum(|queue| queue.no_space.get()),
        device_errors = sum(|queue| queue.device_errors.get()),
        refused = sum(|queue| queue.refused.get()),
        malformed = sum(|queue| queue.malformed.get()),
        retired = sum(|queue| queue.retired.get()),
        unsupported = sum(|queue| queue.unsupported.get()),
        starved = sum(|queue| queue.starved.get()),
        "front-end left"
    );
}
