//! The checked configuration of serving. It is made once from the command line; nothing after it
//! sees the options themselves.

use std::path::PathBuf;
use std::time::Duration;

use integrity::sidecar::IntentMode;

use super::error::ServeError;
#[cfg(feature = "bench-null")]
use super::options::DeviceChoice;
use super::options::{BounceChoice, Poll, ServeArgs};
use super::sockets::{EndpointConfig, SocketConfig};
use crate::command::choose_device::Integrity;
use crate::device::SidecarOptions;
use crate::storage::image::Access;
use crate::worker::limits::Limits;

/// Everything that serving was asked for.
#[derive(Debug)]
pub struct Config {
    /// The storage, and how it is opened.
    pub(super) storage: StorageConfig,
    /// The sockets of front-end and control.
    pub(super) sockets: SocketConfig,
    /// The choices that all workers of the disk share.
    pub(super) disk: DiskConfig,
    /// After how long a queue without progress is reported; none: never.
    pub(super) watchdog: Option<Duration>,
    /// Whether transfers are dropped, to measure the path alone.
    #[cfg(feature = "bench-null")]
    pub(super) drop_transfers: bool,
}

/// The storage of a disk, and how it is opened.
#[derive(Debug, Clone)]
pub(super) struct StorageConfig {
    /// The image, or the character device of a namespace.
    pub(super) path: PathBuf,
    /// The place of the tuples.
    pub(super) integrity: Integrity,
    /// The guest's block size, in bytes.
    pub(super) block_size: u32,
    /// Whether writes are refused.
    pub(super) read_only: bool,
    /// Whether another host still has the storage and hands it over in a migration.
    pub(super) incoming: bool,
    /// The intents that the sidecar makes durable before a block changes.
    pub(super) intent: IntentMode,
    /// Memory for tuples, in bytes.
    pub(super) tuple_cache: usize,
    /// The part of the image, in bytes, that a crash may leave in doubt; `None` for the default.
    pub(super) doubt_limit: Option<u64>,
}

/// The choices that all workers of a disk share.
#[derive(Debug)]
pub(super) struct DiskConfig {
    /// Number of queues that the front-end may use.
    pub(super) num_queues: u16,
    /// Largest ring accepted, in entries.
    pub(super) queue_size: u16,
    /// The serial number, at most as long as virtio-blk has room for; none for a default.
    pub(super) serial: Option<String>,
    /// Which requests are copied into stable folios.
    pub(super) bounce: BounceChoice,
    /// How long workers poll.
    pub(super) poll: Poll,
    /// Looks again at one in this number of writes; 0: at none.
    pub(super) rewrite_check: u32,
    /// The time after which a request is slow, in milliseconds; 0: requests are not timed.
    pub(super) slow_ms: u64,
    /// The limits of requests and bytes a second to begin with.
    pub(super) limits: Option<Limits>,
    /// The file of the group that the disk shares its limits with.
    pub(super) limit_group: Option<PathBuf>,
}

impl Config {
    /// Checks the options, and takes over the socket that was inherited, if there is one.
    ///
    /// # Safety
    ///
    /// This process has opened no descriptor itself, and calls this once. A descriptor that is open
    /// was inherited then, and has no other owner.
    #[expect(unsafe_code, reason = "takes over a descriptor by its number")]
    pub unsafe fn new(args: ServeArgs) -> Result<Self, ServeError> {
        // SAFETY: the caller keeps the contract, which is the same.
        let endpoint =
            unsafe { EndpointConfig::find(args.fd, args.socket_path, args.socket_mode, args.socket_group) }?;
        let integrity = match args.integrity {
            Integrity::None { .. } => Integrity::None { give_up_sidecar: args.force },
            Integrity::Auto | Integrity::Path(_) if args.force => return Err(ServeError::ForceAlone),
            integrity => integrity,
        };
        let storage = StorageConfig {
            path: args.blk_file,
            integrity,
            block_size: args.block_size,
            read_only: args.read_only,
            incoming: args.incoming,
            intent: args.intent.into(),
            tuple_cache: usize::try_from(args.tuple_cache).unwrap_or(usize::MAX),
            doubt_limit: args.doubt_limit,
        };
        Ok(Self {
            storage,
            sockets: SocketConfig { endpoint, control: args.control },
            disk: DiskConfig {
                num_queues: args.num_queues,
                queue_size: args.queue_size,
                serial: args.serial,
                bounce: args.bounce,
                poll: args.poll_us,
                rewrite_check: args.rewrite_check,
                slow_ms: args.slow_ms,
                limits: args.limit,
                limit_group: args.limit_group,
            },
            watchdog: (args.watchdog_seconds > 0).then(|| Duration::from_secs(args.watchdog_seconds.into())),
            #[cfg(feature = "bench-null")]
            drop_transfers: args.device == DeviceChoice::Null,
        })
    }
}

impl StorageConfig {
    /// How a sidecar is served.
    pub(super) fn sidecar_options(&self) -> SidecarOptions {
        SidecarOptions { mode: self.intent, cache_bytes: self.tuple_cache, doubt_limit: self.doubt_limit }
    }

    /// How the image or the namespace is opened and locked.
    pub(super) fn access(&self) -> Access {
        match (self.read_only, self.incoming) {
            // readers do not exclude each other
            (true, _) => Access::Read,
            (false, true) => Access::Preview,
            (false, false) => Access::ReadWrite,
        }
    }
}
