//! `stableblk --socket-path S --blk-file F`: serve a disk.

mod error;
mod lease;
mod open;
mod options;
mod resources;
mod serial;
mod unprotected;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};
use std::{io, thread};

pub use self::error::ServeError;
use self::lease::lease;
use self::open::{open_image, open_kernel_pi, open_namespace, open_protected, open_sidecar, own};
use self::options::BounceChoice;
#[cfg(feature = "bench-null")]
use self::options::DeviceChoice;
pub use self::options::ServeArgs;
use self::resources::{check_resources, memory_slots};
use self::serial::{default_serial, device_serial};
pub use self::unprotected::{Protected, UnprotectedError};
use super::storage::{Integrity, Storage};
use virtio::{DEVICE_ID_LEN, DiskLimits};

use crate::control::log_filter::LogFilter;
use crate::control::socket::{self, BoundSocket, Endpoint, SocketError};
use crate::control::{self, Chosen, ControlError, Role, SizeWatch, Supervision, Termination};
use crate::device::{
    self, BlockDevice, DeviceInfo, Namespace, NamespaceError, NvmePassthroughDevice, PlainDevice, StablePages,
};
use crate::guest::sigbus;
use crate::inbox::Inbox;
use crate::metrics::{Gauge, QueueMetrics};
use crate::session::{Choices, Offer};
use crate::storage::image::Holder;
use crate::worker::disk::{Bounce, Disk};
use crate::worker::range_lock::RangeLock;

/// What QEMU's back-end conventions ask `--print-capabilities` to print.
pub const CAPABILITIES: &str = r#"{
  "type": "block",
  "features": [
    "read-only",
    "blk-file"
  ]
}"#;

/// The control socket is for its owner alone.
const CONTROL_MODE: u32 = 0o600;
/// Serves until a signal, on the socket that was inherited if there is one. Nothing on disk changes
/// before everything needed has been found in order.
pub fn run(args: &ServeArgs, inherited: Option<Endpoint>, log: &LogFilter) -> Result<ExitCode, ServeError> {
    match run_as(args, Entrance { inherited, log }) {
        Err(ServeError::Image(error) | ServeError::Namespace(NamespaceError::Open(error))) if matches!(&error, crate::storage::error::ImageError::InUse { holder, .. } if *holder != Holder::Kernel) => {
            Err(ServeError::InUse(error))
        }
        outcome => outcome,
    }
}

fn run_as(args: &ServeArgs, entrance: Entrance<'_>) -> Result<ExitCode, ServeError> {
    let setup = |action| move |source| ServeError::Setup { action, source };
    if args.force && args.integrity != Integrity::None {
        return Err(ServeError::ForceAlone);
    }
    let mut termination = Termination::catch().map_err(setup("catch signals"))?;
    sigbus::catch().map_err(setup("catch SIGBUS"))?;
    check_resources(args)?;
    device::probe_io_uring().map_err(ServeError::IoUring)?;
    if Namespace::is_at(&args.blk_file) {
        return serve_namespace(args, entrance, &mut termination);
    }
    let image = open_image(args)?;
    let serial = args.serial.clone().map_or_else(|| default_serial(&image), Ok)?;
    let needed = StablePages::needed_by(image.file());
    // a socket that can be seen says that the disk will be served; a sidecar that is opened is marked dirty
    match Storage::choose(&image, &args.blk_file, &args.integrity)? {
        Storage::Plain => {
            let admission = unprotected::admit(args, &image)?;
            let doors = entrance.open(args)?;
            admission.enter(&image)?;
            let device = lease(args, PlainDevice::new(image), |args| {
                let image = open_image(args)?;
                unprotected::admit(args, &image)?.enter(&image)?;
                Ok(PlainDevice::new(image))
            });
            serve_device(args, device, needed, &serial, doors, &mut termination)
        }
        Storage::Sidecar(path) => {
            let sidecar = open_sidecar(args, &path, &image)?;
            let doors = Doors { sidecar: Some(path.clone()), ..entrance.open(args)? };
            let device = open_protected(args, image, sidecar, &path)?;
            let device = lease(args, device, move |args| {
                let image = open_image(args)?;
                let sidecar = open_sidecar(args, &path, &image)?;
                open_protected(args, image, sidecar, &path)
            });
            serve_device(args, device, needed, &serial, doors, &mut termination)
        }
        Storage::KernelPi(integrity) => {
            let device = open_kernel_pi(args, image, &integrity)?;
            let device = lease(args, device, move |args| open_kernel_pi(args, open_image(args)?, &integrity));
            let doors = entrance.open(args)?;
            serve_device(args, device, needed, &serial, doors, &mut termination)
        }
    }
}

/// Serves an NVMe namespace by its character device.
fn serve_namespace(
    args: &ServeArgs,
    entrance: Entrance<'_>,
    termination: &mut Termination,
) -> Result<ExitCode, ServeError> {
    if args.integrity != Integrity::Auto {
        return Err(ServeError::NamespaceWithIntegrity(args.blk_file.clone()));
    }
    let namespace = open_namespace(args)?;
    let (path, size, block_size) = (args.blk_file.clone(), namespace.capacity(), args.block_size);
    if size == 0 || !size.is_multiple_of(block_size.into()) {
        return Err(ServeError::BlockSize { path, size, block_size });
    }
    let serial = args.serial.clone().map_or_else(|| device_serial(namespace.file()), Ok)?;
    let device = own(args, NvmePassthroughDevice::new(namespace))?;
    let device = lease(args, device, |args| own(args, NvmePassthroughDevice::new(open_namespace(args)?)));
    let doors = entrance.open(args)?;
    serve_device(args, device, None, &serial, doors, termination)
}

/// Where we are asked for something.
#[derive(Debug)]
struct Doors<'a> {
    endpoint: Endpoint,
    control: Option<BoundSocket>,
    log: &'a LogFilter,
    /// To be watched beside the image.
    sidecar: Option<PathBuf>,
}

/// What there is of it before anything is opened.
#[derive(Debug)]
struct Entrance<'a> {
    inherited: Option<Endpoint>,
    log: &'a LogFilter,
}

impl<'a> Entrance<'a> {
    fn open(self, args: &ServeArgs) -> Result<Doors<'a>, SocketError> {
        let control =
            args.control.as_deref().map(|path| socket::bind(path, CONTROL_MODE, None)).transpose()?;
        let endpoint = match (self.inherited, &args.socket_path) {
            (Some(endpoint), _) => endpoint,
            (None, Some(path)) => {
                Endpoint::Bound(socket::bind(path, args.socket_mode, args.socket_group.as_deref())?)
            }
            (None, None) => return Err(SocketError::None),
        };
        Ok(Doors { endpoint, control, log: self.log, sidecar: None })
    }
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

fn serve_device<B: BlockDevice>(
    args: &ServeArgs,
    device: B,
    needed: Option<StablePages>,
    serial: &str,
    doors: Doors<'_>,
    termination: &mut Termination,
) -> Result<ExitCode, ServeError> {
    #[cfg(feature = "bench-null")]
    if args.device == DeviceChoice::Null {
        tracing::warn!("--device null: reads give zeros and writes are lost");
        return serve(args, device::null::NullDevice::new(device), needed, serial, doors, termination);
    }
    serve(args, device, needed, serial, doors, termination)
}

fn serve<B: BlockDevice>(
    args: &ServeArgs,
    device: B,
    needed: Option<StablePages>,
    serial: &str,
    doors: Doors<'_>,
    termination: &mut Termination,
) -> Result<ExitCode, ServeError> {
    let info = device.info().clone();
    let bounce = choose_bounce(args.bounce, &info, needed);
    let choices = Choices {
        num_queues: args.num_queues,
        queue_size: args.queue_size,
        block_size: args.block_size,
        read_only: args.read_only,
        memory_slots: memory_slots(args.num_queues),
    };
    let offer = Offer::new(&choices, &info);
    let mut padded = [0; DEVICE_ID_LEN];
    padded[..serial.len()].copy_from_slice(serial.as_bytes());
    let inboxes = (0..args.num_queues).map(|_| Inbox::new()).collect::<Result<_, _>>();
    let disk = Arc::new(Disk {
        device: Arc::new(device),
        locks: RangeLock::default(),
        inboxes: inboxes.map_err(|source| ServeError::Setup { action: "make eventfds", source })?,
        metrics: (0..args.num_queues).map(|_| QueueMetrics::default()).collect(),
        limits: DiskLimits::new(&offer.config, offer.features),
        negotiated: Gauge::default(),
        watch: crate::worker::watch::Watch::default(),
        serial: padded,
        bounce,
        poll: args.poll_us.limit(),
    });
    let Doors { endpoint, control, log, sidecar } = doors;
    let size = watch_storage(&args.blk_file, sidecar.as_deref());
    // all is ready when it is said
    tracing::info!(
        image = %args.blk_file.display(),
        bytes = info.capacity.get(),
        integrity = %info.protection.map_or("none".to_owned(), |protection| protection.to_string()),
        bounce = ?bounce,
        block_size = args.block_size,
        read_only = args.read_only,
        "serving"
    );
    let supervision = Supervision {
        socket: control,
        size,
        watchdog: (args.watchdog_seconds > 0).then(|| Duration::from_secs(args.watchdog_seconds.into())),
        log,
        chosen: Chosen { image: args.blk_file.display().to_string(), started: Instant::now() },
    };
    let ended = control::run(&disk, &offer, &endpoint, termination, supervision);
    if let Err(error @ ControlError::Hangs { .. }) = ended {
        // what still runs has the device open: to be recovered when it is served again
        return Err(ServeError::Control(error));
    }
    let closed = close(&disk.device)?;
    let closed = closed.map_err(|reason| ServeError::Close { path: args.blk_file.clone(), reason });
    if let (Err(_), Err(error)) = (&ended, &closed) {
        // of two failures only one can be returned
        tracing::error!("{}", crate::report::chain(error));
    }
    ended.map_err(ServeError::Control)?;
    closed.map(|()| ExitCode::SUCCESS)
}

/// Closes the device, for as long as a stop may take: its last syncs are the kernel's, which may wait for a device that is gone.
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

fn choose_bounce(choice: BounceChoice, info: &DeviceInfo, needed: Option<StablePages>) -> Bounce {
    let protected = info.protection.is_some();
    match (choice, needed) {
        (BounceChoice::Always, _) => Bounce::Always,
        (BounceChoice::Auto, _) if protected => Bounce::Always,
        (BounceChoice::Auto, Some(reason)) => {
            tracing::info!("bouncing every request, since the image needs stable pages: {reason}");
            Bounce::Always
        }
        (BounceChoice::Auto, None) => Bounce::WhenUnaligned,
        (BounceChoice::Never, _) => {
            if protected {
                tracing::warn!(
                    "--bounce never with protection information: a guest that rewrites pages under I/O will get guard errors"
                );
            } else if let Some(reason) = needed {
                tracing::warn!("--bounce never although the image needs stable pages: {reason}");
            }
            Bounce::WhenUnaligned
        }
    }
}
