//! The status of a disk, as clients of the control socket get it.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::control::damage::DamageCount;
use crate::control::scrub::ScrubStatus;
use crate::metrics::{LatencyBucket, SlowRequest};
use crate::worker::limits::Limits;

/// The status of a disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskStatus {
    /// The program that serves the disk. Its fields are fields of the status.
    #[serde(flatten)]
    pub program: ProgramStatus,
    /// The properties of the disk. They are fields of the status too.
    #[serde(flatten)]
    pub properties: DiskProperties,
    /// Whether a flush has failed, after which all flushes fail until a restart. Also true before
    /// the first flush, if that is to fail because durability was lost before the restart.
    pub flushes_fail: bool,
    /// The part of the image that a crash leaves in doubt; null without a sidecar, or while the
    /// disk is being handed over.
    pub crash_doubt: Option<CrashDoubtStatus>,
    /// The number of blocks in the damage list; null without PI, or while the disk is frozen or
    /// handed over.
    #[serde(default)]
    pub damage: Option<DamageCount>,
    /// The scrub that is under way, or the last one; null where `damage` is.
    #[serde(default)]
    pub scrub: Option<ScrubStatus>,
    /// The seconds for which the disk has been frozen; null while it is not.
    pub frozen_s: Option<u64>,
    /// The limits; null without any, unless the disk is in a group.
    #[serde(default)]
    pub limits: Option<LimitsStatus>,
    /// Where the guest changes data while it is being written.
    #[serde(default)]
    pub rewrites: RewritesStatus,
    /// The requests that took longer than `--slow-ms`.
    #[serde(default)]
    pub slow: SlowStatus,
    /// The tag intent log; null without a sidecar, or while the disk is being handed over.
    #[serde(default)]
    pub tag_log: Option<TagLogStatus>,
    /// The front-end; null while none is connected.
    pub frontend: Option<FrontendStatus>,
    /// The front-ends so far, and those that wait.
    pub frontends: FrontendsStatus,
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
    /// The version of the control protocol.
    pub protocol: u32,
    /// The filter of the log.
    pub log: String,
}

/// The properties of a disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskProperties {
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
    /// The device of stableblk that serves the disk: `plain`, `sidecar`, `kernel-pi` or
    /// `nvme-passthrough`.
    pub device: String,
    /// The path of the sidecar; null without one.
    pub sidecar: Option<String>,
    /// The largest number of queues.
    pub num_queues: usize,
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

/// Where the guest changes data while it is being written.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RewritesStatus {
    /// One in this number of writes is looked at: `--rewrite-check`; 0: none.
    pub one_in: u32,
    /// The blocks of such writes, in order. Ranges that are next to each other are joined where
    /// there are many.
    pub ranges: Vec<RewriteRange>,
}

/// Blocks that the guest changed while they were being written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct RewriteRange {
    /// The first block, by its LBA in PI intervals, as `check` counts.
    pub first_lba: u64,
    /// The last block.
    pub last_lba: u64,
}

/// The writes of a queue that were looked at again.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RewriteStatus {
    /// The number of such writes.
    pub checked: u64,
    /// The number of those whose data the guest had changed.
    pub found: u64,
}

/// Requests that took long.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SlowStatus {
    /// The time after which a request is slow, in milliseconds; 0: requests are not timed.
    pub ms: u64,
    /// The ten slowest since that was set, those that took longest first.
    pub slowest: Vec<SlowRequest>,
}

/// The limits of a disk.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LimitsStatus {
    /// The limits. They are fields of this object.
    #[serde(flatten)]
    pub limits: Limits,
    /// The file of the group that the disk shares them with; null for its own.
    pub group: Option<String>,
    /// Why that file cannot be used any more; null while it can.
    pub group_lost: Option<String>,
}

impl fmt::Display for LimitsStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (name, rate) in self.limits.rates().into_iter().filter(|(_, rate)| *rate > 0) {
            write!(f, "{name}={rate} ")?;
        }
        write!(f, "burst={}ms", self.limits.burst_ms)?;
        match (&self.group, &self.group_lost) {
            (Some(group), None) => write!(f, ", shared by {group}"),
            (Some(group), Some(loss)) => write!(f, ", of this disk alone: {group} is lost: {loss}"),
            (None, _) => Ok(()),
        }
    }
}

/// The tag intent log of a sidecar since it was opened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TagLogStatus {
    /// The size of the log, in bytes.
    pub bytes: u64,
    /// The part of it that counts, in bytes.
    pub used_bytes: u64,
    /// The commits that succeeded.
    pub commits: Latency,
    /// The checkpoints that succeeded.
    pub checkpoints: Latency,
    /// The failures of the log's thread.
    pub failures: u64,
    /// The sectors of the tuple array that were found damaged.
    pub damaged_sectors: u64,
    /// The tuples in memory.
    pub cache: TupleCacheStatus,
}

/// The tuples in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct TupleCacheStatus {
    /// The memory that they may use, in bytes: `--tuple-cache`.
    pub bytes: u64,
    /// The memory that they use, in bytes.
    pub used_bytes: u64,
    /// The reads whose tuples were in memory.
    pub hits: u64,
    /// The reads for which tuples had to be read too.
    pub misses: u64,
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

/// The front-ends of a disk since the program was started.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct FrontendsStatus {
    /// The number that were served.
    pub served: u64,
    /// How often a front-end could not be accepted or served.
    pub failed: u64,
    /// The messages that were refused.
    pub refused_messages: u64,
    /// Whether another front-end waits until the present one has left.
    pub is_any_waiting: bool,
}

/// The status of a queue, and its counters since the program was started.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct QueueStatus {
    /// The index of the queue.
    pub queue: usize,
    /// Whether the queue is served: `running`; `paused`, from which it continues by itself;
    /// `stopped`; or `retired`, because its ring is broken.
    pub state: String,
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
    /// How the worker of the queue has waited for work.
    #[serde(default)]
    pub waits: WaitStatus,
    /// How limits have held the queue back.
    #[serde(default)]
    pub throttle: ThrottleStatus,
    /// The writes that were looked at again.
    #[serde(default)]
    pub rewrites: RewriteStatus,
}

/// How limits have held a queue back.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ThrottleStatus {
    /// How often popping stopped because a limit was reached.
    pub waits: u64,
    /// The time until it continued, in microseconds.
    pub waited_us: u64,
    /// The requests that were popped and held back, because the limit for their kind was reached.
    pub held_back: u64,
    /// The requests that are held back now.
    pub held: u64,
}

/// How a worker has waited for work.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct WaitStatus {
    /// The polls that ended with work.
    pub polls_with_work: u64,
    /// The polls that ended without.
    pub polls_without: u64,
    /// The time of all polls, in microseconds.
    pub polled_us: u64,
    /// How often the worker slept.
    pub sleeps: u64,
}

/// The errors of a queue since the program was started. In JSON these fields stand beside those of
/// [`QueueStatus`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct QueueErrors {
    /// The requests that failed with IOERR because PI did not match.
    pub integrity_errors: u64,
    /// The transfers that failed because the guest changed its data while they were written, which
    /// only `--bounce never` lets happen.
    pub unstable_writes: u64,
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
    /// The requests that took longer than `--slow-ms`, well or not.
    #[serde(default)]
    pub slow: u64,
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

impl DiskStatus {
    /// The requests that were popped and are not answered yet, over all queues.
    pub fn in_flight(&self) -> u64 {
        self.queues.iter().map(|queue| queue.in_flight).fold(0, u64::saturating_add)
    }

    /// The requests that were done, over all queues.
    pub fn requests(&self) -> u64 {
        let counts =
            self.queues.iter().flat_map(|queue| queue.done.kinds().map(|(_, latency)| latency.count));
        counts.fold(0, u64::saturating_add)
    }

    /// The requests that have failed, or were refused, over all queues.
    pub fn failed(&self) -> u64 {
        self.queues.iter().map(|queue| queue.errors.failed()).fold(0, u64::saturating_add)
    }
}

impl QueueErrors {
    /// The requests that have failed, or were refused.
    pub fn failed(&self) -> u64 {
        let Self { integrity_errors, unstable_writes, device_errors, no_space, .. } = self;
        let failed = [*integrity_errors, *unstable_writes, *device_errors, *no_space];
        let refused = [self.refused, self.unsupported, self.malformed];
        failed.into_iter().chain(refused).fold(0, u64::saturating_add)
    }
}

impl RequestKinds {
    /// Each kind with its name.
    pub fn kinds(&self) -> [(&'static str, &Latency); 4] {
        let Self { reads, writes, flushes, zeroings } = self;
        [("read", reads), ("write", writes), ("flush", flushes), ("zeroing", zeroings)]
    }
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
}
