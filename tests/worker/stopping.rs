//! A queue stops by drain: requests that were popped come back, the others stay for the next
//! worker.

use std::sync::Arc;

use integrity::{Guard, IntegrityProfile, PiType};
use stableblk::device::faulty::FaultyDevice;
use stableblk::device::mem::MemDevice;
use stableblk::device::operation::{DeviceOperation, TransferDirection};

use crate::gate::Gate;
use crate::guest::{Command, Guest, Layout, OK, Setup, guest_memory};
use crate::model::stamped;

/// Where writes wait for a gate: at the start of the disk, and where the ninth of 1 MiB starts.
struct Gates {
    first: Gate,
    ninth: Gate,
}

fn gated_disk() -> (FaultyDevice<MemDevice>, Gates) {
    let profile = IntegrityProfile::new(Guard::Crc64Nvme, PiType::Type1, 4096).unwrap();
    let device = Arc::new(MemDevice::new(Some(profile), 32 << 20));
    let (first, ninth) = (Gate::default(), Gate::default());
    let gates = Gates { first: first.clone(), ninth: ninth.clone() };
    let faulty = FaultyDevice::new(device, move |operation| {
        match operation {
            DeviceOperation::Transfer(transfer) if transfer.direction() == TransferDirection::Read => {}
            DeviceOperation::Transfer(transfer) if transfer.offset() == 0 => first.pass(),
            DeviceOperation::Transfer(transfer) if transfer.offset() == 8 << 20 => ninth.pass(),
            _ => {}
        }
        None
    });
    (faulty, gates)
}

#[test]
fn a_queue_that_waits_for_another_ones_range_stops_after_it() {
    let memory = guest_memory(2);
    let (device, Gates { first: gate, .. }) = gated_disk();
    let mut guest = Guest::start(&memory, Arc::new(device), Setup { queues: 2, ..Setup::default() });
    gate.close();
    let holder = guest.submit(0, &Command::Write { sector: 0, data: stamped(0, 4096, 1) });
    gate.until_reached();
    let waiting = guest.submit(1, &Command::Read { sector: 0, len: 4096 });
    guest.until_popped(1);
    guest.ask_to_stop_and_wait_for_sleep(1);
    assert!(!guest.has_stopped(1), "a chain was popped and not returned");
    gate.open();
    let [holder, waiting] = guest.wait_for([holder, waiting]);
    assert_eq!((holder.outcome(), waiting.outcome()), ((OK, 1), (OK, 4097)));
    assert_eq!(waiting.data, stamped(0, 4096, 1));
    assert_eq!(guest.join(1).unwrap().ring.outstanding(), 0);
    guest.stop_all();
}

#[test]
fn a_queue_that_stops_hands_its_ranges_on() {
    let memory = guest_memory(2);
    let (device, Gates { first: gate, .. }) = gated_disk();
    let mut guest = Guest::start(&memory, Arc::new(device), Setup { queues: 2, ..Setup::default() });
    gate.close();
    let holder = guest.submit(0, &Command::Write { sector: 0, data: stamped(0, 4096, 1) });
    gate.until_reached();
    let waiting = guest.submit(1, &Command::Read { sector: 0, len: 512 });
    guest.until_popped(1);
    guest.ask_to_stop(0);
    gate.open();
    let [holder, waiting] = guest.wait_for([holder, waiting]);
    assert_eq!((holder.status, waiting.status), (OK, OK));
    guest.stop_all();
}

#[test]
fn a_queue_without_free_folios_stops_after_the_requests_it_popped() {
    // a batch is as large at most
    const FIRST: usize = 16;
    let memory = guest_memory(1);
    let (device, gates) = gated_disk();
    let mut guest = Guest::start(&memory, Arc::new(device), Setup::default());
    gates.first.close();
    gates.ninth.close();
    let writes =
        (0..25).map(|at| Command::Write { sector: at << 11, data: stamped(at << 11, 1 << 20, at + 1) });
    let layout = Layout { indirect: true, ..Layout::default() };
    let ids: Vec<_> = writes.map(|write| guest.lay_out(0, &write, &layout)).collect();
    let (first, left) = ids.split_at(FIRST);
    guest.make_all_available(first);
    gates.first.until_reached();
    guest.make_all_available(left);
    gates.first.open();
    // eight have the arena: no more is popped
    gates.ninth.until_reached();
    guest.ask_to_stop(0);
    gates.ninth.open();
    let vring = guest.join(0).unwrap();
    assert_eq!(vring.ring.outstanding(), 0);
    let popped = usize::from(vring.ring.next_avail());
    // eight, and two of which the first found no folio; all at once if the worker has not slept
    // yet, so has no reason to begin small
    assert!([10, FIRST].contains(&popped), "{popped}");
    let completions = guest.completions();
    assert!(completions.iter().all(|completion| ids[..popped].contains(&completion.id)));
    assert_eq!(completions.len(), popped);

    guest.start_queue(0, vring.ring);
    while guest.outstanding() > 0 {
        guest.wait().iter().for_each(|completion| assert_eq!(completion.outcome(), (OK, 1)));
    }
    for at in [0, 24] {
        let sector = at << 11;
        let read = guest.perform(0, &Command::Read { sector, len: 4096 });
        assert_eq!(read.data, stamped(sector, 4096, at + 1));
    }
    guest.stop_all();
}
