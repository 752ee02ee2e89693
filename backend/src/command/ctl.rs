//! `stableblk ctl SOCKET ...`: sends a request to a running disk.

use std::fmt::{self, Display};
use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, Subcommand};
use indicatif::{BinaryBytes, HumanDuration};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use thiserror::Error;

use super::{parse_size, print};
use crate::control::protocol::{
    ControlReply, ControlRequest, CrashDoubtStatus, DiskStatus, FREEZE_SECONDS_DEFAULT, FREEZE_SECONDS_MAX,
    FreezeResult, Latency, ProgramStatus, QueueStatus, RequestKinds, ResizeResult, ThawResult,
};

/// Ask a running disk by its control socket, which `--control` names
///
/// Exit status: 0 done, 1 refused or failed, 2 wrong usage, 3 no reply from the socket.
#[derive(Debug, Clone, Args)]
pub struct CtlArgs {
    /// The control socket
    #[arg(value_name = "SOCKET")]
    socket: PathBuf,
    #[command(subcommand)]
    action: Action,
    /// Print the reply as JSON
    #[arg(long, global = true)]
    json: bool,
}

#[derive(Debug, Clone, Subcommand)]
enum Action {
    /// Show the status of the disk: the front-end that is connected, and what each queue does
    Status,
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
        #[arg(long, default_value_t = FREEZE_SECONDS_DEFAULT, value_parser = clap::value_parser!(u64).range(1..=FREEZE_SECONDS_MAX))]
        seconds: u64,
    },
    /// Continue after `freeze`
    Thaw,
    /// Change the filter of the log
    LogLevel {
        /// error, warn, info, debug, trace, off, or a filter as in `RUST_LOG`
        #[arg(value_name = "FILTER")]
        filter: String,
    },
}

/// Why there is no reply, or a refusal.
#[derive(Debug, Error)]
pub enum CtlError {
    /// No process listens on the socket.
    #[error("cannot reach {}: is the disk running, with `--control {}`?", path.display(), path.display())]
    Unreachable {
        /// The socket.
        path: PathBuf,
        /// The system's error.
        #[source]
        source: io::Error,
    },
    /// The reply is missing or incomplete.
    #[error("no reply from {}", path.display())]
    NoAnswer {
        /// The socket.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// The disk has refused the request.
    #[error("{0}")]
    Refused(String),
    /// The reply cannot be printed.
    #[error(transparent)]
    Output(#[from] crate::storage::error::ImageError),
}

impl CtlError {
    /// The exit status for the error.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Refused(_) | Self::Output(_) => 1,
            Self::Unreachable { .. } | Self::NoAnswer { .. } => 3,
        }
    }
}

/// Sends the request, and prints the reply.
pub fn run(args: &CtlArgs) -> Result<ExitCode, CtlError> {
    let request = match &args.action {
        Action::Status => ControlRequest::Status,
        Action::Resize { size } => ControlRequest::Resize { size: *size },
        Action::Flush => ControlRequest::Flush,
        Action::Drain => ControlRequest::Drain,
        Action::Freeze { seconds } => ControlRequest::Freeze { seconds: *seconds },
        Action::Thaw => ControlRequest::Thaw,
        Action::LogLevel { filter } => ControlRequest::LogLevel { filter: filter.clone() },
    };
    let result = ask(&args.socket, &request)?;
    if args.json {
        print(&Raw(result), true)?;
        return Ok(ExitCode::SUCCESS);
    }
    match args.action {
        Action::Status => print(&read::<DiskStatus>(args, result)?, false)?,
        Action::Resize { .. } => print(&read::<ResizeResult>(args, result)?, false)?,
        Action::Freeze { .. } => print(&read::<FreezeResult>(args, result)?, false)?,
        Action::Thaw => print(&read::<ThawResult>(args, result)?, false)?,
        Action::Drain => print(&"drained\n", false)?,
        Action::Flush => print(&"flushed\n", false)?,
        Action::LogLevel { ref filter } => print(&format!("logging {filter}\n"), false)?,
    }
    Ok(ExitCode::SUCCESS)
}

fn read<T: DeserializeOwned>(args: &CtlArgs, result: Value) -> Result<T, CtlError> {
    let failed =
        |error: serde_json::Error| CtlError::NoAnswer { path: args.socket.clone(), source: error.into() };
    serde_json::from_value(result).map_err(failed)
}

fn ask(path: &Path, request: &ControlRequest) -> Result<Value, CtlError> {
    let unreachable = |source| CtlError::Unreachable { path: path.to_owned(), source };
    let mut stream = UnixStream::connect(path).map_err(unreachable)?;
    match exchange(&mut stream, request) {
        Ok(ControlReply::Ok(result)) => Ok(result),
        Ok(ControlReply::Error(reason)) => Err(CtlError::Refused(reason)),
        Err(source) => Err(CtlError::NoAnswer { path: path.to_owned(), source }),
    }
}

fn exchange(stream: &mut UnixStream, request: &ControlRequest) -> io::Result<ControlReply> {
    let mut line = serde_json::to_vec(request)?;
    line.push(b'\n');
    // a client that is refused gets a reply although its request is not read
    let sent = stream.write_all(&line);
    let mut reply = Vec::new();
    BufReader::new(stream).read_until(b'\n', &mut reply)?;
    if reply.is_empty() {
        sent?;
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(serde_json::from_slice(&reply)?)
}

/// A reply as it was received.
#[derive(Debug, Serialize)]
struct Raw(Value);

impl Display for Raw {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.0)
    }
}

impl Display for ResizeResult {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { bytes, grown } = *self;
        let did = if grown { "grown to" } else { "not changed:" };
        writeln!(f, "{did} {} ({bytes} bytes)", BinaryBytes(bytes))
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

impl Display for DiskStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ProgramStatus { version, pid, uptime_s } = &self.program;
        let uptime = HumanDuration(std::time::Duration::from_secs(*uptime_s));
        let integrity = self.integrity.as_deref().unwrap_or("none");
        let access = if self.read_only { "read-only" } else { "read and write" };
        writeln!(
            f,
            "{}: {} ({} bytes), {access}, blocks of {}",
            self.image,
            BinaryBytes(self.bytes),
            self.bytes,
            self.block_size
        )?;
        writeln!(f, "integrity {integrity}, bouncing {} requests, logging {}", self.bounce, self.log)?;
        writeln!(f, "stableblk {version}, process {pid}, serving for {uptime}")?;
        if let Some(seconds) = self.frozen_s {
            writeln!(f, "frozen for {seconds} s: the guest's requests wait")?;
        }
        if self.flushes_fail {
            writeln!(f, "a flush has failed: flushes fail until a restart")?;
        }
        if let Some(doubt) = &self.crash_doubt {
            doubt.fmt(f)?;
        }
        match &self.frontend {
            None => writeln!(f, "no front-end is connected")?,
            Some(frontend) => {
                let pid = frontend.pid.map_or("unknown".to_owned(), |pid| pid.to_string());
                let since = HumanDuration(std::time::Duration::from_secs(frontend.connected_s));
                writeln!(
                    f,
                    "front-end: process {pid}, connected for {since}, features {}",
                    frontend.features.join(" ")
                )?;
            }
        }
        self.queues.iter().try_for_each(|queue| queue.fmt(f))
    }
}

impl Display for CrashDoubtStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { marked_bytes, limit_bytes, unverified_bytes, left_by_crash_bytes } = *self;
        let (marked, limit) = (BinaryBytes(marked_bytes), BinaryBytes(limit_bytes));
        writeln!(f, "a crash now would leave {marked} to be verified (limit {limit})")?;
        if unverified_bytes > 0 {
            let (left, all) = (BinaryBytes(unverified_bytes), BinaryBytes(left_by_crash_bytes));
            writeln!(f, "verifying after a crash: {left} of {all} left")?;
        }
        Ok(())
    }
}

impl Display for QueueStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state =
            if self.ring_size > 0 { format!("ring of {}", self.ring_size) } else { "stopped".to_owned() };
        writeln!(f, "\nqueue {}: {state}, {} in flight", self.queue, self.in_flight)?;
        if let Some(trouble) = &self.ring_trouble {
            writeln!(f, "  {trouble}")?;
        }
        if self.stuck_s > 0 {
            writeln!(f, "  no progress for {} seconds", self.stuck_s)?;
        }
        let RequestKinds { reads, writes, flushes, zeroings } = &self.done;
        let kinds = [
            ("reads", reads, Some(self.bytes_read)),
            ("writes", writes, Some(self.bytes_written)),
            ("flushes", flushes, None),
            ("zeroings", zeroings, None),
        ];
        for (name, latency, bytes) in kinds.into_iter().filter(|(_, latency, _)| latency.count > 0) {
            let bytes = bytes.map_or(String::new(), |bytes| format!(", {}", BinaryBytes(bytes)));
            writeln!(f, "  {name}: {}{bytes}; {}", latency.count, Times(latency))?;
        }
        let errors = &self.errors;
        let errors = [
            ("integrity errors", errors.integrity_errors),
            ("device errors", errors.device_errors),
            ("out of space", errors.no_space),
            ("refused", errors.refused),
            ("unsupported", errors.unsupported),
            ("malformed", errors.malformed),
            ("retired", errors.retired),
            ("out of folios", errors.starved),
        ];
        for (name, count) in errors.into_iter().filter(|(_, count)| *count > 0) {
            writeln!(f, "  {name}: {count}")?;
        }
        Ok(())
    }
}

/// A summary of latencies.
struct Times<'a>(&'a Latency);

impl Display for Times<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(latency) = self;
        write!(f, "mean {} us", latency.total_us / latency.count.max(1))?;
        for (name, share) in [("50 %", 0.5), ("99 %", 0.99), ("99.9 %", 0.999)] {
            if let Some(us) = latency.quantile_us(share) {
                write!(f, ", {name} {us} us")?;
            }
        }
        Ok(())
    }
}
