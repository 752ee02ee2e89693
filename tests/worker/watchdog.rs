//! The watchdog reports a queue that makes no progress once, and wakes no thread while there is
//! nothing to watch over.

use std::sync::Arc;
use std::time::{Duration, Instant};

use stableblk::control::watchdog::Watchdog;
use stableblk::device::faulty::FaultyDevice;
use stableblk::device::mem::MemDevice;
use stableblk::device::operation::DeviceOperation;

use crate::gate::Gate;
use crate::guest::{Command, Guest, Setup, guest_memory, until};

const LIMIT: Duration = Duration::from_secs(10);

#[test]
fn a_queue_that_hangs_is_reported_until_it_makes_progress() {
    let gate = Gate::default();
    let closed = gate.clone();
    let device = FaultyDevice::new(Arc::new(MemDevice::new(None, 1 << 20)), move |operation| {
        if let DeviceOperation::Flush { .. } = operation {
            closed.pass();
        }
        None
    });
    let memory = guest_memory(2);
    let mut guest = Guest::start(&memory, Arc::new(device), Setup { queues: 2, ..Setup::default() });
    let disk = guest.disk.clone();
    let mut watchdog = Watchdog::new(Some(LIMIT), &disk.watch, 2).unwrap();
    let start = Instant::now();
    let mut at = |seconds: u64, woken: bool| {
        let now = start + Duration::from_secs(seconds);
        if woken {
            watchdog.woken(&disk.watch, now);
        }
        watchdog.look(&disk.watch, &disk.metrics, &disk.inboxes, now);
        (disk.metrics[0].stuck_s.get(), disk.metrics[1].stuck_s.get(), watchdog.rest(now).is_some())
    };
    assert_eq!(at(0, false), (0, 0, false), "it looks at nothing");
    // a rest is not counted: what comes now comes at second 1
    // reported by a worker that is blocked in its device
    gate.close();
    guest.submit(0, &Command::Flush);
    gate.until_reached();
    guest.disk.metrics[0].in_flight.set(1);
    assert_eq!(at(1, true), (0, 0, true));
    assert_eq!(at(4, false), (0, 0, true));
    assert_eq!(at(10, false), (0, 0, true), "not yet");
    assert_eq!(at(13, false), (12, 0, true));
    assert_eq!(at(30, false), (29, 0, true));
    gate.open();
    guest.wait();
    // a worker that still polls is not idle
    let metrics = &guest.disk.metrics;
    until(|| metrics[0].in_flight.get() == 0 && metrics.iter().all(|metrics| metrics.awake.get() == 0));
    assert_eq!(at(40, false), (0, 0, true), "it has made progress");
    assert_eq!(at(50, false), (0, 0, true), "idle for one look");
    assert_eq!(at(60, false), (0, 0, false), "it rests");
    guest.stop_all();
}
