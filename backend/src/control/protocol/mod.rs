//! The protocol of the control socket: one JSON object a line, a request and then its reply.
//! docs/control.md describes it.

use std::num::NonZeroU64;

use serde::{Deserialize, Serialize};

use crate::worker::limits::Limits;

mod status;

pub use self::status::{
    CrashDoubtStatus, DiskProperties, DiskStatus, FrontendStatus, FrontendsStatus, Latency, LimitsStatus,
    ProgramStatus, QueueErrors, QueueStatus, RequestKinds, RewriteRange, RewriteStatus, RewritesStatus,
    SlowStatus, TagLogStatus, ThrottleStatus, TupleCacheStatus, WaitStatus,
};

/// The version of the protocol. It rises when a command or a field is removed, or means something
/// else.
pub const PROTOCOL: u32 = 1;
/// The greatest time after which a request is slow, in milliseconds: a day.
pub const SLOW_MS_MAX: u64 = 86_400_000;
/// The length of the longest request, in bytes with its newline.
pub const REQUEST_LEN_MAX: usize = 4096;

/// A request of a client.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "command", rename_all = "kebab-case", deny_unknown_fields)]
pub enum ControlRequest {
    /// Asks for the status of the disk; the result is a [`DiskStatus`].
    Status,
    /// Makes the disk larger; the result is a [`ResizeResult`].
    Resize {
        /// The new size in bytes; without it, the size to which the image has grown already.
        #[serde(default)]
        size: Option<u64>,
    },
    /// Makes all completed writes durable.
    Flush,
    /// Takes no requests until all that were taken are answered, and then continues.
    Drain,
    /// Makes everything durable, closes the sidecar, and takes no requests until
    /// [`Self::Thaw`] or until the time is over; the result is a [`FreezeResult`].
    Freeze {
        /// The longest time, in seconds: 1 to [`FREEZE_SECONDS_MAX`].
        #[serde(default = "default_freeze_seconds")]
        seconds: u64,
    },
    /// Continues after [`Self::Freeze`]; the result is a [`ThawResult`].
    Thaw,
    /// Asks for the damage list; the result is a [`DamageReport`](super::damage::DamageReport).
    Damage,
    /// Gives blocks that do not match new tuples, for the data present; the result is an
    /// [`AcceptResult`].
    Accept {
        /// The first block.
        first_lba: u64,
        /// The last block.
        last_lba: u64,
    },
    /// Starts a scrub, or continues one; the result is a
    /// [`ScrubStatus`](super::scrub::ScrubStatus).
    ScrubStart {
        /// The most bytes that it reads a second; without it, the default.
        #[serde(default)]
        rate: Option<NonZeroU64>,
        /// Whether it begins at the start of the disk, although an earlier one was stopped on its
        /// way.
        #[serde(default)]
        from_start: bool,
    },
    /// Stops the scrub; the result is a [`ScrubStatus`](super::scrub::ScrubStatus).
    ScrubStop,
    /// Asks how far the scrub has come; the result is a
    /// [`ScrubStatus`](super::scrub::ScrubStatus).
    ScrubStatus,
    /// Changes the limits of requests and bytes; the result is a [`LimitsStatus`], or null.
    Limit {
        /// The limits, in place of all that there were; null for none.
        limits: Option<Limits>,
    },
    /// Changes from when on a request is slow.
    SlowMs {
        /// The time, in milliseconds; 0: requests are not timed.
        ms: u64,
    },
    /// Changes the filter of the log.
    LogLevel {
        /// The filter: a level, or a filter as in `RUST_LOG`.
        filter: String,
    },
}

/// The longest time for which a disk can be frozen, in seconds.
pub const FREEZE_SECONDS_MAX: u64 = 600;

/// The time for which a disk is frozen at most if a client names none, in seconds.
pub const FREEZE_SECONDS_DEFAULT: u64 = 30;

fn default_freeze_seconds() -> u64 {
    FREEZE_SECONDS_DEFAULT
}

/// The reply to a request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ControlReply {
    /// The request was carried out; this is its result.
    Ok(serde_json::Value),
    /// The request was not carried out; this is the reason, for a person.
    Error(String),
}

impl ControlReply {
    /// The reply with this result.
    pub(super) fn ok(result: &impl Serialize) -> Self {
        serde_json::to_value(result).map_or_else(|error| Self::Error(error.to_string()), Self::Ok)
    }

    /// The reply without a result.
    pub(super) fn done() -> Self {
        Self::Ok(serde_json::json!({}))
    }
}

/// The result of a resize.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResizeResult {
    /// The disk's size now, in bytes.
    pub bytes: u64,
    /// Whether the size has changed.
    pub grown: bool,
}

/// The result of an acceptance.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AcceptResult {
    /// The blocks that did not match, and were accepted.
    pub accepted: Vec<u64>,
    /// The blocks that matched before.
    pub matching: u64,
}

/// The disk is frozen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct FreezeResult {
    /// The seconds after which it continues by itself.
    pub seconds: u64,
    /// The milliseconds that it took to drain the queues and to make everything durable.
    pub took_ms: u64,
}

/// The disk continues.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ThawResult {
    /// The milliseconds for which the guest's requests had to wait.
    pub stalled_ms: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_an_object_with_a_command() {
        let parse = |text| serde_json::from_str::<ControlRequest>(text);
        assert_eq!(parse(r#"{"command":"status"}"#).unwrap(), ControlRequest::Status);
        let level = ControlRequest::LogLevel { filter: "debug".to_owned() };
        assert_eq!(parse(r#"{"command":"log-level","filter":"debug"}"#).unwrap(), level);
        for bad in ["", "{}", "[]", "status", r#"{"command":"stop"}"#, r#"{"command":"log-level"}"#] {
            parse(bad).unwrap_err();
        }
        assert_eq!(parse(r#"{"command":"resize"}"#).unwrap(), ControlRequest::Resize { size: None });
        assert_eq!(
            parse(r#"{"command":"resize","size":7}"#).unwrap(),
            ControlRequest::Resize { size: Some(7) }
        );
        parse(r#"{"command":"resize","size":-7}"#).unwrap_err();
        parse(r#"{"command":"log-level","filter":"debug","for":"ever"}"#).unwrap_err();
    }
}
