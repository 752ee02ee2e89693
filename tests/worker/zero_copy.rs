//! Without PI the guest's own memory goes to the device, except where that would not be safe.

use std::sync::Arc;

use stableblk::device::mem::MemDevice;
use stableblk::worker::disk::Bounce;

use crate::guest::{Command, Guest, IOERR, OK, Setup, guest_memory};

/// The status of a read from a device that refuses transfers without a bounce folio.
fn status(setup: Setup) -> u8 {
    let memory = guest_memory(1);
    let device = Arc::new(MemDevice::new(None, 1 << 20));
    let mut guest = Guest::start(&memory, device, Setup { bounce: Bounce::WhenUnaligned, ..setup });
    let status = guest.perform(0, &Command::Read { sector: 0, len: 4096 }).status;
    guest.stop_all();
    status
}

/// A shared lock lets a successor serve while a read of a killed back-end is still in flight.
#[test]
fn a_read_only_disk_with_an_in_flight_region_bounces() {
    let setup = |read_only, inflight| Setup { read_only, inflight, ..Setup::default() };
    assert_eq!(status(setup(false, false)), IOERR, "zero copy is not what this test thinks");
    assert_eq!(status(setup(true, false)), IOERR, "nothing is done again without a region");
    assert_eq!(status(setup(false, true)), IOERR, "the exclusive lock is enough");
    assert_eq!(status(setup(true, true)), OK);
}
