//! `stableblk ctl SOCKET ...`: sends a request to a running disk.

mod error;
mod scrub;
mod show;
mod snapshot;

use std::fmt::{self, Display};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::builder::RangedU64ValueParser;
use clap::{Args, Subcommand};
use indicatif::BinaryBytes;
use serde::Serialize;
use serde_json::Value;

pub use self::error::CtlError;
use self::error::read;
use self::scrub::ScrubAction;
use self::snapshot::copy_served;
use super::check::LbaRange;
use super::disks::FoundDisk;
use super::limit_args::parse_limits;
use super::openmetrics::{self, MetricsFormat};
use super::repair::parse_lbas;
use super::{parse_size, print};
use crate::control::client::{ClientError, ask};
use crate::control::damage::DamageReport;
use crate::control::protocol::{
    AcceptResult, ControlRequest, DiskStatus, FREEZE_SECONDS_DEFAULT, FREEZE_SECONDS_MAX, FreezeResult,
    LimitsStatus, ResizeResult, SLOW_MS_MAX, ThawResult,
};
use crate::control::scrub::ScrubStatus;

/// Ask a running disk by its control socket, which `--control` names
///
/// Exit status: 0 done, 1 refused or failed, 2 wrong usage, 3 no reply from the socket, 4 a scrub
/// that was waited for has found blocks.
#[derive(Debug, Clone, Args)]
pub struct CtlArgs {
    /// The control socket
    #[arg(value_name = "SOCKET")]
    socket: PathBuf,
    #[command(subcommand)]
    command: CtlCommand,
    /// Print the reply as JSON
    #[arg(long, global = true)]
    json: bool,
    /// The longest time to wait for the reply, after which the exit status is 3. The disk carries
    /// out a request that it has got [default: 30; for resize, flush, drain, accept, freeze and
    /// thaw: 3600]
    #[arg(long, global = true, value_name = "SECONDS", value_parser = RangedU64ValueParser::<u64>::new().range(1..=LIMIT_MAX))]
    timeout: Option<u64>,
}

/// The greatest limit that can be given, in seconds: a year.
const LIMIT_MAX: u64 = 366 * 24 * 3600;
/// The limit for requests that are answered at once.
const LIMIT: Duration = Duration::from_secs(30);
/// The limit for requests that wait for the storage, or for the guest's requests.
const LONG_LIMIT: Duration = Duration::from_secs(3600);

impl CtlArgs {
    fn limit(&self) -> Duration {
        let default = match self.command {
            CtlCommand::Copy { .. } => LONG_LIMIT,
            CtlCommand::Ask(ref action) => action.limit(),
        };
        self.timeout.map_or(default, Duration::from_secs)
    }
}

impl Action {
    fn limit(&self) -> Duration {
        match self {
            Self::Status
            | Self::Metrics
            | Self::Limit { .. }
            | Self::SlowMs { .. }
            | Self::Damage
            | Self::Scrub { .. }
            | Self::LogLevel { .. } => LIMIT,
            Self::Resize { .. }
            | Self::Flush
            | Self::Drain
            | Self::Accept { .. }
            | Self::Freeze { .. }
            | Self::Thaw => LONG_LIMIT,
        }
    }
}

#[derive(Debug, Clone, Subcommand)]
enum CtlCommand {
    #[command(flatten)]
    Ask(Action),
    /// Copy the disk while it is served, and verify each block of the copy
    ///
    /// The disk is frozen while its files are cloned, so the file system has to share blocks
    /// (a reflink), as XFS and btrfs do. The copy has a UUID of its own. Exit status: 1 also when
    /// blocks of the copy do not match.
    Copy {
        /// The file to make; its sidecar is COPY.pi
        #[arg(value_name = "COPY")]
        copy: PathBuf,
    },
}

/// A request to the disk.
#[derive(Debug, Clone, Subcommand)]
enum Action {
    /// Show the status of the disk: the front-end that is connected, and what each queue does
    Status,
    /// Print the metrics of the disk in the format of OpenMetrics; `stableblk exporter` serves
    /// those of all disks
    Metrics,
    /// Make the disk larger while it is used; the guest is notified
    Resize {
        /// The new size in bytes, or with a unit of powers of 1024 [default: the size of the image,
        /// which has grown already]
        #[arg(long, value_parser = parse_size)]
        size: Option<u64>,
    },
    /// Make all completed writes durable, and wait for that
    Flush,
    /// Take no requests until all that were taken are answered, then continue
    Drain,
    /// Freeze the disk for a snapshot of image and sidecar: complete what the guest has asked for,
    /// make it durable, close the sidecar, and take no requests until `thaw`
    ///
    /// The guest's requests wait meanwhile. The disk continues by itself after some time; then
    /// `thaw` fails, since the snapshot may be of no one moment.
    Freeze {
        /// The longest time, 1 to 600 seconds
        #[arg(long, default_value_t = FREEZE_SECONDS_DEFAULT, value_parser = RangedU64ValueParser::<u64>::new().range(1..=FREEZE_SECONDS_MAX))]
        seconds: u64,
    },
    /// Continue after `freeze`
    Thaw,
    /// Show the blocks whose verification has failed, and which were not written since
    Damage,
    /// Accept the present data of blocks that do not match their tuples
    Accept {
        /// The blocks: one such as 5, or the first and the last of some such as 5-9
        #[arg(long, value_name = "A-B", value_parser = parse_lbas)]
        lba: LbaRange,
    },
    /// Verify the whole disk while it is used
    Scrub {
        #[command(subcommand)]
        action: ScrubAction,
    },
    /// Change the limits of requests and bytes a second, in place of all that there were
    Limit {
        /// none, or limits such as iops=500 write-bps=10M burst=2s; as those of `--limit`
        #[arg(value_name = "LIMITS", required = true, num_args = 1.., value_parser = parse_limit_word)]
        limits: Vec<String>,
    },
    /// Change from when on a request is slow: it is logged with its stages, and `status` has the
    /// ten slowest
    SlowMs {
        /// The time in milliseconds; 0 times no request
        #[arg(value_name = "N", value_parser = RangedU64ValueParser::<u64>::new().range(..=SLOW_MS_MAX))]
        ms: u64,
    },
    /// Change the filter of the log
    LogLevel {
        /// error, warn, info, debug, trace, off, or a filter as in `RUST_LOG`
        #[arg(value_name = "FILTER")]
        filter: String,
    },
}

/// Sends the request, and prints the reply.
pub fn run(args: &CtlArgs) -> Result<ExitCode, CtlError> {
    match &args.command {
        CtlCommand::Ask(action) => request(args, action),
        CtlCommand::Copy { copy } => {
            let report = copy_served(&args.socket, copy, args.limit())?;
            print(&report, args.json)?;
            Ok(report.exit_code())
        }
    }
}

fn request(args: &CtlArgs, action: &Action) -> Result<ExitCode, CtlError> {
    let request = request_of(action)?;
    let mut result = ask(&args.socket, &request, args.limit())?;
    let mut exit = ExitCode::SUCCESS;
    if let Action::Scrub { action: ScrubAction::Start { wait: true, .. } } = action {
        (result, exit) = scrub::wait(&args.socket, args.limit())?;
    }
    if args.json {
        print(&Raw(result), true)?;
        return Ok(exit);
    }
    match *action {
        Action::Metrics => print(&metrics_of(args, result)?, false)?,
        Action::Status => print(&read::<DiskStatus>(&args.socket, result)?, false)?,
        Action::Resize { .. } => print(&read::<ResizeResult>(&args.socket, result)?, false)?,
        Action::Freeze { .. } => print(&read::<FreezeResult>(&args.socket, result)?, false)?,
        Action::Thaw => print(&read::<ThawResult>(&args.socket, result)?, false)?,
        Action::Damage => print(&read::<DamageReport>(&args.socket, result)?, false)?,
        Action::Accept { .. } => print(&read::<AcceptResult>(&args.socket, result)?, false)?,
        Action::Scrub { .. } => print(&read::<ScrubStatus>(&args.socket, result)?, false)?,
        Action::Drain => print(&"drained\n", false)?,
        Action::Flush => print(&"flushed\n", false)?,
        Action::SlowMs { ms: 0 } => print(&"requests are not timed\n", false)?,
        Action::SlowMs { ms } => print(&format!("requests of more than {ms} ms are slow\n"), false)?,
        Action::Limit { .. } => match read::<Option<LimitsStatus>>(&args.socket, result)? {
            Some(limits) => print(&format!("{limits}\n"), false)?,
            None => print(&"no limits\n", false)?,
        },
        Action::LogLevel { ref filter } => print(&format!("logging {filter}\n"), false)?,
    }
    Ok(exit)
}

fn request_of(action: &Action) -> Result<ControlRequest, CtlError> {
    Ok(match action {
        Action::Status | Action::Metrics => ControlRequest::Status,
        Action::Resize { size } => ControlRequest::Resize { size: *size },
        Action::Flush => ControlRequest::Flush,
        Action::Drain => ControlRequest::Drain,
        Action::Freeze { seconds } => ControlRequest::Freeze { seconds: *seconds },
        Action::Thaw => ControlRequest::Thaw,
        Action::Damage => ControlRequest::Damage,
        Action::Accept { lba } => ControlRequest::Accept { first_lba: lba.first_lba, last_lba: lba.last_lba },
        Action::Scrub { action } => action.request(),
        Action::LogLevel { filter } => ControlRequest::LogLevel { filter: filter.clone() },
        Action::SlowMs { ms } => ControlRequest::SlowMs { ms: *ms },
        Action::Limit { limits } if limits == &["none"] => ControlRequest::Limit { limits: None },
        Action::Limit { limits } => {
            let limits = parse_limits(&limits.join(",")).map_err(ClientError::Refused)?;
            ControlRequest::Limit { limits: Some(limits) }
        }
    })
}

/// Checks a word of the limits, for clap.
fn parse_limit_word(text: &str) -> Result<String, String> {
    if text != "none" && !text.starts_with("burst=") {
        parse_limits(text)?;
    }
    Ok(text.to_owned())
}

fn metrics_of(args: &CtlArgs, result: Value) -> Result<String, CtlError> {
    let disk = FoundDisk::new(&args.socket, read(&args.socket, result)?);
    Ok(openmetrics::metrics_of(vec![disk], MetricsFormat::OpenMetrics)?)
}

/// A reply as it was received.
#[derive(Debug, Serialize)]
struct Raw(Value);

impl Display for Raw {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.0)
    }
}

impl Display for FreezeResult {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { seconds, took_ms } = self;
        writeln!(f, "frozen for at most {seconds} s; it took {took_ms} ms")
    }
}

impl Display for ThawResult {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "thawed; the guest's requests had to wait for {} ms", self.stalled_ms)
    }
}

impl Display for AcceptResult {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut ranges = Vec::new();
        for lba in &self.accepted {
            LbaRange::add(&mut ranges, *lba);
        }
        for range in ranges {
            writeln!(f, "{range}: accepted as it is")?;
        }
        writeln!(f, "{} blocks accepted, {} matched before", self.accepted.len(), self.matching)
    }
}

impl Display for ResizeResult {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { bytes, grown } = *self;
        let did = if grown { "grown to" } else { "not changed:" };
        writeln!(f, "{did} {} ({bytes} bytes)", BinaryBytes(bytes))
    }
}
