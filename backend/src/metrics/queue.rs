//! Counters of one queue. The worker writes them, nobody on the path reads them.

use super::counter::{Counter, Gauge};
use super::histogram::LatencyHistogram;

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
    /// What seems to be wrong with its ring, as [`RingTrouble`](super::RingTrouble) has it.
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
}
