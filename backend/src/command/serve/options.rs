//! The options of serving, and how they are parsed.

use std::os::fd::RawFd;
use std::path::PathBuf;
use std::time::Duration;

use clap::builder::RangedU64ValueParser;
use integrity::sidecar::{IntentMode, REGION_SIZE};
use virtio::DEVICE_ID_LEN;

use super::super::choose_device::Integrity;
use super::super::limit_args::parse_limits;
use super::super::parse_size;
use crate::control::protocol::SLOW_MS_MAX;
use crate::metrics::ONE_IN_DEFAULT;
use crate::worker::limits::Limits;
use crate::worker::{poller, wake_up_cost};

/// The largest ring that can be chosen, which is QEMU's own limit. The memory that a hostile driver
/// can make a queue keep grows with the square of this, to 16 MiB here: one indirect table of that
/// size for each entry.
const QUEUE_SIZE_MAX: u16 = 1024;
/// The longest time of polling that can be chosen, in microseconds.
const POLL_US_MAX: u64 = 1_000_000;
/// The least memory for tuples, in bytes.
const TUPLE_CACHE_MIN: u64 = 1 << 20;

/// `--bounce`
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum BounceChoice {
    /// Every request, if there is PI, or if the storage needs stable pages for checksums of its
    /// own.
    Auto,
    /// Every request.
    Always,
    /// No request that is aligned. With PI this shows the defect that stableblk prevents.
    Never,
}

/// `--intent`
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum IntentChoice {
    /// By regions of 1 MiB
    Region,
    /// By blocks
    Block,
}

impl From<IntentChoice> for IntentMode {
    fn from(choice: IntentChoice) -> Self {
        match choice {
            IntentChoice::Region => Self::Region,
            IntentChoice::Block => Self::Block,
        }
    }
}

/// `--device`
#[cfg(feature = "bench-null")]
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum DeviceChoice {
    /// The image does the transfers.
    Image,
    /// Transfers are dropped: the image gives only size, alignment and protection.
    Null,
}

/// The longest time of polling.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Poll {
    /// A multiple of the wake-up cost on this machine.
    Auto,
    /// A fixed time.
    Limit(Duration),
}

impl Poll {
    pub(super) fn limit(self) -> Duration {
        match self {
            Self::Limit(limit) => limit,
            Self::Auto => {
                let wake_up = wake_up_cost::measure().unwrap_or_default();
                let limit = poller::limit_for(wake_up);
                tracing::debug!(?wake_up, ?limit, "polling");
                limit
            }
        }
    }
}

/// Options of serving.
#[derive(Debug, Clone, clap::Args)]
pub struct ServeArgs {
    /// Listen on this Unix socket
    #[arg(long, value_name = "PATH", conflicts_with = "fd")]
    pub(super) socket_path: Option<PathBuf>,
    /// Use this open descriptor: a listening socket, or one connected to the front-end. Without
    /// --fd and --socket-path: the socket that systemd passed
    #[arg(long, value_name = "N")]
    pub(super) fd: Option<RawFd>,
    /// The image: a raw file, a block device, or an NVMe namespace's character device
    #[arg(long, value_name = "FILE")]
    pub(super) blk_file: PathBuf,
    /// Place of the protection information: auto (on the device, else FILE.pi), none, or a path
    #[arg(long, value_name = "auto|none|PATH", default_value = "auto", value_parser = parse_integrity)]
    pub(super) integrity: Integrity,
    /// With `--integrity none`, serve an image that is protected. Its sidecar is marked first, and
    /// is not used again
    #[arg(long)]
    pub(super) force: bool,
    /// Copy guest data into stable folios: auto (with protection information), always, never
    #[arg(long, value_enum, default_value_t = BounceChoice::Auto, hide_possible_values = true)]
    pub(super) bounce: BounceChoice,
    /// Most queues the front-end may use; unused queues cost nothing
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = RangedU64ValueParser::<u16>::new().range(1..=256))]
    pub(super) num_queues: u16,
    /// Largest ring accepted, in entries
    #[arg(long, value_name = "N", default_value_t = QUEUE_SIZE_MAX, value_parser = parse_queue_size)]
    pub(super) queue_size: u16,
    /// Refuse writes
    #[arg(long)]
    pub(super) read_only: bool,
    /// Serve the destination of a live migration, started by `-incoming` in QEMU: leave the image
    /// to the source until the guest runs here
    #[arg(long)]
    pub(super) incoming: bool,
    /// Logical block size the guest sees, in bytes
    #[arg(long, value_name = "512|4096", default_value = "512", value_parser = parse_block_size)]
    pub(super) block_size: u32,
    /// Serial number the guest sees, up to 20 bytes [default: from the image's UUID]
    #[arg(long, value_name = "STR", value_parser = parse_serial)]
    pub(super) serial: Option<String>,
    /// Permissions of the socket, octal
    #[arg(long, value_name = "MODE", default_value = "0660", value_parser = parse_mode)]
    pub(super) socket_mode: u32,
    /// Group of the socket, by name or number
    #[arg(long, value_name = "GROUP")]
    pub(super) socket_group: Option<String>,
    /// Report a queue on which nothing has finished for N seconds although requests are in flight;
    /// 0 turns this off
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = RangedU64ValueParser::<u32>::new().range(..=86_400))]
    pub(super) watchdog_seconds: u32,
    /// Listen for `stableblk ctl` on this Unix socket, from root and from the user of this process
    #[arg(long, value_name = "PATH")]
    pub(super) control: Option<PathBuf>,
    /// The intent that is made durable before a block changes, so that a crash leaves no block
    /// unreadable: the dirty bit of its region (fast), or its tag (a sync for each batch of writes,
    /// but a crash puts only blocks in flight in doubt)
    #[arg(long, value_enum, default_value_t = IntentChoice::Region)]
    pub(super) intent: IntentChoice,
    /// Memory for tuples, in bytes, or with a unit of powers of 1024
    #[arg(long, value_name = "SIZE", default_value = "64M", value_parser = parse_tuple_cache)]
    pub(super) tuple_cache: u64,
    /// The part of the image that may stay marked as written, in bytes, or with a unit of powers of
    /// 1024: after a crash as much is verified while the disk is served [default: an eighth of the
    /// image, from 16G to 512G]
    #[arg(long, value_name = "SIZE", value_parser = parse_doubt_limit)]
    pub(super) doubt_limit: Option<u64>,
    /// Limits of requests and bytes a second, over all queues: iops, bps, read-iops, write-iops,
    /// read-bps and write-bps, and burst, the time for which unused ones are saved (100ms); such as
    /// iops=500,write-bps=10M,burst=2s. `ctl limit` changes them
    #[arg(long, value_name = "LIMITS", value_parser = parse_limits)]
    pub(super) limit: Option<Limits>,
    /// Share the limits with all disks that name this file, which is made if there is none
    #[arg(long, value_name = "FILE")]
    pub(super) limit_group: Option<PathBuf>,
    /// Look at the data of one in N writes again when it has been written, to count writes whose
    /// data the guest changes meanwhile; 0 looks at none
    #[arg(long, value_name = "N", default_value_t = ONE_IN_DEFAULT)]
    pub(super) rewrite_check: u32,
    /// Log requests that take longer than N milliseconds, with their stages, and keep the ten
    /// slowest for `ctl status`; 0 times no request. `ctl slow-ms` changes it
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = RangedU64ValueParser::<u64>::new().range(..=SLOW_MS_MAX))]
    pub(super) slow_ms: u64,
    /// Longest time to poll for work before sleeping, in microseconds; 0 looks at the ring once;
    /// auto is twenty times the cost of waking a thread on this machine, measured at the start
    #[arg(long, value_name = "auto|N", default_value = "auto", value_parser = parse_poll)]
    pub(super) poll_us: Poll,
    /// The device for transfers; "null" drops them, to measure the path alone
    #[cfg(feature = "bench-null")]
    #[arg(long, value_enum, default_value_t = DeviceChoice::Image, hide = true)]
    pub(super) device: DeviceChoice,
}

fn parse_integrity(text: &str) -> Result<Integrity, String> {
    Ok(match text {
        "" => return Err("an empty path; say auto, none or the sidecar's path".to_owned()),
        "auto" => Integrity::Auto,
        "none" => Integrity::None { give_up_sidecar: false },
        path => Integrity::Path(path.into()),
    })
}

fn parse_poll(text: &str) -> Result<Poll, String> {
    if text == "auto" {
        return Ok(Poll::Auto);
    }
    let us = text.parse().ok().filter(|us| *us <= POLL_US_MAX);
    us.map(|us| Poll::Limit(Duration::from_micros(us)))
        .ok_or_else(|| format!("neither auto nor 0 to {POLL_US_MAX}"))
}

fn parse_queue_size(text: &str) -> Result<u16, String> {
    let size =
        text.parse().ok().filter(|size: &u16| size.is_power_of_two() && (2..=QUEUE_SIZE_MAX).contains(size));
    size.ok_or_else(|| format!("not a power of two from 2 to {QUEUE_SIZE_MAX}"))
}

fn parse_block_size(text: &str) -> Result<u32, String> {
    match text {
        "512" => Ok(512),
        "4096" => Ok(4096),
        _ => Err("the guest's block size is 512 or 4096".to_owned()),
    }
}

fn parse_tuple_cache(text: &str) -> Result<u64, String> {
    let size = parse_size(text)?;
    if size < TUPLE_CACHE_MIN {
        return Err(format!("{size} bytes, less than the {TUPLE_CACHE_MIN} that the largest requests need"));
    }
    Ok(size)
}

fn parse_doubt_limit(text: &str) -> Result<u64, String> {
    let size = parse_size(text)?;
    if size < REGION_SIZE {
        return Err(format!("{size} bytes, less than one region of {REGION_SIZE}"));
    }
    Ok(size)
}

fn parse_serial(text: &str) -> Result<String, String> {
    if text.len() > DEVICE_ID_LEN {
        return Err(format!(
            "{} bytes, more than the {DEVICE_ID_LEN} that virtio-blk has room for",
            text.len()
        ));
    }
    Ok(text.to_owned())
}

fn parse_mode(text: &str) -> Result<u32, String> {
    let mode = u32::from_str_radix(text, 8).ok().filter(|mode| *mode <= 0o777);
    mode.ok_or_else(|| "not an octal mode such as 0660".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn polling_is_automatic_or_bounded() {
        assert_eq!(parse_poll("auto"), Ok(Poll::Auto));
        assert_eq!(parse_poll("0"), Ok(Poll::Limit(Duration::ZERO)));
        assert_eq!(parse_poll("1000000"), Ok(Poll::Limit(Duration::from_secs(1))));
        for wrong in ["1000001", "-1", "fast", ""] {
            assert_eq!(parse_poll(wrong).unwrap_err(), "neither auto nor 0 to 1000000", "{wrong:?}");
        }
        assert!((32..=1000).contains(&Poll::Auto.limit().as_micros()));
    }
}
