//! An error of the device fails one request and no other.

use std::sync::{Arc, Mutex};

use integrity::{Guard, IntegrityProfile, PiType, sidecar};
use rustix::io::Errno;
use stableblk::device::faulty::{Fault, FaultyDevice};
use stableblk::device::mem::MemDevice;
use stableblk::device::operation::{DeviceOperation, TransferDirection, ZeroBy};

use crate::gate::Gate;
use crate::guest::{Command, Guest, IOERR, Layout, NOT_WRITTEN, OK, Setup, guest_memory};
use crate::model::stamped;

const INTERVAL: u64 = 4096;
const BLOCKS_PER_INTERVAL: u64 = INTERVAL / 512;

fn profile() -> IntegrityProfile {
    IntegrityProfile::new(Guard::Crc64Nvme, PiType::Type1, 4096).unwrap()
}

fn disk() -> Arc<MemDevice> {
    Arc::new(MemDevice::new(Some(profile()), 16 << 20))
}

fn assert_verifies(device: &MemDevice) {
    let media = device.media();
    assert_eq!(sidecar::mismatches(&profile(), 0, &media.data, &media.tuples).unwrap().next(), None);
}

/// The operations that a request is made of, to choose the one that fails.
#[derive(Clone, Copy, Debug)]
enum Victim {
    Read,
    Write,
    MergeRead,
    MergeWrite,
    Zeroing,
    Flush,
}

impl Victim {
    /// The command that has the operation; its data start at interval 8.
    fn command(self) -> Command {
        let sector = 8 * BLOCKS_PER_INTERVAL;
        match self {
            Self::Read => Command::Read { sector, len: 8192 },
            Self::Write => Command::Write { sector, data: stamped(sector, 8192, 7) },
            Self::MergeRead | Self::MergeWrite => Command::Write { sector, data: stamped(sector, 512, 7) },
            Self::Zeroing => Command::Discard { sector, sectors: 16 },
            Self::Flush => Command::Flush,
        }
    }

    fn is(self, operation: &DeviceOperation) -> bool {
        match operation {
            DeviceOperation::Transfer(transfer) => {
                let kind = match self {
                    Self::Read => (TransferDirection::Read, false),
                    Self::Write => (TransferDirection::Write, false),
                    Self::MergeRead => (TransferDirection::Read, true),
                    Self::MergeWrite => (TransferDirection::Write, true),
                    Self::Zeroing | Self::Flush => return false,
                };
                transfer.offset() == 8 * INTERVAL && kind == (transfer.direction(), transfer.piece().merge)
            }
            DeviceOperation::Zero { by: ZeroBy::PunchHole, .. } => matches!(self, Self::Zeroing),
            DeviceOperation::Flush { .. } => matches!(self, Self::Flush),
            DeviceOperation::Zero { .. } => false,
        }
    }
}

#[test]
fn each_errno_fails_one_request() {
    let memory = guest_memory(1);
    let all =
        [Victim::Read, Victim::Write, Victim::MergeRead, Victim::MergeWrite, Victim::Zeroing, Victim::Flush];
    for errno in [Errno::IO, Errno::NOSPC, Errno::DQUOT, Errno::TIMEDOUT] {
        let (device, failing) = (disk(), Arc::new(Mutex::new(None::<Victim>)));
        let plan = failing.clone();
        let faulty = FaultyDevice::new(device.clone(), move |operation| {
            let fails = plan.lock().unwrap().is_some_and(|victim| victim.is(operation));
            fails.then_some(Fault::Error(errno.raw_os_error()))
        });
        let mut guest = Guest::start(&memory, Arc::new(faulty), Setup::default());
        for victim in all {
            guest.recycle();
            let before = Command::Write { sector: 64, data: stamped(64, 8192, 5) };
            assert_eq!(guest.perform(0, &before).outcome(), (OK, 1));
            let media = device.media().data.clone();

            *failing.lock().unwrap() = Some(victim);
            let first = guest.submit(0, &Command::Write { sector: 0, data: stamped(0, 4096, 1) });
            let failed = guest.submit(0, &victim.command());
            let last = guest.submit(0, &Command::Write { sector: 128, data: stamped(128, 512, 2) });
            let [first, failed, last] = guest.wait_for([first, failed, last]);
            assert_eq!((first.outcome(), last.outcome()), ((OK, 1), (OK, 1)), "{victim:?} {errno}");
            assert_eq!(failed.outcome(), (IOERR, 1), "{victim:?} {errno}");
            assert!(failed.data.iter().all(|&byte| byte == NOT_WRITTEN));
            let untouched = 8 * 4096..10 * 4096;
            assert_eq!(device.media().data[untouched.clone()], media[untouched], "{victim:?} {errno}");

            *failing.lock().unwrap() = None;
            assert_eq!(guest.perform(0, &victim.command()).status, OK, "{victim:?} {errno}");
        }
        let metrics = &guest.disk.metrics[0];
        let counted = (
            metrics.failed.no_space.get(),
            metrics.failed.device_errors.get(),
            metrics.failed.integrity_errors.get(),
        );
        let no_space = [Errno::NOSPC, Errno::DQUOT].contains(&errno);
        assert_eq!(counted, if no_space { (6, 0, 0) } else { (0, 6, 0) }, "{errno}");
        guest.stop_all();
        assert_verifies(&device);
    }
}

#[test]
fn one_failed_transfer_of_many_fails_the_request_once() {
    let memory = guest_memory(1);
    let device = disk();
    let faulty = FaultyDevice::new(device.clone(), |operation| match operation {
        DeviceOperation::Transfer(transfer) if transfer.offset() == 2 << 20 => {
            Some(Fault::Error(Errno::IO.raw_os_error()))
        }
        _ => None,
    });
    let mut guest = Guest::start(&memory, Arc::new(faulty), Setup::default());
    let large = Command::Write { sector: 0, data: stamped(0, 12 << 20, 3) };
    assert_eq!(guest.perform(0, &large).outcome(), (IOERR, 1));
    let read = guest.perform(0, &Command::Read { sector: 0, len: 12 << 20 });
    assert_eq!(read.outcome(), (IOERR, 1));
    assert_eq!(guest.disk.metrics[0].failed.device_errors.get(), 2);
    assert_eq!(guest.perform(0, &Command::Read { sector: 0, len: 1 << 20 }).status, OK);
    guest.stop_all();
    assert_verifies(&device);
}

#[test]
fn a_write_that_cannot_be_made_durable_fails_without_a_write_cache() {
    let memory = guest_memory(1);
    let faulty = FaultyDevice::new(disk(), |operation| {
        matches!(operation, DeviceOperation::Flush { .. }).then_some(Fault::Error(Errno::IO.raw_os_error()))
    });
    let setup = Setup { writethrough: true, ..Setup::default() };
    let mut guest = Guest::start(&memory, Arc::new(faulty), setup);
    let write = Command::Write { sector: 0, data: stamped(0, 4096, 1) };
    assert_eq!(guest.perform(0, &write).outcome(), (IOERR, 1));
    assert_eq!(guest.perform(0, &Command::Discard { sector: 0, sectors: 8 }).outcome(), (IOERR, 1));
    assert_eq!(guest.perform(0, &Command::Read { sector: 0, len: 4096 }).outcome(), (OK, 4097));
    guest.stop_all();
}

#[test]
fn completions_come_back_as_the_device_does_them() {
    let memory = guest_memory(1);
    let faulty = FaultyDevice::new(disk(), |operation| match operation {
        // the first is overtaken by all others
        DeviceOperation::Transfer(transfer)
            if transfer.direction() == TransferDirection::Read && transfer.offset() == 0 =>
        {
            Some(Fault::Delayed(100))
        }
        _ => None,
    });
    let mut guest = Guest::start(&memory, Arc::new(faulty), Setup::default());
    let data = stamped(0, 16384, 9);
    assert_eq!(guest.perform(0, &Command::Write { sector: 0, data: data.clone() }).status, OK);
    let reads = (0..4).map(|at| Command::Read { sector: at * 8, len: 4096 });
    let ids: Vec<_> = reads.map(|read| guest.lay_out(0, &read, &Layout::default())).collect();
    guest.make_all_available(&ids);
    let mut order = Vec::new();
    while order.len() < ids.len() {
        for completion in guest.wait() {
            let at = ids.iter().position(|id| *id == completion.id).unwrap();
            assert_eq!(completion.outcome(), (OK, 4097));
            assert_eq!(completion.data, data[at * 4096..(at + 1) * 4096]);
            order.push(at);
        }
    }
    assert_ne!(order[0], 0, "the delayed read came back first");
    guest.stop_all();
}

/// Requests of a worker are lost with its `io_uring`, but their ranges are released.
#[test]
fn a_queue_without_its_ring_lets_go_of_its_ranges() {
    let memory = guest_memory(2);
    let gate = Gate::default();
    let plan = gate.clone();
    let faulty = FaultyDevice::new(disk(), move |operation| match operation {
        DeviceOperation::Transfer(transfer) if transfer.len() == 8192 => {
            plan.pass();
            Some(Fault::Broken(Errno::NXIO.raw_os_error()))
        }
        _ => None,
    });
    let mut guest = Guest::start(&memory, Arc::new(faulty), Setup { queues: 2, ..Setup::default() });
    gate.close();
    guest.submit(0, &Command::Write { sector: 0, data: stamped(0, 8192, 1) });
    gate.until_reached();
    let waiting = guest.submit(1, &Command::Write { sector: 0, data: stamped(0, 4096, 2) });
    guest.until_popped(1);
    gate.open();
    let [completion] = guest.wait_for([waiting]);
    assert_eq!(completion.outcome(), (OK, 1));
    assert_eq!(guest.join(0).unwrap_err().raw_os_error(), Some(Errno::NXIO.raw_os_error()));
    guest.stop_all();
}

/// The requests that it waited for do not grant it a range later, when its place may be another's.
#[test]
fn a_queue_without_its_ring_no_longer_waits_for_ranges() {
    let memory = guest_memory(2);
    let gate = Gate::default();
    let plan = gate.clone();
    let faulty = FaultyDevice::new(disk(), move |operation| match operation {
        DeviceOperation::Transfer(transfer) if transfer.len() == 8192 => {
            Some(Fault::Broken(Errno::NXIO.raw_os_error()))
        }
        DeviceOperation::Transfer(_) => {
            plan.pass();
            None
        }
        _ => None,
    });
    let mut guest = Guest::start(&memory, Arc::new(faulty), Setup { queues: 2, ..Setup::default() });
    gate.close();
    let holder = guest.submit(0, &Command::Write { sector: 0, data: stamped(0, 4096, 1) });
    gate.until_reached();
    guest.submit(1, &Command::Write { sector: 0, data: stamped(0, 4096, 2) });
    guest.submit(1, &Command::Write { sector: 64, data: stamped(64, 8192, 3) });
    assert_eq!(guest.join(1).unwrap_err().raw_os_error(), Some(Errno::NXIO.raw_os_error()));
    gate.open();
    let [completion] = guest.wait_for([holder]);
    assert_eq!(completion.outcome(), (OK, 1));
    let read = guest.perform(0, &Command::Read { sector: 0, len: 4096 });
    assert_eq!(read.data, stamped(0, 4096, 1));
    guest.stop_all();
}
