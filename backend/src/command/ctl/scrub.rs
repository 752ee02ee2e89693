//! `stableblk ctl SOCKET scrub ...`.

use std::num::NonZeroU64;
use std::path::Path;
use std::process::ExitCode;
use std::thread;
use std::time::Duration;

use clap::Subcommand;
use serde_json::Value;

use super::error::{CtlError, read};
use crate::command::parse_size;
use crate::control::client::{ClientError, ask};
use crate::control::protocol::ControlRequest;
use crate::control::scrub::{ScrubState, ScrubStatus};

/// The exit status when a scrub that was waited for has found blocks.
const EXIT_FOUND: u8 = 4;

/// The time between two looks at a scrub that is waited for.
const LOOK: Duration = Duration::from_secs(1);

#[derive(Debug, Clone, Subcommand)]
pub(super) enum ScrubAction {
    /// Start a scrub, or continue one that was stopped. One that is under way gets the new rate
    Start {
        /// The most bytes that it reads a second, with a unit of powers of 1024: 100M [default:
        /// 32M, and less where the device would be busy for more than a tenth of the time]
        #[arg(long, value_parser = parse_rate)]
        rate: Option<NonZeroU64>,
        /// Begin at the start of the disk, although an earlier scrub was stopped on its way
        #[arg(long)]
        from_start: bool,
        /// Wait until it has verified all of the disk; the exit status is 4 if it has found blocks
        #[arg(long)]
        wait: bool,
    },
    /// Stop the scrub. It continues there when it is started again
    Stop,
    /// Show how far the scrub has come
    Status,
}

impl ScrubAction {
    pub(super) fn request(&self) -> ControlRequest {
        match *self {
            Self::Start { rate, from_start, .. } => ControlRequest::ScrubStart { rate, from_start },
            Self::Stop => ControlRequest::ScrubStop,
            Self::Status => ControlRequest::ScrubStatus,
        }
    }
}

/// Parses a rate, for clap.
fn parse_rate(text: &str) -> Result<NonZeroU64, &'static str> {
    NonZeroU64::new(parse_size(text)?).ok_or("no rate: a scrub of 0 bytes a second never ends")
}

/// Waits until no scrub is under way. Returns its last status, and the exit status for it.
pub(super) fn wait(socket: &Path, limit: Duration) -> Result<(Value, ExitCode), CtlError> {
    loop {
        let result = ask(socket, &ControlRequest::ScrubStatus, limit)?;
        let status: ScrubStatus = read(socket, result.clone())?;
        match (status.state, status.last_found) {
            (ScrubState::Running, _) => thread::sleep(LOOK),
            (ScrubState::Idle, 0) => return Ok((result, ExitCode::SUCCESS)),
            (ScrubState::Idle, _) => return Ok((result, ExitCode::from(EXIT_FOUND))),
            (ScrubState::Stopped | ScrubState::Interrupted, _) => {
                let reason = "the scrub was stopped before it was done";
                return Err(ClientError::Refused(reason.to_owned()).into());
            }
        }
    }
}
