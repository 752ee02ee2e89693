//! Serving a disk by the device that was chosen for it: from the two steps of opening to the close.

use std::path::Path;
use std::process::ExitCode;
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};
use std::{io, mem, thread};

use virtio::{DEVICE_ID_LEN, DiskLimits};

use super::bounce::choose_bounce;
use super::config::{Config, DiskConfig, StorageConfig};
use super::error::ServeError;
use super::lease::lease;
use super::open_device::{OpenDevice, OpenStorage};
use super::resources::memory_slots;
use super::sockets::Sockets;
use crate::control::log_filter::LogFilter;
use crate::control::{self, ControlError, Role, Served, ServiceManager, SizeWatch, Supervision, Termination};
use crate::device::{BlockDevice, DeviceInfo};
use crate::inbox::Inbox;
use crate::metrics::{DiskMetrics, Gauge, QueueMetrics};
use crate::session::{Choices, Offer};
use crate::worker::beside::Beside;
use crate::worker::disk::{Bounce, Disk};
use crate::worker::limits::Limiter;
use crate::worker::range_lock::RangeLock;
use crate::worker::watch::Watch;

/// The parts of the process that do not depend on the disk.
#[derive(Debug)]
pub(super) struct Process<'a> {
    /// The filter of the log.
    pub(super) log: &'a LogFilter,
    /// The signals that end the process.
    pub(super) termination: Termination,
}

/// Opens the device over `storage` by `opener`, and serves until a signal.
pub(super) fn serve_disk<O: OpenDevice>(
    config: Config,
    opener: O,
    storage: O::Storage,
    process: Process<'_>,
) -> Result<ExitCode, ServeError> {
    let Config { storage: storage_config, sockets, disk: disk_config, watchdog, .. } = config;
    let Process { log, mut termination } = process;
    let serial = disk_config.serial.clone().map_or_else(|| storage.default_serial(), Ok)?;
    let stable_pages = storage.needs_stable_pages();
    let limiter = limiter(&disk_config)?;
    let prepared = opener.prepare(&storage_config, storage)?;
    // A socket that can be seen says that the disk will be served. So sockets are made after all
    // checks, and before a sidecar is marked dirty.
    let Sockets { endpoint, control } = sockets.open()?;
    let device = opener.commit(&storage_config, prepared)?;
    let (name, sidecar) = (opener.name(), opener.sidecar().map(ToOwned::to_owned));
    let device = lease(opener, storage_config.clone(), device);
    let offer = offer(&storage_config, &disk_config, device.info());
    let bounce = choose_bounce(disk_config.bounce, device.info(), stable_pages);
    let disk = Arc::new(new_disk(device, &disk_config, &offer, &serial, bounce, limiter)?);
    let size = watch_storage(&storage_config.path, sidecar.as_deref());
    // logged when all is ready
    log_start(&storage_config, &disk);
    let supervision = Supervision {
        socket: control,
        size,
        watchdog,
        log,
        manager: ServiceManager::connect(),
        served: Served {
            image: storage_config.path.display().to_string(),
            device: name,
            sidecar: sidecar.map(|path| path.display().to_string()),
            limit_group: disk_config.limit_group.as_ref().map(|path| path.display().to_string()),
            since: Instant::now(),
        },
    };
    let ended = control::run(&disk, &offer, &endpoint, &mut termination, supervision);
    let ended = leave(ended, &disk.beside);
    end(ended, &disk.device, &storage_config.path)
}

fn offer(storage: &StorageConfig, disk: &DiskConfig, info: &DeviceInfo) -> Offer {
    let choices = Choices {
        num_queues: disk.num_queues,
        queue_size: disk.queue_size,
        block_size: storage.block_size,
        read_only: storage.read_only,
        memory_slots: memory_slots(disk.num_queues),
    };
    Offer::new(&choices, info)
}

fn new_disk<B: BlockDevice>(
    device: B,
    config: &DiskConfig,
    offer: &Offer,
    serial: &str,
    bounce: Bounce,
    limiter: Limiter,
) -> Result<Disk<B>, ServeError> {
    let mut padded = [0; DEVICE_ID_LEN];
    padded[..serial.len()].copy_from_slice(serial.as_bytes());
    let events = DiskMetrics::default();
    events.rewrites.set_one_in(config.rewrite_check);
    let eventfds = |source| ServeError::Setup { action: "make eventfds", source };
    events.slow.set_limit(config.slow_ms);
    let inboxes = (0..config.num_queues).map(|_| Inbox::new()).collect::<Result<_, _>>();
    Ok(Disk {
        device: Arc::new(device),
        locks: RangeLock::default(),
        inboxes: inboxes.map_err(eventfds)?,
        beside: Beside::new().map_err(eventfds)?,
        metrics: (0..config.num_queues).map(|_| QueueMetrics::default()).collect(),
        events,
        limits: DiskLimits::new(&offer.config, offer.features),
        limiter,
        negotiated: Gauge::default(),
        watch: Watch::default(),
        serial: padded,
        bounce,
        poll: config.poll.limit(),
    })
}

/// The limits that the disk begins with. Those of a group stay as they are unless others are given.
fn limiter(config: &DiskConfig) -> Result<Limiter, ServeError> {
    let queues = config.num_queues.into();
    let limiter = match &config.limit_group {
        Some(path) => Limiter::of_group(queues, path)?,
        None => Limiter::none(queues),
    };
    if config.limits.is_some() {
        limiter.set(config.limits);
    }
    Ok(limiter)
}

fn log_start<B: BlockDevice>(config: &StorageConfig, disk: &Disk<B>) {
    let info = disk.device.info();
    tracing::info!(
        image = %config.path.display(),
        bytes = info.capacity.get(),
        integrity = %info.protection.map_or("none".to_owned(), |protection| protection.to_string()),
        bounce = ?disk.bounce,
        block_size = config.block_size,
        read_only = config.read_only,
        "serving"
    );
}

/// Watches for a larger image, and for files that are deleted or replaced. Without the watch, only
/// `ctl resize` makes the disk grow.
fn watch_storage(image: &Path, sidecar: Option<&Path>) -> Option<SizeWatch> {
    let is_file = image.metadata().is_ok_and(|meta| meta.is_file());
    let watch = if is_file {
        let sidecar = sidecar.map(|sidecar| (Role::Sidecar, sidecar));
        let files: Vec<_> = [(Role::Image, image)].into_iter().chain(sidecar).collect();
        SizeWatch::of_files(&files)
    } else {
        SizeWatch::of_devices()
    };
    watch.inspect_err(|error| tracing::warn!("cannot watch the image's size: {error}")).ok()
}

/// Ends the work beside the queues, within the time that a stop may take.
fn leave(ended: Result<(), ControlError>, beside: &Beside) -> Result<(), ControlError> {
    let limit = if ended.is_ok() { control::STOP_LIMIT } else { Duration::ZERO };
    let closed = beside.close(limit).map(mem::forget);
    let hangs = |_| {
        let what = "the scrub has not stopped".to_owned();
        ControlError::Hangs { what, seconds: limit.as_secs() }
    };
    ended.and(closed.map_err(hangs))
}

/// Closes the device, unless something still uses it, and combines the two results.
fn end<B: BlockDevice>(
    ended: Result<(), ControlError>,
    device: &Arc<B>,
    path: &Path,
) -> Result<ExitCode, ServeError> {
    if let Err(error @ ControlError::Hangs { .. }) = ended {
        // a thread that still runs has the device open: it is recovered when it is served again
        return Err(ServeError::Control(error));
    }
    let closed = close(device)?.map_err(|reason| ServeError::Close { path: path.to_owned(), reason });
    if let (Err(_), Err(error)) = (&ended, &closed) {
        // of two failures only one can be returned
        tracing::error!("{}", crate::report::chain(error));
    }
    ended.map_err(ServeError::Control)?;
    closed.map(|()| ExitCode::SUCCESS)
}

/// Closes the device within the time that a stop may take. The kernel does its last syncs, and may
/// wait for a device that is gone.
fn close<B: BlockDevice>(device: &Arc<B>) -> Result<io::Result<()>, ServeError> {
    let (done, closed) = mpsc::channel();
    let closing = device.clone();
    let thread = thread::Builder::new().name("close".to_owned()).spawn(move || done.send(closing.close()));
    if thread.is_err() {
        return Ok(device.close());
    }
    closed.recv_timeout(control::STOP_LIMIT).map_err(|_| {
        let what = "the last sync has not ended".to_owned();
        ServeError::Control(ControlError::Hangs { what, seconds: control::STOP_LIMIT.as_secs() })
    })
}
