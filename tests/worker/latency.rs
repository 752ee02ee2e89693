//! The metrics of a queue: each request that succeeded is in the histogram of its kind.

use std::sync::Arc;
use std::time::{Duration, Instant};

use stableblk::device::faulty::{Fault, FaultyDevice};
use stableblk::device::mem::MemDevice;
use stableblk::device::operation::{DeviceOperation, ZeroBy};
use stableblk::metrics::LatencyHistogram;

use crate::gate::Gate;
use crate::guest::{Command, Guest, IOERR, OK, Setup, guest_memory, until};

/// A disk that fails to punch holes, and whose flushes wait at the gate.
fn disk(gate: Gate) -> Arc<FaultyDevice<MemDevice>> {
    let device = Arc::new(MemDevice::new(None, 1 << 20));
    Arc::new(FaultyDevice::new(device, move |operation| match operation {
        DeviceOperation::Zero { by: ZeroBy::PunchHole, .. } => Some(Fault::Error(libc::EIO)),
        DeviceOperation::Flush { .. } => {
            gate.pass();
            None
        }
        _ => None,
    }))
}

#[test]
fn each_request_that_is_done_is_in_the_histogram_of_its_kind() {
    let memory = guest_memory(1);
    let mut guest = Guest::start(&memory, disk(Gate::default()), Setup::default());
    for index in 0..40 {
        let sector = index * 8;
        assert_eq!(guest.perform(0, &Command::Write { sector, data: vec![7; 4096] }).status, OK);
        if index % 2 == 0 {
            assert_eq!(guest.perform(0, &Command::Read { sector, len: 512 }).status, OK);
        }
        if index % 4 == 0 {
            assert_eq!(guest.perform(0, &Command::Flush).status, OK);
        }
    }
    let zero = Command::WriteZeroes { sector: 0, sectors: 8, unmap: false };
    assert_eq!(guest.perform(0, &zero).status, OK);
    assert_eq!(guest.perform(0, &Command::Discard { sector: 0, sectors: 8 }).status, IOERR);
    // past the end: refused without the device
    assert_eq!(guest.perform(0, &Command::Read { sector: 1 << 20, len: 512 }).status, IOERR);
    guest.stop_all();

    let metrics = &guest.disk.metrics[0];
    let kinds = [
        &metrics.completed.reads,
        &metrics.completed.writes,
        &metrics.completed.flushes,
        &metrics.completed.zeroings,
    ];
    assert_eq!(kinds.map(LatencyHistogram::count), [20, 40, 10, 1]);
    for kind in kinds {
        assert_eq!(kind.buckets().iter().map(|bucket| bucket.count).sum::<u64>(), kind.count());
        let least = kind.buckets().iter().map(|bucket| bucket.from_us * bucket.count).sum::<u64>();
        assert!(least <= kind.total_us() + kind.count(), "{least} us are more than {}", kind.total_us());
    }
    // a failed request has no latency, but counts as progress
    assert_eq!(
        (metrics.finished.get(), metrics.failed.device_errors.get(), metrics.failed.refused.get()),
        (72, 1, 1)
    );
    assert_eq!(metrics.in_flight.get(), 0);
}

#[test]
fn a_request_that_is_held_up_is_in_a_late_bucket() {
    let gate = Gate::default();
    let memory = guest_memory(1);
    let mut guest = Guest::start(&memory, disk(gate.clone()), Setup::default());
    guest.perform(0, &Command::Read { sector: 0, len: 512 });
    gate.close();
    guest.submit(0, &Command::Flush);
    gate.until_reached();
    let held = Instant::now();
    until(|| held.elapsed() > Duration::from_millis(20));
    let held = u64::try_from(held.elapsed().as_micros()).unwrap();
    gate.open();
    guest.wait();
    let buckets = guest.disk.metrics[0].completed.flushes.buckets();
    let [bucket] = buckets[..] else { panic!("{buckets:?}") };
    assert!(
        bucket.count == 1 && bucket.below_us.is_none_or(|below| below > held),
        "{bucket:?} after {held} us"
    );
    assert!(guest.disk.metrics[0].completed.flushes.total_us() >= held);
    guest.stop_all();
}
