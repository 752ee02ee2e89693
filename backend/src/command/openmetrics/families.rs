//! The families of metrics, in their order.

use std::fmt;

use prometheus_client::metrics::MetricType::{Counter, Gauge, Histogram, Info};

use super::histogram::Buckets;
use super::labels::{Disk, Families};
use crate::command::disks::FoundDisk;
use crate::control::protocol::{DiskStatus, QueueErrors, QueueStatus, TagLogStatus};

/// The disks themselves.
pub(super) fn disks(found: &[FoundDisk], families: &mut Families<'_>) -> fmt::Result {
    let disks = Disk::of(found);
    families.write(Gauge, "up", "Whether the disk's control socket has replied in time", |samples| {
        found.iter().try_for_each(|disk| samples.of_name(&disk.name, disk.status.is_ok().into()))
    })?;
    families.write(Info, "disk", "The disk and the program that serves it", |samples| {
        for disk in disks.clone() {
            let DiskStatus { program, properties, .. } = disk.status;
            let labels = [
                ("version", program.version.as_str()),
                ("device", &properties.device),
                ("integrity", properties.integrity.as_deref().unwrap_or("none")),
                ("bounce", &properties.bounce),
                ("read_only", if properties.read_only { "true" } else { "false" }),
            ];
            samples.info(disk, &labels)?;
        }
        Ok(())
    })?;
    let seconds = |disk: &DiskStatus| Some(disk.program.uptime_s);
    families.gauge("uptime_seconds", "Seconds since serving began", disks.clone(), seconds)?;
    let bytes = |disk: &DiskStatus| Some(disk.properties.bytes);
    families.gauge("size_bytes", "Size of the disk, as the guest sees it", disks.clone(), bytes)?;
    let help = "Whether all flushes fail, because one has failed and data may be lost";
    families.gauge("flushes_fail", help, disks.clone(), |disk| Some(disk.flushes_fail.into()))?;
    families.write(Gauge, "crash_doubt_bytes", "Part of the image that a crash leaves in doubt", |samples| {
        for (disk, doubt) in disks.filter_map(|disk| Some((disk, disk.status.crash_doubt?))) {
            let states = [
                ("marked", doubt.marked_bytes),
                ("limit", doubt.limit_bytes),
                ("unverified", doubt.unverified_bytes),
            ];
            for (state, bytes) in states {
                samples.gauge(disk, &[("state", state)], bytes)?;
            }
        }
        Ok(())
    })
}

/// The front-ends of each disk.
pub(super) fn front_ends(found: &[FoundDisk], families: &mut Families<'_>) -> fmt::Result {
    let disks = Disk::of(found);
    let connected = |disk: &DiskStatus| Some(disk.frontend.is_some().into());
    families.gauge("frontend_connected", "Whether a front-end is connected", disks.clone(), connected)?;
    let waiting = |disk: &DiskStatus| Some(disk.frontends.is_any_waiting.into());
    let help = "Whether another front-end waits until the present one has left";
    families.gauge("frontend_waiting", help, disks.clone(), waiting)?;
    let served = |disk: &DiskStatus| Some(disk.frontends.served);
    families.counter("frontends", "Front-ends that were served", disks.clone(), served)?;
    let failed = |disk: &DiskStatus| Some(disk.frontends.failed);
    let help = "Failures to accept or serve a front-end";
    families.counter("frontend_failures", help, disks.clone(), failed)?;
    let refused = |disk: &DiskStatus| Some(disk.frontends.refused_messages);
    families.counter("refused_messages", "Messages of front-ends that were refused", disks, refused)
}

/// The queues of each disk.
pub(super) fn queues(found: &[FoundDisk], families: &mut Families<'_>) -> fmt::Result {
    state_of_queues(found, families)?;
    let disks = Disk::of(found);
    families.write(Counter, "requests", "Requests that have succeeded", |samples| {
        each_queue(disks.clone(), |disk, index, queue| {
            queue.done.kinds().iter().try_for_each(|(kind, latency)| {
                samples.counter(disk, &[("queue", index), ("kind", kind)], latency.count)
            })
        })
    })?;
    families.write(Counter, "bytes", "Bytes that the guest has read and written", |samples| {
        each_queue(disks.clone(), |disk, index, queue| {
            samples.counter(disk, &[("queue", index), ("direction", "read")], queue.bytes_read)?;
            samples.counter(disk, &[("queue", index), ("direction", "write")], queue.bytes_written)
        })
    })?;
    families.write(Counter, "errors", "Requests that have failed or were refused, by kind", |samples| {
        each_queue(disks.clone(), |disk, index, queue| {
            errors(&queue.errors).iter().try_for_each(|(kind, count)| {
                samples.counter(disk, &[("queue", index), ("kind", kind)], *count)
            })
        })
    })?;
    let help = "Requests that took longer than --slow-ms, while that is set";
    families.write(Counter, "slow_requests", help, |samples| {
        each_queue(disks.clone(), |disk, index, queue| {
            samples.counter(disk, &[("queue", index)], queue.errors.slow)
        })
    })?;
    let help = "Times a queue was given up until its driver resets it";
    families.write(Counter, "retirements", help, |samples| {
        each_queue(disks.clone(), |disk, index, queue| {
            samples.counter(disk, &[("queue", index)], queue.errors.retired)
        })
    })?;
    families.write(Counter, "starvations", "Times popping stopped because no folio was free", |samples| {
        each_queue(disks.clone(), |disk, index, queue| {
            samples.counter(disk, &[("queue", index)], queue.errors.starved)
        })
    })?;
    let help = "Writes whose data was looked at again when they had completed";
    families.write(Counter, "rewrite_checks", help, |samples| {
        each_queue(disks.clone(), |disk, index, queue| {
            samples.counter(disk, &[("queue", index)], queue.rewrites.checked)
        })
    })?;
    let help = "Writes looked at whose data the guest had changed while it was written";
    families.write(Counter, "rewritten_writes", help, |samples| {
        each_queue(disks.clone(), |disk, index, queue| {
            samples.counter(disk, &[("queue", index)], queue.rewrites.found)
        })
    })?;
    waits(found, families)?;
    let help = "Time of requests from pop to reply, over all queues";
    families.write(Histogram, "request_duration_seconds", help, |samples| {
        for disk in disks.clone() {
            for place in 0..4 {
                let of_kind = disk.status.queues.iter().map(|queue| queue.done.kinds()[place]);
                let Some((kind, _)) = of_kind.clone().next() else { continue };
                let buckets = Buckets::of(of_kind.map(|(_, latency)| latency));
                samples.histogram(disk, &[("kind", kind)], &buckets)?;
            }
        }
        Ok(())
    })
}

fn state_of_queues(found: &[FoundDisk], families: &mut Families<'_>) -> fmt::Result {
    type Value = fn(&QueueStatus) -> u64;
    let gauges: [(&str, &str, Value); 5] = [
        ("queue_ring_size", "Entries of the queue's ring; 0 while it is stopped", |queue| queue.ring_size),
        ("queue_in_flight", "Requests popped and not answered yet", |queue| queue.in_flight),
        ("queue_stuck_seconds", "Seconds without progress, while requests are in flight", |queue| {
            queue.stuck_s
        }),
        ("queue_ring_trouble", "Whether the ring gives no requests because of a mistake", |queue| {
            queue.ring_trouble.is_some().into()
        }),
        ("queue_retired", "Whether the queue is given up until its driver resets it", |queue| {
            (queue.state == "retired").into()
        }),
    ];
    for (name, help, value) in gauges {
        families.write(Gauge, name, help, |samples| {
            each_queue(Disk::of(found), |disk, index, queue| {
                samples.gauge(disk, &[("queue", index)], value(queue))
            })
        })?;
    }
    Ok(())
}

/// How workers wait.
fn waits(found: &[FoundDisk], families: &mut Families<'_>) -> fmt::Result {
    let disks = Disk::of(found);
    families.write(Counter, "polls", "Waits for work by polling, by their result", |samples| {
        each_queue(disks.clone(), |disk, index, queue| {
            let waits = &queue.waits;
            samples.counter(disk, &[("queue", index), ("result", "work")], waits.polls_with_work)?;
            samples.counter(disk, &[("queue", index), ("result", "none")], waits.polls_without)
        })
    })?;
    families.write(Counter, "polled_seconds", "Time spent polling", |samples| {
        each_queue(disks.clone(), |disk, index, queue| {
            samples.seconds(disk, &[("queue", index)], queue.waits.polled_us)
        })
    })?;
    families.write(Counter, "sleeps", "Times a worker slept until there was work", |samples| {
        each_queue(disks, |disk, index, queue| samples.counter(disk, &[("queue", index)], queue.waits.sleeps))
    })
}

/// The limits, and how they held queues back.
pub(super) fn limits(found: &[FoundDisk], families: &mut Families<'_>) -> fmt::Result {
    let disks = Disk::of(found);
    families.write(
        Gauge,
        "limit",
        "Limits of requests and bytes a second; 0 where there is none",
        |samples| {
            for disk in disks.clone() {
                let limits = disk.status.limits.as_ref().map(|limits| limits.limits).unwrap_or_default();
                for (limit, rate) in limits.rates() {
                    samples.gauge(disk, &[("limit", limit)], rate)?;
                }
            }
            Ok(())
        },
    )?;
    let help = "Times popping stopped because a limit was reached";
    families.write(Counter, "throttled_waits", help, |samples| {
        each_queue(disks.clone(), |disk, index, queue| {
            samples.counter(disk, &[("queue", index)], queue.throttle.waits)
        })
    })?;
    let help = "Time for which chains waited in the ring because a limit was reached";
    families.write(Counter, "throttled_seconds", help, |samples| {
        each_queue(disks.clone(), |disk, index, queue| {
            samples.seconds(disk, &[("queue", index)], queue.throttle.waited_us)
        })
    })?;
    let help = "Requests that were popped and held back, because the limit for their kind was reached";
    families.write(Counter, "held_back_requests", help, |samples| {
        each_queue(disks, |disk, index, queue| {
            samples.counter(disk, &[("queue", index)], queue.throttle.held_back)
        })
    })
}

/// The tag intent log, and the tuples in memory.
pub(super) fn tag_log(found: &[FoundDisk], families: &mut Families<'_>) -> fmt::Result {
    type Value = fn(&TagLogStatus) -> u64;
    let disks = Disk::of(found);
    let gauges: [(&str, &str, Value); 4] = [
        ("tag_log_bytes", "Size of the tag intent log", |log| log.bytes),
        ("tag_log_used_bytes", "Part of the tag intent log that counts", |log| log.used_bytes),
        ("tuple_cache_bytes", "Memory that tuples may use", |log| log.cache.bytes),
        ("tuple_cache_used_bytes", "Memory that tuples use", |log| log.cache.used_bytes),
    ];
    for (name, help, value) in gauges {
        families.gauge(name, help, disks.clone(), |disk| disk.tag_log.as_ref().map(value))?;
    }
    let counters: [(&str, &str, Value); 2] = [
        ("tag_log_failures", "Failures of the log's thread", |log| log.failures),
        ("sidecar_damaged_sectors", "Sectors of the tuple array that were found damaged", |log| {
            log.damaged_sectors
        }),
    ];
    for (name, help, value) in counters {
        families.counter(name, help, disks.clone(), |disk| disk.tag_log.as_ref().map(value))?;
    }
    let of_logs = disks.filter_map(|disk| Some((disk, disk.status.tag_log.as_ref()?)));
    let help = "Reads by whether their tuples were in memory";
    families.write(Counter, "tuple_cache_lookups", help, |samples| {
        of_logs.clone().try_for_each(|(disk, log)| {
            samples.counter(disk, &[("result", "hit")], log.cache.hits)?;
            samples.counter(disk, &[("result", "miss")], log.cache.misses)
        })
    })?;
    families.write(
        Histogram,
        "tag_log_commit_duration_seconds",
        "Time of commits of the log",
        |samples| {
            of_logs
                .clone()
                .try_for_each(|(disk, log)| samples.histogram(disk, &[], &Buckets::of([&log.commits])))
        },
    )?;
    let help = "Time of checkpoints of the log";
    families.write(Histogram, "tag_log_checkpoint_duration_seconds", help, |samples| {
        of_logs
            .clone()
            .try_for_each(|(disk, log)| samples.histogram(disk, &[], &Buckets::of([&log.checkpoints])))
    })
}

/// Calls `each` for every queue, with its index as a label.
fn each_queue<'a>(
    disks: impl Iterator<Item = Disk<'a>>,
    mut each: impl FnMut(Disk<'a>, &str, &'a QueueStatus) -> fmt::Result,
) -> fmt::Result {
    for disk in disks {
        for queue in &disk.status.queues {
            each(disk, &queue.queue.to_string(), queue)?;
        }
    }
    Ok(())
}

/// The kinds of errors. The log and the status have the same names.
fn errors(errors: &QueueErrors) -> [(&'static str, u64); 7] {
    [
        ("integrity", errors.integrity_errors),
        ("unstable_write", errors.unstable_writes),
        ("device", errors.device_errors),
        ("no_space", errors.no_space),
        ("refused", errors.refused),
        ("unsupported", errors.unsupported),
        ("malformed", errors.malformed),
    ]
}
