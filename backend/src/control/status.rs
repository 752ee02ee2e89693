//! The status of the disk, made from its counters.

use std::ops::RangeInclusive;
use std::time::Instant;

use virtio::Features;

use super::damage::DamageCount;
use super::protocol::{
    CrashDoubtStatus, DiskProperties, DiskStatus, FrontendStatus, FrontendsStatus, Latency, LimitsStatus,
    PROTOCOL, ProgramStatus, QueueErrors, QueueStatus, RequestKinds, RewriteRange, RewriteStatus,
    RewritesStatus, SlowStatus, TagLogStatus, ThrottleStatus, TupleCacheStatus, WaitStatus,
};
use super::scrub::ScrubStatus;
use crate::device::BlockDevice;
use crate::metrics::{LatencyHistogram, QueueMetrics, QueueState, Rewrites, TagLogMetrics};
use crate::worker::disk::{Bounce, Disk};

/// The front-end that is connected, and since when.
#[derive(Debug, Clone, Copy)]
pub(super) struct Connected {
    pub(super) pid: Option<i32>,
    pub(super) since: Instant,
}

/// The image that is served.
#[derive(Debug)]
pub struct Served {
    /// The path of the image, as it was given.
    pub image: String,
    /// The device of stableblk that serves it.
    pub device: &'static str,
    /// The path of its sidecar, if it has one.
    pub sidecar: Option<String>,
    /// The file of its limit group, if it is in one.
    pub limit_group: Option<String>,
    /// When serving began.
    pub since: Instant,
}

/// The number of damaged blocks.
fn damage<B: BlockDevice>(disk: &Disk<B>) -> Option<DamageCount> {
    let damage = disk.device.damage_if_known().filter(|_| disk.device.info().protection.is_some());
    damage.map(|damage| DamageCount::from(&damage.notes().list))
}

/// The present status.
pub(super) fn status<B: BlockDevice>(
    disk: &Disk<B>,
    served: &Served,
    log: String,
    connected: Option<Connected>,
    is_any_waiting: bool,
    frozen_since: Option<Instant>,
) -> DiskStatus {
    let used = |(queue, metrics): (usize, &QueueMetrics)| {
        let is_used = metrics.ring.state() != QueueState::Stopped || metrics.has_served();
        is_used.then(|| queue_status(queue, metrics))
    };
    DiskStatus {
        program: ProgramStatus {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            uptime_s: served.since.elapsed().as_secs(),
            protocol: PROTOCOL,
            log,
        },
        properties: properties(disk, served),
        flushes_fail: disk.metrics.iter().any(|metrics| metrics.flushes_fail.get() > 0),
        crash_doubt: disk.device.crash_doubt().map(|doubt| CrashDoubtStatus {
            marked_bytes: doubt.marked,
            limit_bytes: doubt.limit,
            unverified_bytes: doubt.unverified,
            left_by_crash_bytes: doubt.left_by_crash,
        }),
        damage: damage(disk),
        scrub: ScrubStatus::of(disk),
        frozen_s: frozen_since.map(|since| since.elapsed().as_secs()),
        limits: limits(disk, served),
        rewrites: rewrites(&disk.events.rewrites),
        slow: SlowStatus {
            ms: disk.events.slow.limit().map_or(0, |limit| u64::try_from(limit.as_millis()).unwrap_or(0)),
            slowest: disk.events.slow.slowest(),
        },
        tag_log: disk.device.tag_log().map(|metrics| tag_log(&metrics)),
        frontend: connected.map(|Connected { pid, since }| FrontendStatus {
            pid,
            connected_s: since.elapsed().as_secs(),
            features: Features::from_bits_truncate(disk.negotiated.get())
                .iter_names()
                .map(|(name, _)| name.to_owned())
                .collect(),
        }),
        frontends: FrontendsStatus {
            served: disk.events.frontends.get(),
            failed: disk.events.failed_frontends.get(),
            refused_messages: disk.events.refused_messages.get(),
            is_any_waiting,
        },
        queues: disk.metrics.iter().enumerate().filter_map(used).collect(),
    }
}

fn properties<B: BlockDevice>(disk: &Disk<B>, served: &Served) -> DiskProperties {
    let info = disk.device.info();
    let bounce = match disk.bounce {
        Bounce::Always => "all",
        Bounce::WhenUnaligned => "unaligned",
    };
    DiskProperties {
        image: served.image.clone(),
        bytes: info.capacity.get(),
        block_size: disk.limits.block_size,
        read_only: disk.limits.read_only,
        integrity: info.protection.map(|protection| protection.to_string()),
        bounce: bounce.to_owned(),
        device: served.device.to_owned(),
        sidecar: served.sidecar.clone(),
        num_queues: disk.metrics.len(),
    }
}

fn queue_status(queue: usize, metrics: &QueueMetrics) -> QueueStatus {
    QueueStatus {
        queue,
        state: metrics.ring.state().name().to_owned(),
        ring_size: metrics.ring.size.get(),
        stuck_s: metrics.stuck_s.get(),
        ring_trouble: metrics.ring.trouble().map(|trouble| trouble.explain().to_owned()),
        in_flight: metrics.in_flight.get(),
        done: RequestKinds {
            reads: latency(&metrics.completed.reads),
            writes: latency(&metrics.completed.writes),
            flushes: latency(&metrics.completed.flushes),
            zeroings: latency(&metrics.completed.zeroings),
        },
        bytes_read: metrics.completed.bytes_read.get(),
        bytes_written: metrics.completed.bytes_written.get(),
        errors: QueueErrors {
            integrity_errors: metrics.failed.integrity_errors.get(),
            unstable_writes: metrics.failed.unstable_writes.get(),
            device_errors: metrics.failed.device_errors.get(),
            no_space: metrics.failed.no_space.get(),
            refused: metrics.failed.refused.get(),
            unsupported: metrics.failed.unsupported.get(),
            malformed: metrics.failed.malformed.get(),
            slow: metrics.completed.slow.get(),
            retired: metrics.retired.get(),
            starved: metrics.starved.get(),
        },
        waits: WaitStatus {
            polls_with_work: metrics.waits.polls_with_work.get(),
            polls_without: metrics.waits.polls_without.get(),
            polled_us: metrics.waits.polled_ns.get() / 1000,
            sleeps: metrics.waits.sleeps.get(),
        },
        rewrites: RewriteStatus {
            checked: metrics.rewrites.checked.get(),
            found: metrics.rewrites.found.get(),
        },
        throttle: ThrottleStatus {
            waits: metrics.throttle.waits.get(),
            waited_us: metrics.throttle.waited_ns.get() / 1000,
            held_back: metrics.throttle.held_back.get(),
            held: metrics.throttle.held.get(),
        },
    }
}

/// The limits, on a disk that has some or is in a group.
pub(super) fn limits<B>(disk: &Disk<B>, served: &Served) -> Option<LimitsStatus> {
    let limits = disk.limiter.limits();
    let is_any = limits.is_some() || served.limit_group.is_some();
    is_any.then(|| LimitsStatus {
        limits: limits.unwrap_or_default(),
        group: served.limit_group.clone(),
        group_lost: disk.limiter.group_loss(),
    })
}

fn rewrites(rewrites: &Rewrites) -> RewritesStatus {
    let ranges = rewrites.ranges().into_iter().map(RangeInclusive::into_inner);
    RewritesStatus {
        one_in: rewrites.one_in(),
        ranges: ranges.map(|(first_lba, last_lba)| RewriteRange { first_lba, last_lba }).collect(),
    }
}

fn tag_log(metrics: &TagLogMetrics) -> TagLogStatus {
    TagLogStatus {
        bytes: metrics.bytes.get(),
        used_bytes: metrics.used_bytes.get(),
        commits: latency(&metrics.commits),
        checkpoints: latency(&metrics.checkpoints),
        failures: metrics.failures.get(),
        damaged_sectors: metrics.damaged_sectors.get(),
        cache: TupleCacheStatus {
            bytes: metrics.cache_bytes.get(),
            used_bytes: metrics.cache_used_bytes.get(),
            hits: metrics.cache_hits.get(),
            misses: metrics.cache_misses.get(),
        },
    }
}

/// The latencies of a kind. The count is the sum of the buckets, which the worker may increase
/// meanwhile.
fn latency(histogram: &LatencyHistogram) -> Latency {
    let buckets = histogram.buckets();
    let count = buckets.iter().map(|bucket| bucket.count).sum();
    Latency { count, total_us: histogram.total_us(), buckets }
}
