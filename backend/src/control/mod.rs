//! The control thread: who comes next, what is asked on the control socket, and when to stop. One epoll, no wake-up while nothing
//! happens. It waits for nobody: what may take long is done by a [job](jobs), or by the session while its queues stand still.

mod clients;
mod epoll;
mod file_watch;
mod jobs;
pub mod log;
pub mod log_filter;
pub mod protocol;
mod quiesce;
mod resize;
mod size_watch;
pub mod socket;
mod status;
pub mod watchdog;

use std::io::{self, Read};
use std::net::Shutdown;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::sockopt::socket_peercred;
use thiserror::Error;

use sd_notify::NotifyState;
use signal_hook::consts::{SIGINT, SIGTERM};

pub(crate) use self::clients::CLIENTS_MAX;
use self::clients::{ACCEPT_PAUSE, Clients};
use self::epoll::EpollSet;
pub use self::file_watch::Role;
use self::jobs::Jobs;
use self::protocol::{Reply, Request};
use self::quiesce::{Done, Quiet};
pub use self::size_watch::SizeWatch;
pub use self::status::Chosen;
use self::status::{Connected, status};
use crate::control::log_filter::LogFilter;
use crate::control::socket::{BoundSocket, Endpoint};
use crate::control::watchdog::Watchdog;
use crate::device::BlockDevice;
use crate::device::growth_error::GrowthError;
use crate::inbox::Inbox;
use crate::metrics::Counter;
use crate::report;
use crate::session::{self, Notice, Offer};
use crate::worker::disk::Disk;

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
const CONTROL: u64 = 3;
const RESULTS: u64 = 4;
const SIZE: u64 = 5;
const WATCHDOG: u64 = 6;
/// The first of the clients of the control socket.
const CLIENTS: u64 = 16;

/// Why the control thread cannot go on.
#[derive(Debug, Error)]
pub enum ControlError {
    /// A call of the system that must not fail has failed.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// The session was asked to end and has not.
    #[error(
        "{what} after {seconds} s: the storage does not answer; what was not flushed is recovered when the disk is served again"
    )]
    Hangs {
        /// What is still there.
        what: String,
        /// How long it was waited for.
        seconds: u64,
    },
}

/// How long a session may take to end after SIGTERM. Its requests are in the kernel, which may wait for a device that is gone.
pub(crate) const STOP_LIMIT: Duration = Duration::from_secs(30);

/// Where control comes from besides signals, and what is told there.
#[derive(Debug)]
pub struct Supervision<'a> {
    /// The control socket, if there is one.
    pub socket: Option<BoundSocket>,
    /// Tells of images that may have grown, where that can be told.
    pub size: Option<SizeWatch>,
    /// After how long a queue without progress is reported; none: never.
    pub watchdog: Option<Duration>,
    /// What is logged.
    pub log: &'a LogFilter,
    /// What was chosen at the start.
    pub chosen: Chosen,
}

/// A front-end being served on a thread of its own, so that a slow drain does not keep us from signals.
#[derive(Debug)]
struct Running {
    thread: JoinHandle<()>,
    stream: UnixStream,
    inbox: Arc<Inbox<Notice>>,
    connected: Connected,
    /// Its other end is dropped when the thread ends.
    ended: UnixStream,
}

impl Running {
    fn start<B: BlockDevice>(disk: Arc<Disk<B>>, offer: Offer, stream: UnixStream) -> io::Result<Self> {
        let (ended, running) = UnixStream::pair()?;
        let served = stream.try_clone()?;
        let inbox = Arc::new(Inbox::new()?);
        let notices = inbox.clone();
        let thread = thread::Builder::new().name("session".to_owned()).spawn(move || {
            if let Err(error) = session::serve(disk, offer, served, notices) {
                tracing::error!("cannot serve a front-end: {error}");
            }
            drop(running);
        })?;
        let pid = socket_peercred(&stream).ok().map(|peer| peer.pid.as_raw_nonzero().get());
        let connected = Connected { pid, since: Instant::now() };
        Ok(Self { thread, stream, inbox, connected, ended })
    }

    /// Waits for the end of the session, for as long as that may take. False: it has not ended.
    fn wait_for_end(&self, limit: Duration) -> io::Result<bool> {
        let limit = Timespec::try_from(limit).map_err(io::Error::other)?;
        loop {
            match poll(&mut [PollFd::new(&self.ended, PollFlags::IN)], Some(&limit)) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                polled => return Ok(polled? > 0),
            }
        }
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
    supervision: Supervision<'_>,
) -> Result<(), ControlError> {
    tell_service_manager(NotifyState::Ready);
    let mut control = Control::new(disk, offer, endpoint, supervision)?;
    control.epoll.watch(termination.signalled.as_fd(), TERMINATION)?;
    control.finish_growth();
    match endpoint {
        Endpoint::Connected(stream) => control.start_session(stream.try_clone()?)?,
        Endpoint::Bound(_) | Endpoint::Listener(_) => {}
    }
    if let Some(listener) = endpoint.listener_fd() {
        control.epoll.watch(listener, LISTENER)?;
    }
    loop {
        let event = control.epoll.wait(control.rest())?;
        control.look_after_queues();
        control.accept_again();
        let Some(event) = event else {
            continue;
        };
        match event {
            (TERMINATION, _) => {
                let _ = termination.signalled.read(&mut [0; 16]);
                tracing::info!("stopping");
                tell_service_manager(NotifyState::Stopping);
                if let Some(session) = control.running.take() {
                    // For the session it is the end of the stream. The front-end sees none before everything in flight is
                    // done: it takes the used rings of that moment for final.
                    let _ = session.stream.shutdown(Shutdown::Read);
                    if !session.wait_for_end(STOP_LIMIT)? {
                        return Err(hangs(disk));
                    }
                    session.join();
                    log_counters(disk);
                }
                return Ok(());
            }
            (LISTENER, _) => control.accept()?,
            (SESSION, _) => {
                control.end_session()?;
                match endpoint.listener_fd() {
                    Some(listener) => control.epoll.watch(listener, LISTENER)?,
                    None => return Ok(()),
                }
            }
            (CONTROL, _) => {
                if let Some(clients) = &mut control.clients {
                    clients.accept(&control.epoll);
                }
            }
            (RESULTS, _) => control.take_results(),
            (SIZE, _) => control.storage_changed(),
            (WATCHDOG, _) => control.watch_queues(),
            (client, gone) => control.attend(client, gone),
        }
    }
}

/// What of the session is still there.
fn hangs<B>(disk: &Disk<B>) -> ControlError {
    let queues = disk.metrics.iter().enumerate().filter(|(_, metrics)| metrics.ring_size.get() > 0);
    let queues: Vec<_> = queues
        .map(|(queue, metrics)| format!("queue {queue} with {} requests in flight", metrics.in_flight.get()))
        .collect();
    let what = if queues.is_empty() { "the session".to_owned() } else { queues.join(", ") };
    ControlError::Hangs { what: format!("{what} has not stopped"), seconds: STOP_LIMIT.as_secs() }
}

/// By the protocol of `sd_notify(3)`, where there is somebody to tell.
fn tell_service_manager(state: NotifyState<'_>) {
    if let Err(error) = sd_notify::notify(&[state]) {
        tracing::warn!("cannot tell the service manager: {error}");
    }
}

/// What the control thread knows.
#[derive(Debug)]
struct Control<'a, B> {
    epoll: EpollSet,
    disk: &'a Arc<Disk<B>>,
    offer: &'a Offer,
    endpoint: &'a Endpoint,
    running: Option<Running>,
    clients: Option<Clients>,
    jobs: Jobs<Done>,
    log: &'a LogFilter,
    chosen: Chosen,
    size: Option<SizeWatch>,
    watchdog: Watchdog,
    /// A resize is under way.
    resizing: bool,
    /// The storage may have changed during it.
    measure_again: bool,
    /// When front-ends are accepted again, after that has failed.
    accept_at: Option<Instant>,
    /// How often a front-end was not served.
    turned_away: Counter,
}

impl<'a, B: BlockDevice> Control<'a, B> {
    fn new(
        disk: &'a Arc<Disk<B>>,
        offer: &'a Offer,
        endpoint: &'a Endpoint,
        supervision: Supervision<'a>,
    ) -> io::Result<Self> {
        let Supervision { socket, size, watchdog, log, chosen } = supervision;
        let epoll = EpollSet::new()?;
        let clients = socket.map(|socket| Clients::new(socket, &epoll, CONTROL, CLIENTS)).transpose()?;
        let jobs = Jobs::new()?;
        epoll.watch(jobs.results().wake_fd(), RESULTS)?;
        if let Some(size) = &size {
            epoll.watch(size.as_fd(), SIZE)?;
        }
        if let Some(listener) = endpoint.listener() {
            // another process may have it too, and accept whom we were told of
            listener.set_nonblocking(true)?;
        }
        let watchdog = Watchdog::new(watchdog, &disk.watch, disk.metrics.len())?;
        if let Some(wake) = disk.watch.wake_fd() {
            epoll.watch(wake, WATCHDOG)?;
        }
        let (running, resizing, measure_again) = (None, false, false);
        Ok(Self {
            epoll,
            disk,
            offer,
            endpoint,
            running,
            clients,
            jobs,
            log,
            chosen,
            size,
            watchdog,
            resizing,
            measure_again,
            accept_at: None,
            turned_away: Counter::default(),
        })
    }

    /// How long there is nothing to do without an event.
    fn rest(&self) -> Option<Duration> {
        let now = Instant::now();
        let until = |at: Instant| at.saturating_duration_since(now);
        let clients = self.clients.as_ref().and_then(Clients::accept_at);
        [self.watchdog.rest(now), self.accept_at.map(until), clients.map(until)].into_iter().flatten().min()
    }

    fn look_after_queues(&mut self) {
        self.watchdog.look(&self.disk.watch, &self.disk.metrics, &self.disk.inboxes, Instant::now());
    }

    fn watch_queues(&mut self) {
        self.watchdog.woken(&self.disk.watch, Instant::now());
    }

    fn accept(&mut self) -> io::Result<()> {
        let Some(listener) = self.endpoint.listener() else {
            return Ok(());
        };
        let served = match listener.accept() {
            // another process has accepted it
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
            Err(error) => Err(("accept", error)),
            Ok((stream, _)) => {
                tracing::info!("front-end connected");
                self.start_session(stream).map_err(|error| ("serve", error))
            }
        };
        // the next one waits in the backlog: for the end of the session, or for better times
        self.epoll.forget(listener.as_fd())?;
        if let Err((action, error)) = served {
            self.accept_at = Some(Instant::now() + ACCEPT_PAUSE);
            if self.turned_away.add_logged() {
                let times = self.turned_away.get();
                tracing::error!(times, "cannot {action} a front-end, trying again every second: {error}");
            }
        }
        Ok(())
    }

    /// Accepts front-ends and clients again some time after that has failed.
    fn accept_again(&mut self) {
        let now = Instant::now();
        if self.accept_at.is_some_and(|at| at <= now)
            && let Some(listener) = self.endpoint.listener_fd()
        {
            let watched = self.epoll.watch(listener, LISTENER);
            self.accept_at = watched.err().map(|_| now + ACCEPT_PAUSE);
        }
        if let Some(clients) = &mut self.clients {
            clients.accept_again(&self.epoll, now);
        }
    }

    fn start_session(&mut self, stream: UnixStream) -> io::Result<()> {
        let session = Running::start(self.disk.clone(), self.offer.clone(), stream)?;
        self.epoll.watch(session.ended.as_fd(), SESSION).inspect_err(|_| {
            // it would not be waited for
            let _ = session.stream.shutdown(Shutdown::Both);
        })?;
        self.running = Some(session);
        Ok(())
    }

    fn end_session(&mut self) -> io::Result<()> {
        if let Some(session) = self.running.take() {
            self.epoll.forget(session.ended.as_fd())?;
            session.join();
            log_counters(self.disk);
        }
        Ok(())
    }

    /// Takes what a client says, and answers it.
    fn attend(&mut self, client: u64, gone: bool) {
        if let Some(clients) = &mut self.clients {
            clients.attend(&self.epoll, client, gone);
        }
        self.answer_requests(client);
    }

    fn answer_requests(&mut self, client: u64) {
        while let Some(request) =
            self.clients.as_mut().and_then(|clients| clients.next_request(&self.epoll, client))
        {
            let request = request.map_err(ToOwned::to_owned).and_then(|line| {
                serde_json::from_slice(&line)
                    .map_err(|error| format!("no request that is known here: {error}"))
            });
            match request {
                Ok(request) => self.carry_out(client, request),
                Err(reason) => self.reply(client, &Reply::Error(reason)),
            }
        }
    }

    fn reply(&mut self, client: u64, reply: &Reply) {
        if let Some(clients) = &mut self.clients {
            clients.reply(&self.epoll, client, reply);
        }
    }

    fn carry_out(&mut self, client: u64, request: Request) {
        match request {
            Request::Status => {
                let connected = self.running.as_ref().map(|session| session.connected);
                let status = status(self.disk, &self.chosen, self.log.text(), connected);
                self.reply(client, &Reply::ok(&status));
            }
            Request::LogLevel { filter } => {
                let reply = match self.log.set(&filter) {
                    Ok(()) => {
                        tracing::info!("logging {filter}");
                        Reply::done()
                    }
                    Err(error) => Reply::Error(report::chain(&error)),
                };
                self.reply(client, &reply);
            }
            Request::Flush => {
                let disk = self.disk.clone();
                self.start_job(Some(client), move || Done::Answer(client, quiesce::flush(&disk)));
            }
            Request::Drain => self.do_quietly(Quiet::Drain { client }),
            Request::Resize { .. } if self.resizing => {
                let reason = "another resize is under way: ask again when it is done";
                self.reply(client, &Reply::Error(reason.to_owned()));
            }
            Request::Resize { size } => self.resize(size, Some(client)),
        }
    }

    fn start_job(&mut self, client: Option<u64>, job: impl FnOnce() -> Done + Send + 'static) {
        if let Err(error) = self.jobs.start(job) {
            let reason = format!("cannot start a thread: {error}");
            tracing::error!("{reason}");
            self.resizing = false;
            if let Some(client) = client {
                self.reply(client, &Reply::Error(reason));
            }
        }
    }

    /// A process that could write the image has closed it, a file was renamed or deleted, or a
    /// device has changed.
    fn storage_changed(&mut self) {
        if let Some(size) = &mut self.size {
            size.take();
        }
        if self.resizing {
            self.measure_again = true;
        } else {
            self.resize(None, None);
        }
    }

    /// Grows into storage that is larger than the disk: a growth was cut off, or was never announced.
    fn finish_growth(&mut self) {
        let device = &self.disk.device;
        let served = device.info().capacity.get();
        let is_larger = device.is_held() && device.measure().is_ok_and(|size| size.bytes > served);
        if is_larger && !self.disk.limits.read_only {
            self.storage_changed();
        }
    }

    fn resize(&mut self, size: Option<u64>, client: Option<u64>) {
        self.resizing = true;
        let disk = self.disk.clone();
        self.start_job(client, move || quiesce::prepare_growth(&disk, size, client));
    }

    /// Does what needs queues that stand still: by the session, or at once when there is none.
    fn do_quietly(&mut self, quiet: Quiet) {
        if let Some(session) = &self.running {
            let work = quiet.by_session(self.disk.clone(), self.jobs.results().clone());
            session.inbox.post(Notice::WhileStopped(work));
        } else {
            let done = quiet.run(self.disk);
            self.take_result(done);
        }
    }

    fn take_results(&mut self) {
        for done in self.jobs.results().receive() {
            self.take_result(done);
        }
    }

    fn take_result(&mut self, done: Done) {
        match done {
            Done::Answer(client, reply) => {
                self.reply(client, &reply);
                self.answer_requests(client);
            }
            Done::Todo(quiet) => self.do_quietly(quiet),
            Done::Resized { client, result } => {
                self.resizing = false;
                match &result {
                    Ok(size) if size.grown => tracing::info!(bytes = size.bytes, "the disk has grown"),
                    Ok(_) => {}
                    // another host writes to it
                    Err(GrowthError::NotHeld) if client.is_none() => {}
                    Err(error) => tracing::error!("the disk does not grow: {}", report::chain(error)),
                }
                if let Some(client) = client {
                    let reply = result
                        .map_or_else(|error| Reply::Error(report::chain(&error)), |size| Reply::ok(&size));
                    self.reply(client, &reply);
                    self.answer_requests(client);
                }
                if std::mem::take(&mut self.measure_again) && !self.resizing {
                    self.resize(None, None);
                }
            }
        }
    }
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
