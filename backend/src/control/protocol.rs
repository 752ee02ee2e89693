//! What is said on the control socket: one JSON object a line, a request and then its reply. docs/control.md describes it.

use serde::{Deserialize, Serialize};

use crate::metrics::Bucket;

/// Longest request, in bytes with its newline.
pub const REQUEST_LEN_MAX: usize = 4096;

/// What can be asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "command", rename_all = "kebab-case", deny_unknown_fields)]
pub enum ControlRequest {
    /// How the disk is; the result is a [`DiskStatus`].
    Status,
    /// Makes the disk larger; the result is a [`ResizeResult`].
    Resize {
        /// In bytes; without it, to what the image has grown to already.
        #[serde(default)]
        size: Option<u64>,
    },
    /// Makes all that was written durable.
    Flush,
    /// Takes no requests until all that were taken are answered, and then goes on.
    Drain,
    /// Which messages are logged from now on.
    LogLevel {
        /// A level, or a filter as in `RUST_LOG`.
        filter: String,
    },
}

/// The answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ControlReply {
    /// It was done; what came of it.
    Ok(serde_json::Value),
    /// It was not done; why, for a person.
    Error(String),
}

impl ControlReply {
    /// A reply with this result.
    pub(super) fn ok(result: &impl Serialize) -> Self {
        serde_json::to_value(result).map_or_else(|error| Self::Error(error.to_string()), Self::Ok)
    }

    /// Done, and nothing more to say.
    pub(super) fn done() -> Self {
        Self::Ok(serde_json::json!({}))
    }
}

/// What came of a resize.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResizeResult {
    /// The disk's size now, in bytes.
    pub bytes: u64,
    /// Whether it had another one before.
    pub grown: bool,
}

/// How the disk is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskStatus {
    /// The program's version.
    pub version: String,
    /// Its process.
    pub pid: u32,
    /// Seconds since it began to serve.
    pub uptime_s: u64,
    /// The image, as it was named.
    pub image: String,
    /// Its size in bytes, as the guest sees it.
    pub bytes: u64,
    /// The guest's logical block size, in bytes.
    pub block_size: u32,
    /// Whether writes are refused.
    pub read_only: bool,
    /// How blocks are protected; null for a disk without PI.
    pub integrity: Option<String>,
    /// Which requests are copied into stable folios: all, or those that are not aligned.
    pub bounce: String,
    /// Whether a flush has failed: all others do too then, until a restart. Also before the first
    /// flush, if it is to fail for durability that was lost before the restart.
    pub flushes_fail: bool,
    /// What is logged.
    pub log: String,
    /// Null while nobody is connected.
    pub frontend: Option<FrontendStatus>,
    /// Most queues there can be.
    pub num_queues: usize,
    /// The queues that run now, or have served requests.
    pub queues: Vec<QueueStatus>,
}

/// Who is connected.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FrontendStatus {
    /// Its process; null where the kernel does not tell.
    pub pid: Option<i32>,
    /// Seconds since it connected.
    pub connected_s: u64,
    /// The virtio features that the driver has acknowledged, as `VIRTIO_BLK_F_*` and `VIRTIO_F_*`.
    pub features: Vec<String>,
}

/// How a queue is, and what it has done since the program was started.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct QueueStatus {
    /// Its index.
    pub queue: usize,
    /// Entries of its ring; 0 while it is stopped.
    pub ring_size: u64,
    /// Seconds for which nothing has finished although something is in flight; 0 while the queue makes progress.
    pub stuck_s: u64,
    /// Why the ring gives no requests, with the likely cause; null when it does, or nothing is known.
    pub ring_trouble: Option<String>,
    /// Requests popped and not answered yet.
    pub in_flight: u64,
    /// What was done, by kind.
    pub done: RequestKinds,
    /// Bytes read by the guest.
    pub bytes_read: u64,
    /// Bytes written by the guest.
    pub bytes_written: u64,
    /// The requests that failed, and other trouble.
    #[serde(flatten)]
    pub errors: QueueErrors,
}

/// The trouble of a queue since the program was started. Its fields stand beside those of
/// [`QueueStatus`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct QueueErrors {
    /// Requests answered IOERR because PI did not match.
    pub integrity_errors: u64,
    /// Requests answered IOERR because the device failed.
    pub device_errors: u64,
    /// Requests answered IOERR because there was no space.
    pub no_space: u64,
    /// Requests refused as the driver's mistake.
    pub refused: u64,
    /// Requests of an unknown type.
    pub unsupported: u64,
    /// Chains that were no request.
    pub malformed: u64,
    /// Times the queue was given up until the driver resets it.
    pub retired: u64,
    /// Times the worker stopped popping because no folio was free.
    pub starved: u64,
}

/// Requests that were done, by kind.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RequestKinds {
    /// Reads.
    pub reads: Latency,
    /// Writes.
    pub writes: Latency,
    /// Flushes.
    pub flushes: Latency,
    /// Discards and write zeroes.
    pub zeroings: Latency,
}

/// How many requests there were, and how long they took from pop to answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Latency {
    /// Requests.
    pub count: u64,
    /// The sum of their times, in microseconds.
    pub total_us: u64,
    /// The parts of the histogram that are not empty, shortest times first.
    pub buckets: Vec<Bucket>,
}

impl Latency {
    /// The time that `share` of the requests, 0 to 1, did not exceed: the upper end of its bucket, in microseconds. None without requests.
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
        let bucket = |from_us, below_us, count| Bucket { from_us, below_us, count };
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
