//! The control thread: one epoll set, and what each of its events is for.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::clients::Clients;
use super::epoll::EpollSet;
use super::error::ControlError;
use super::front_ends::FrontEnds;
use super::jobs::Jobs;
use super::log_filter::LogFilter;
use super::protocol::ControlRequest;
use super::service_manager::ServiceManager;
use super::session_thread::SessionThread;
use super::size_watch::SizeWatch;
use super::socket::{BoundSocket, Endpoint};
use super::status::{Connected, Served};
use super::stopped_work::JobResult;
use super::termination::Termination;
use super::token::{FIRST_CLIENT, Token};
use super::watchdog::Watchdog;
use super::whole_disk::{Freeze, Resizing};
use crate::device::BlockDevice;
use crate::report;
use crate::session::Offer;
use crate::worker::beside::scrub;
use crate::worker::disk::Disk;

/// The parts of control that are chosen when the process is started.
#[derive(Debug)]
pub struct Supervision<'a> {
    /// The control socket, if there is one.
    pub socket: Option<BoundSocket>,
    /// The watch for images that have grown, where there can be one.
    pub size: Option<SizeWatch>,
    /// After how long a queue without progress is reported; none: never.
    pub watchdog: Option<Duration>,
    /// The filter of the log.
    pub log: &'a LogFilter,
    /// The image, for the status.
    pub served: Served,
    /// The service manager.
    pub manager: ServiceManager,
}

/// The state of the control thread.
#[derive(Debug)]
pub(super) struct ControlThread<'a, B> {
    pub(super) epoll: EpollSet,
    pub(super) disk: &'a Arc<Disk<B>>,
    pub(super) front_ends: FrontEnds<'a, B>,
    pub(super) clients: Option<Clients>,
    pub(super) jobs: Jobs<JobResult>,
    pub(super) log: &'a LogFilter,
    pub(super) served: Served,
    pub(super) size: Option<SizeWatch>,
    watchdog: Watchdog,
    manager: ServiceManager,
    pub(super) freeze: Freeze,
    pub(super) resizing: Resizing,
    /// A client, and its request that has to wait for the resize under way.
    pub(super) asked_meanwhile: Option<(u64, ControlRequest)>,
    /// The storage may have changed during the resize.
    pub(super) measure_again: bool,
}

/// Serves one front-end after another until a signal, or until the only one has left.
pub fn run<B: BlockDevice>(
    disk: &Arc<Disk<B>>,
    offer: &Offer,
    endpoint: &Endpoint,
    termination: &mut Termination,
    supervision: Supervision<'_>,
) -> Result<(), ControlError> {
    supervision.manager.ready();
    let front_ends = FrontEnds::new(disk, offer, endpoint)?;
    let mut control = ControlThread::new(disk, front_ends, supervision)?;
    control.epoll.watch(termination.as_fd(), Token::Termination.into())?;
    control.finish_growth();
    if let Err(error) = scrub::resume(disk) {
        tracing::error!("the scrub does not continue: {}", report::chain(&error));
    }
    control.front_ends.start(&control.epoll)?;
    loop {
        control.report_status();
        let event = control.epoll.wait(control.rest())?;
        control.do_what_is_due();
        let Some((token, gone)) = event else {
            continue;
        };
        match Token::of(token) {
            Some(Token::Termination) => {
                termination.clear();
                tracing::info!("stopping");
                control.manager.stopping();
                return control.front_ends.stop();
            }
            Some(Token::Listener) => control.front_ends.accept(&control.epoll)?,
            Some(Token::Session) => {
                if !control.front_ends.end_session(&control.epoll)? {
                    return Ok(());
                }
            }
            Some(Token::Control) => {
                if let Some(clients) = &mut control.clients {
                    clients.accept(&control.epoll);
                }
            }
            Some(Token::Results) => control.take_results(),
            Some(Token::Storage) => control.storage_changed(),
            Some(Token::Watchdog) => control.watchdog.woken(&control.disk.watch, Instant::now()),
            None => control.attend(token, gone),
        }
    }
}

impl<'a, B: BlockDevice> ControlThread<'a, B> {
    fn new(
        disk: &'a Arc<Disk<B>>,
        front_ends: FrontEnds<'a, B>,
        supervision: Supervision<'a>,
    ) -> io::Result<Self> {
        let Supervision { socket, size, watchdog, log, served, manager } = supervision;
        let epoll = EpollSet::new()?;
        let clients = socket
            .map(|socket| Clients::new(socket, &epoll, Token::Control.into(), FIRST_CLIENT))
            .transpose()?;
        let jobs = Jobs::new()?;
        epoll.watch(jobs.results().wake_fd(), Token::Results.into())?;
        if let Some(size) = &size {
            epoll.watch(size.as_fd(), Token::Storage.into())?;
        }
        let watchdog = Watchdog::new(watchdog, &disk.watch, disk.metrics.len())?;
        if let Some(wake) = disk.watch.wake_fd() {
            epoll.watch(wake, Token::Watchdog.into())?;
        }
        Ok(Self {
            epoll,
            disk,
            front_ends,
            clients,
            jobs,
            log,
            served,
            size,
            watchdog,
            manager,
            freeze: Freeze::default(),
            resizing: Resizing::No,
            asked_meanwhile: None,
            measure_again: false,
        })
    }

    /// The time until something is due without an event; none: nothing is.
    fn rest(&self) -> Option<Duration> {
        let now = Instant::now();
        let clients = self.clients.as_ref().and_then(|clients| clients.rest(now));
        let freeze = self.freeze.rest(now);
        let due =
            [self.watchdog.rest(now), self.front_ends.rest(now), clients, freeze, self.manager.rest(now)];
        due.into_iter().flatten().min()
    }

    /// Looks at the queues, and accepts front-ends and clients again, where it is time for that.
    fn do_what_is_due(&mut self) {
        let now = Instant::now();
        self.watchdog.look(&self.disk.watch, &self.disk.metrics, &self.disk.inboxes, now);
        self.thaw_in_time(now);
        self.front_ends.accept_again(&self.epoll, now);
        if let Some(clients) = &mut self.clients {
            clients.accept_again(&self.epoll, now);
        }
        let blocked = self.watchdog.blocked_worker(now);
        let blocked = blocked.map(|queue| format!("the worker of queue {queue} is blocked"));
        self.manager.beat(now, blocked.as_deref());
    }

    /// Reports to the service manager how the disk is served.
    fn report_status(&mut self) {
        let connected = self.front_ends.session().map(SessionThread::connected);
        let frontend = match connected {
            None => "waiting for a front-end".to_owned(),
            Some(Connected { pid: Some(pid), .. }) => format!("front-end with pid {pid} connected"),
            Some(Connected { pid: None, .. }) => "front-end connected".to_owned(),
        };
        let stuck = self.disk.metrics.iter().position(|metrics| metrics.stuck_s.get() > 0);
        let stuck = stuck.map_or_else(String::new, |queue| format!("; queue {queue} makes no progress"));
        self.manager.set_status(format!("serving {}: {frontend}{stuck}", self.served.image));
    }
}
