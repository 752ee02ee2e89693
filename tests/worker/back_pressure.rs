//! Requests for more than the arena holds: all are served, some later, and no memory grows.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use integrity::{Guard, IntegrityProfile, PiType};
use stableblk::device::bounce::ARENA_SIZE;
use stableblk::device::faulty::{Fault, FaultyDevice};
use stableblk::device::mem::MemDevice;
use stableblk::device::operation::DeviceOperation;

use crate::guest::{Command, Guest, Layout, OK, Setup, guest_memory};
use crate::model::stamped;

fn disk() -> Arc<MemDevice> {
    let profile = IntegrityProfile::new(Guard::Crc64Nvme, PiType::Type1, 4096).unwrap();
    Arc::new(MemDevice::new(Some(profile), 32 << 20))
}

#[test]
fn more_in_flight_than_the_arena_holds() {
    const REQUESTS: u64 = 20;
    let memory = guest_memory(1);
    // all operations come back late, so that many are in flight
    let device = FaultyDevice::new(disk(), |_| Some(Fault::Delayed(5)));
    let setup = Setup { poll: Duration::from_millis(5), ..Setup::default() };
    let mut guest = Guest::start(&memory, Arc::new(device), setup);
    let sector = |at: u64| at << 11;
    let layout = Layout { indirect: true, ..Layout::default() };
    let writes = (0..REQUESTS)
        .map(|at| Command::Write { sector: sector(at), data: stamped(sector(at), 1 << 20, at + 1) });
    let ids: Vec<_> = writes.map(|write| guest.lay_out(0, &write, &layout)).collect();
    // more than the worker has folios for
    guest.make_all_available(&ids);
    while guest.outstanding() > 0 {
        guest.wait().iter().for_each(|completion| assert_eq!(completion.outcome(), (OK, 1)));
    }
    guest.recycle();
    let reads: Vec<_> = (0..REQUESTS)
        .map(|at| guest.submit(0, &Command::Read { sector: sector(at), len: 1 << 20 }))
        .collect();
    while guest.outstanding() > 0 {
        for completion in guest.wait() {
            let at = reads.iter().position(|id| *id == completion.id).unwrap() as u64;
            assert_eq!(completion.outcome(), (OK, (1 << 20) + 1));
            assert_eq!(completion.data, stamped(sector(at), 1 << 20, at + 1));
        }
    }
    let starved = guest.disk.metrics[0].starved.get();
    assert!(starved > 0);
    assert!(starved <= 2 * REQUESTS, "{starved}: counted when it looked again, not when it stopped");
    guest.stop_all();
}

#[test]
fn a_request_larger_than_the_arena() {
    for granule in [512, 4096, 8192, 65536] {
        let profile = IntegrityProfile::new(Guard::Crc64Nvme, PiType::Type1, 4096).unwrap();
        if granule >= profile.interval_size() {
            assert_cut_into_folios(Some(profile), granule);
        }
        assert_cut_into_folios(None, granule);
    }
}

/// Writes and reads 32 MiB, four times the arena; no transfer is longer than a folio.
fn assert_cut_into_folios(profile: Option<IntegrityProfile>, granule: usize) {
    let memory = guest_memory(1);
    let (submitted, largest) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let counters = (submitted.clone(), largest.clone());
    let device = Arc::new(MemDevice::new(profile, 34 << 20).with_granule(granule));
    let device = FaultyDevice::new(device, move |operation| {
        if let DeviceOperation::Transfer(transfer) = operation {
            counters.0.fetch_add(transfer.len(), Ordering::Relaxed);
            counters.1.fetch_max(transfer.len(), Ordering::Relaxed);
        }
        None
    });
    let mut guest = Guest::start(&memory, Arc::new(device), Setup::default());
    // half a granule off where it has halves, so that both ends are merged
    let sector = granule as u64 / 1024;
    let len = 4 * ARENA_SIZE;
    let data = stamped(sector, len, 77);
    assert_eq!(guest.perform(0, &Command::Write { sector, data: data.clone() }).outcome(), (OK, 1));
    let written = submitted.load(Ordering::Relaxed);
    let merged = if sector == 0 { 0 } else { 3 * granule };
    assert_eq!(written, len + merged, "two granules are read, and written whole");
    guest.recycle();
    let read = guest.perform(0, &Command::Read { sector, len: u32::try_from(len).unwrap() });
    assert_eq!(read.status, OK);
    assert!(read.data == data);
    assert!(largest.load(Ordering::Relaxed) <= 1 << 20);
    guest.stop_all();
}
