//! The status of a disk, for a person.

use std::fmt::{self, Display};
use std::time::Duration;

use indicatif::{BinaryBytes, HumanDuration};

use crate::control::damage::DamageCount;
use crate::control::protocol::{
    CrashDoubtStatus, DiskProperties, DiskStatus, FrontendsStatus, Latency, ProgramStatus, QueueStatus,
    RequestKinds, RewriteStatus, RewritesStatus, SlowStatus, TagLogStatus, TupleCacheStatus,
};
use crate::metrics::{SlowRequest, SlowStages};

impl Display for DiskStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.properties.fmt(f)?;
        self.program.fmt(f)?;
        if let Some(seconds) = self.frozen_s {
            writeln!(f, "frozen for {seconds} s: the guest's requests wait")?;
        }
        if self.flushes_fail {
            writeln!(f, "a flush has failed: flushes fail until a restart")?;
        }
        if let Some(doubt) = &self.crash_doubt {
            doubt.fmt(f)?;
        }
        if let Some(DamageCount { blocks, unlisted }) = self.damage
            && blocks + unlisted > 0
        {
            let more =
                if unlisted > 0 { format!(", and {unlisted} findings without room") } else { String::new() };
            writeln!(f, "damage: {blocks} blocks{more}; `stableblk ctl SOCKET damage` lists them")?;
        }
        if let Some(scrub) = self.scrub.as_ref().filter(|scrub| scrub.begun > 0) {
            scrub.fmt(f)?;
        }
        self.rewrites.fmt(f)?;
        self.slow.fmt(f)?;
        if let Some(limits) = &self.limits {
            writeln!(f, "limits: {limits}")?;
        }
        if let Some(log) = &self.tag_log {
            log.fmt(f)?;
        }
        match &self.frontend {
            None => writeln!(f, "no front-end is connected")?,
            Some(frontend) => {
                let pid = frontend.pid.map_or("unknown".to_owned(), |pid| pid.to_string());
                let since = HumanDuration(Duration::from_secs(frontend.connected_s));
                writeln!(
                    f,
                    "front-end: process {pid}, connected for {since}, features {}",
                    frontend.features.join(" ")
                )?;
            }
        }
        self.frontends.fmt(f)?;
        self.queues.iter().try_for_each(|queue| queue.fmt(f))
    }
}

impl Display for DiskProperties {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { image, bytes, block_size, device, bounce, .. } = self;
        let integrity = self.integrity.as_deref().unwrap_or("none");
        let access = if self.read_only { "read-only" } else { "read and write" };
        let size = BinaryBytes(*bytes);
        writeln!(f, "{image}: {size} ({bytes} bytes), {access}, blocks of {block_size}")?;
        write!(f, "device {device}, integrity {integrity}, bouncing {bounce} requests")?;
        match &self.sidecar {
            Some(sidecar) => writeln!(f, ", sidecar {sidecar}"),
            None => writeln!(f),
        }
    }
}

impl Display for ProgramStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { version, pid, uptime_s, log, .. } = self;
        let uptime = HumanDuration(Duration::from_secs(*uptime_s));
        writeln!(f, "stableblk {version}, process {pid}, serving for {uptime}, logging {log}")
    }
}

impl Display for RewritesStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const SHOWN: usize = 8;
        if self.ranges.is_empty() {
            return Ok(());
        }
        let shown = self.ranges.iter().take(SHOWN);
        let lbas: Vec<_> = shown.map(|range| format!("{}-{}", range.first_lba, range.last_lba)).collect();
        let rest = if self.ranges.len() > SHOWN { ", ..." } else { "" };
        writeln!(f, "the guest changes data while it is being written, at LBA {}{rest}", lbas.join(", "))
    }
}

impl Display for SlowStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.ms == 0 {
            return Ok(());
        }
        writeln!(f, "slowest requests of more than {} ms, in us from the pop on:", self.ms)?;
        for request in &self.slowest {
            let SlowRequest { queue, kind, offset, len, total_us, stages, .. } = request;
            write!(f, "  queue {queue}: {kind} of {len} at {offset}")?;
            let SlowStages { range_us, folio_us, log_us, submitted_us, completed_us } = *stages;
            for (name, at) in [
                ("range", range_us),
                ("folio", folio_us),
                ("log", log_us),
                ("submitted", submitted_us),
                ("completed", completed_us),
            ] {
                if let Some(at) = at {
                    write!(f, ", {name} {at}")?;
                }
            }
            writeln!(f, ", answered {total_us}{}", if request.succeeded { "" } else { ", failed" })?;
        }
        Ok(())
    }
}

impl Display for TagLogStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (used, size) = (BinaryBytes(self.used_bytes), BinaryBytes(self.bytes));
        writeln!(f, "tag log: {used} of {size} used, {} failures", self.failures)?;
        for (name, latency) in [("commits", &self.commits), ("checkpoints", &self.checkpoints)] {
            if latency.count > 0 {
                writeln!(f, "  {name}: {}; {}", latency.count, Times(latency))?;
            }
        }
        let TupleCacheStatus { bytes, used_bytes, hits, misses } = self.cache;
        let (used, size) = (BinaryBytes(used_bytes), BinaryBytes(bytes));
        writeln!(f, "tuples in memory: {used} of {size}; reads that found them {hits}, others {misses}")?;
        if self.damaged_sectors > 0 {
            writeln!(f, "damaged sectors of the sidecar: {}", self.damaged_sectors)?;
        }
        Ok(())
    }
}

impl Display for FrontendsStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { served, failed, refused_messages, is_any_waiting } = self;
        writeln!(
            f,
            "front-ends so far: {served}, {failed} not accepted, {refused_messages} messages refused"
        )?;
        if *is_any_waiting {
            writeln!(f, "another front-end waits: the disk serves one at a time")?;
        }
        Ok(())
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
        let state = match self.state.as_str() {
            "running" => String::new(),
            state => format!("{state}, "),
        };
        let ring = match self.ring_size {
            0 => String::new(),
            size => format!("ring of {size}, "),
        };
        writeln!(f, "\nqueue {}: {state}{ring}{} in flight", self.queue, self.in_flight)?;
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
        let waits = &self.waits;
        if waits.sleeps + waits.polls_with_work > 0 {
            let polled = Duration::from_micros(waits.polled_us);
            writeln!(
                f,
                "  waits: {} ended by a poll, {} asleep; {} polls without work, {polled:?} in all",
                waits.polls_with_work, waits.sleeps, waits.polls_without
            )?;
        }
        let RewriteStatus { checked, found } = self.rewrites;
        if found > 0 {
            writeln!(f, "  writes whose data the guest changed meanwhile: {found} of {checked} looked at")?;
        }
        let throttle = &self.throttle;
        if throttle.waits + throttle.held_back > 0 {
            let waited = Duration::from_micros(throttle.waited_us);
            writeln!(
                f,
                "  limits: waited {} times, {waited:?} in all; held back {} requests, {} of them now",
                throttle.waits, throttle.held_back, throttle.held
            )?;
        }
        let errors = &self.errors;
        let errors = [
            ("integrity errors", errors.integrity_errors),
            ("unstable writes", errors.unstable_writes),
            ("device errors", errors.device_errors),
            ("out of space", errors.no_space),
            ("refused", errors.refused),
            ("unsupported", errors.unsupported),
            ("malformed", errors.malformed),
            ("slow", errors.slow),
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
