//! The figures of one run.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::usage::{CpuUse, Memory};

/// The figures of one run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Sample {
    pub(crate) iops: f64,
    pub(crate) mib_per_s: f64,
    pub(crate) p50_us: f64,
    pub(crate) p99_us: f64,
    pub(crate) p999_us: f64,
    /// The back-end's CPU time a request, in user mode.
    pub(crate) user_us: f64,
    /// The same in the kernel.
    pub(crate) system_us: f64,
    /// The back-end's, at the end of the window.
    pub(crate) memory: Option<Memory>,
    /// Share of the window in which the client had work: near 1, the figures are the client's.
    pub(crate) client_busy: Option<f64>,
    /// Bytes that the back-end wrote from its start to its end, for each byte that its guest wrote.
    #[serde(default)]
    pub(crate) written_by_guest_byte: Option<f64>,
}

impl Sample {
    /// The figures of `requests` that took `window` and the CPU time `used`, without latencies.
    #[expect(clippy::cast_precision_loss, reason = "fewer than 2^53 requests")]
    pub(crate) fn of_requests(requests: u64, block_size: usize, window: Duration, used: CpuUse) -> Self {
        let iops = requests as f64 / window.as_secs_f64();
        let per_request = |seconds: f64| seconds * 1e6 / requests.max(1) as f64;
        Self {
            iops,
            mib_per_s: iops * block_size as f64 / f64::from(1 << 20),
            p50_us: 0.0,
            p99_us: 0.0,
            p999_us: 0.0,
            user_us: per_request(used.user),
            system_us: per_request(used.system),
            memory: None,
            client_busy: None,
            written_by_guest_byte: None,
        }
    }

    /// Bytes written by bytes of the guest; no number where they were not counted.
    pub(crate) fn written(&self) -> f64 {
        self.written_by_guest_byte.unwrap_or(f64::NAN)
    }

    /// The back-end's CPU time a request, in microseconds.
    pub(crate) fn cpu_us(&self) -> f64 {
        self.user_us + self.system_us
    }
}

/// A back-end with a client that asks for nothing.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub(crate) struct Idle {
    /// Context switches of all threads, a second.
    pub(crate) wake_ups_per_s: f64,
    /// Share of one core.
    pub(crate) cpu: f64,
}

impl Idle {
    #[expect(clippy::cast_precision_loss, reason = "fewer than 2^53 context switches")]
    pub(crate) fn new(switches: u64, used: CpuUse, time: Duration) -> Self {
        let seconds = time.as_secs_f64();
        Self { wake_ups_per_s: switches as f64 / seconds, cpu: (used.user + used.system) / seconds }
    }
}

/// The output of `load`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct LoadResult {
    pub(crate) sample: Sample,
    /// After the warm-up.
    pub(crate) memory_before: Memory,
    /// By the guest, from the beginning.
    pub(crate) written_bytes: u64,
    pub(crate) idle: Option<Idle>,
}

impl LoadResult {
    /// Of a back-end that had written `bytes` to disks when it ended.
    #[expect(clippy::cast_precision_loss, reason = "fewer than 2^53 bytes")]
    pub(crate) fn with_written(self, bytes: Option<u64>) -> Self {
        let guest = Some(self.written_bytes).filter(|bytes| *bytes > 0);
        let written_by_guest_byte = bytes.zip(guest).map(|(bytes, guest)| bytes as f64 / guest as f64);
        Self { sample: Sample { written_by_guest_byte, ..self.sample }, ..self }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_of_the_window() {
        let used = CpuUse { user: 0.3, system: 0.1 };
        let sample = Sample::of_requests(1_000_000, 4096, Duration::from_millis(500), used);
        assert!((sample.iops - 2e6).abs() < 1e-3);
        assert!((sample.mib_per_s - 7812.5).abs() < 1e-3);
        assert!((sample.cpu_us() - 0.4).abs() < 1e-9 && (sample.user_us - 0.3).abs() < 1e-9);
    }

    #[test]
    fn bytes_written_are_those_of_the_whole_run() {
        let result = |written_bytes| LoadResult {
            sample: Sample::of_requests(1, 4096, Duration::from_secs(1), CpuUse { user: 0.0, system: 0.0 }),
            memory_before: Memory { own_kib: 0, shared_kib: 0 },
            written_bytes,
            idle: None,
        };
        let of = |guest, back_end| result(guest).with_written(back_end).sample.written_by_guest_byte;
        assert_eq!(of(4096, Some(5120)), Some(1.25));
        assert_eq!((of(0, Some(4096)), of(4096, None)), (None, None));
    }

    #[test]
    fn idle_is_a_second() {
        let idle = Idle::new(30, CpuUse { user: 0.25, system: 0.25 }, Duration::from_secs(2));
        assert_eq!(idle, Idle { wake_ups_per_s: 15.0, cpu: 0.25 });
    }
}
