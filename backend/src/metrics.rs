//! Counters of one queue. The worker writes them, nobody on the path reads them.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crate::active::Work;
use crate::latency::LatencyHistogram;

/// A counter with one writer: no locked instruction on the path.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds `amount`. Only the owning worker may call it.
    pub fn add(&self, amount: u64) {
        self.0.store(self.0.load(Relaxed).wrapping_add(amount), Relaxed);
    }

    /// The value, from any thread.
    pub fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }

    /// Adds one and says whether this one should be logged: the 1st, 2nd, 4th, 8th and so on, so that a guest that makes
    /// errors cannot fill the log.
    pub fn add_logged(&self) -> bool {
        self.add(1);
        self.get().is_power_of_two()
    }
}

/// A value with one writer.
#[derive(Debug, Default)]
pub struct Gauge(AtomicU64);

impl Gauge {
    /// Only the owner of the queue may call it.
    pub fn set(&self, value: u64) {
        self.0.store(value, Relaxed);
    }

    /// The value, from any thread.
    pub fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// Why a ring that the front-end has set up gives no requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RingTrouble {
    /// It lies in no memory that the front-end has shared.
    NotShared,
    /// The driver has notified of buffers, and there are none.
    AlwaysEmpty,
}

impl RingTrouble {
    /// As a [`Gauge`] has it; 0 says that there is no trouble.
    pub const fn code(self) -> u64 {
        match self {
            Self::NotShared => 1,
            Self::AlwaysEmpty => 2,
        }
    }

    /// The trouble of a [`Gauge`].
    pub fn of(gauge: &Gauge) -> Option<Self> {
        [Self::NotShared, Self::AlwaysEmpty].into_iter().find(|trouble| trouble.code() == gauge.get())
    }

    /// What is seen, with the likely cause and its cure.
    pub const fn explain(self) -> &'static str {
        match self {
            Self::NotShared => {
                "the ring is in no memory that the front-end shares: let it share the guest's memory \
                (QEMU: `-object memory-backend-memfd,id=mem,size=...,share=on -numa node,memdev=mem`; \
                libvirt: `<access mode='shared'/>` in `<memoryBacking>`)"
            }
            Self::AlwaysEmpty => {
                "the driver has notified of requests, but the ring is empty as seen from here: the front-end \
                seems to share a private copy of the guest's memory: use `share=on` for QEMU's memory backend"
            }
        }
    }
}

/// What one queue has done since it was first started.
#[derive(Debug, Default)]
pub struct QueueMetrics {
    /// Entries of its ring; 0 while it is stopped.
    pub ring_size: Gauge,
    /// Seconds for which it has made no progress, as the watchdog last saw it; 0 while it does.
    pub stuck_s: Gauge,
    /// Turns that its worker has taken. It counts on while the worker is awake.
    pub turns: Counter,
    /// 1 while its worker is awake; 0 while that sleeps or there is none.
    pub awake: Gauge,
    /// Kicks after which the ring was empty, while no chain was ever popped from it.
    pub empty_kicks: Gauge,
    /// What seems to be wrong with its ring, as [`RingTrouble`] has it.
    pub ring_trouble: Gauge,
    /// Requests popped and not answered yet.
    pub in_flight: Gauge,
    /// Requests that have needed the device and were answered, well or not: it counts on while the queue makes progress.
    pub finished: Counter,
    /// Read requests completed, by the time from pop to answer.
    pub reads: LatencyHistogram,
    /// Bytes read by the guest.
    pub bytes_read: Counter,
    /// Write requests completed, likewise.
    pub writes: LatencyHistogram,
    /// Bytes written by the guest.
    pub bytes_written: Counter,
    /// Flush requests completed, likewise.
    pub flushes: LatencyHistogram,
    /// Discard and write zeroes requests completed, likewise.
    pub zeroings: LatencyHistogram,
    /// Requests answered IOERR because the file system under the image or the sidecar, or a quota on it, is full.
    pub no_space: Counter,
    /// Requests answered IOERR because the device failed in another way.
    pub device_errors: Counter,
    /// 1 when a flush has failed, so that none is believed until the storage is opened anew.
    pub flushes_fail: Gauge,
    /// Requests answered IOERR because PI did not match.
    pub integrity_errors: Counter,
    /// Transfers that failed because the guest changed its data while they were written: only with `--bounce never`, on a device that
    /// checks what it is given.
    pub unstable_writes: Counter,
    /// Requests refused as the driver's mistake: out of range, misaligned, a write to a read-only disk.
    pub refused: Counter,
    /// Chains that were no request.
    pub malformed: Counter,
    /// Times the queue was given up.
    pub retired: Counter,
    /// Requests of a type that is not supported.
    pub unsupported: Counter,
    /// Times the worker stopped popping because no folio was free.
    pub starved: Counter,
}

impl QueueMetrics {
    /// Whether the queue has ever been of use, or of trouble.
    pub fn has_served(&self) -> bool {
        let answers = [&self.finished, &self.refused, &self.malformed, &self.retired, &self.unsupported];
        answers.iter().any(|counter| counter.get() > 0) || self.ring_trouble.get() > 0
    }

    /// Counts a request that was done, over `len` bytes, in `ns` nanoseconds.
    pub fn count(&self, work: Work, len: u64, ns: u64) {
        let (requests, bytes) = match work {
            Work::Read => (&self.reads, Some(&self.bytes_read)),
            Work::Write => (&self.writes, Some(&self.bytes_written)),
            Work::Zero(_) => (&self.zeroings, None),
            Work::Flush => (&self.flushes, None),
        };
        requests.add(ns);
        if let Some(bytes) = bytes {
            bytes.add(len);
        }
    }
}
