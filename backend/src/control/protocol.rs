//! The protocol of the control socket: one JSON object a line, a request and then its reply.
//! docs/control.md describes it.

use serde::{Deserialize, Serialize};

use crate::metrics::LatencyBucket;

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

/// The status of a disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskStatus {
    /// The program that serves the disk. Its fields are fields of the status.
    #[serde(flatten)]
    pub program: ProgramStatus,
    /// The path of the image, as it was given.
    pub image: String,
    /// The size of the disk in bytes, as the guest sees it.
    pub bytes: u64,
    /// The guest's logical block size, in bytes.
    pub block_size: u32,
    /// Whether writes are refused.
    pub read_only: bool,
    /// The protection of blocks; null for a disk without PI.
    pub integrity: Option<String>,
    /// The requests that are copied into stable folios: all, or those that are not aligned.
    pub bounce: String,
    /// Whether a flush has failed, after which all flushes fail until a restart. Also true before
    /// the first flush, if that is to fail because durability was lost before the restart.
    pub flushes_fail: bool,
    /// The part of the image that a crash leaves in doubt; null without a sidecar, or while the
    /// disk is being handed over.
    pub crash_doubt: Option<CrashDoubtStatus>,
    /// The seconds for which the disk has been frozen; null while it is not.
    pub frozen_s: Option<u64>,
    /// The filter of the log.
    pub log: String,
    /// The front-end; null while none is connected.
    pub frontend: Option<FrontendStatus>,
    /// The largest number of queues.
    pub num_queues: usize,
    /// The queues that run now, or have served requests.
    pub queues: Vec<QueueStatus>,
}

/// The program that serves a disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProgramStatus {
    /// The version of the program.
    pub version: String,
    /// The process ID of the program.
    pub pid: u32,
    /// The seconds since serving began.
    pub uptime_s: u64,
}

/// The part of the image that a crash leaves in doubt, so that it must be verified.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct CrashDoubtStatus {
    /// The bytes that a crash now would leave in doubt.
    pub marked_bytes: u64,
    /// The bytes that may stay in doubt where nothing is written any more: `--doubt-limit`.
    pub limit_bytes: u64,
    /// The bytes that are not verified yet since the last crash.
    pub unverified_bytes: u64,
    /// The bytes that the last crash has left in doubt.
    pub left_by_crash_bytes: u64,
}

/// The front-end that is connected.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FrontendStatus {
    /// The process ID of the front-end; null where the kernel does not report it.
    pub pid: Option<i32>,
    /// The seconds since the front-end connected.
    pub connected_s: u64,
    /// The virtio features that the driver has acknowledged, as `VIRTIO_BLK_F_*` and `VIRTIO_F_*`.
    pub features: Vec<String>,
}

/// The status of a queue, and its counters since the program was started.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct QueueStatus {
    /// The index of the queue.
    pub queue: usize,
    /// The number of entries of the ring; 0 while the queue is stopped.
    pub ring_size: u64,
    /// The seconds for which no request has finished although some are in flight; 0 while the queue
    /// makes progress.
    pub stuck_s: u64,
    /// The reason why the ring has no requests, with the likely cause; null when it has, or the
    /// reason is unknown.
    pub ring_trouble: Option<String>,
    /// The number of requests that were popped and are not answered yet.
    pub in_flight: u64,
    /// The requests that were done, by kind.
    pub done: RequestKinds,
    /// The bytes that the guest has read.
    pub bytes_read: u64,
    /// The bytes that the guest has written.
    pub bytes_written: u64,
    /// The errors of the queue.
    #[serde(flatten)]
    pub errors: QueueErrors,
}

/// The errors of a queue since the program was started. In JSON these fields stand beside those of
/// [`QueueStatus`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct QueueErrors {
    /// The requests that failed with IOERR because PI did not match.
    pub integrity_errors: u64,
    /// The requests that failed with IOERR because the device failed.
    pub device_errors: u64,
    /// The requests that failed with IOERR because there was no space.
    pub no_space: u64,
    /// The requests that were refused as mistakes of the driver.
    pub refused: u64,
    /// The requests of an unknown type.
    pub unsupported: u64,
    /// The chains that were no request.
    pub malformed: u64,
    /// How often the queue was given up until the driver resets it.
    pub retired: u64,
    /// How often the worker stopped popping because no folio was free.
    pub starved: u64,
}

/// Requests that were done, by kind.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RequestKinds {
    /// The reads.
    pub reads: Latency,
    /// The writes.
    pub writes: Latency,
    /// The flushes.
    pub flushes: Latency,
    /// The discards and write zeroes.
    pub zeroings: Latency,
}

/// The number of requests, and their times from pop to reply.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Latency {
    /// The number of requests.
    pub count: u64,
    /// The sum of their times, in microseconds.
    pub total_us: u64,
    /// The parts of the histogram that are not empty, shortest times first.
    pub buckets: Vec<LatencyBucket>,
}

impl Latency {
    /// The time that `share` of the requests, 0 to 1, did not exceed, in microseconds: the upper
    /// end of its bucket. None without requests.
    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a share of a count"
    )]
    pub fn quantile_us(&self, share: f64) -> Option<u64> {
        let rank = (self.count as f64 * share).ceil().max(1.0) as u64;
        let mut below = 0;
        let bucket = self.buckets.iter().find(|bucket| {
            below += bucket.count;
            below >= rank
        });
        bucket.map(|bucket| bucket.below_us.unwrap_or(bucket.from_us))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quantile_is_the_end_of_its_bucket() {
        let bucket = |from_us, below_us, count| LatencyBucket { from_us, below_us, count };
        let buckets = vec![bucket(3, Some(4), 90), bucket(8, Some(10), 9), bucket(1000, None, 1)];
        let latency = Latency { count: 100, total_us: 0, buckets };
        assert_eq!([0.0, 0.5, 0.9].map(|share| latency.quantile_us(share)), [Some(4); 3]);
        assert_eq!(
            [0.91, 0.99, 1.0].map(|share| latency.quantile_us(share)),
            [Some(10), Some(10), Some(1000)]
        );
        let none = Latency { count: 0, total_us: 0, buckets: Vec::new() };
        assert_eq!(none.quantile_us(0.5), None);
    }

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
