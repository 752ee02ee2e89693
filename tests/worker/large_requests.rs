//! Requests that are cut into pieces.

use std::sync::{Arc, Mutex};

use integrity::{Guard, IntegrityProfile, PiType};
use stableblk::device::faulty::{Fault, FaultyDevice};
use stableblk::device::mem::MemDevice;
use stableblk::device::operation::{DeviceOperation, TransferDirection};

use crate::guest::{Command, Guest, IOERR, NOT_WRITTEN, OK, Setup, guest_memory};
use crate::model::stamped;

const MIB: usize = 1 << 20;

fn disk() -> Arc<MemDevice> {
    let profile = IntegrityProfile::new(Guard::Crc64Nvme, PiType::Type1, 4096).unwrap();
    Arc::new(MemDevice::new(Some(profile), 8 * MIB))
}

fn read(sector: u64) -> Command {
    Command::Read { sector, len: 1 << 20 }
}

/// The device does its operations when it is entered. At each piece the test looks whether the
/// pieces before it are done.
#[test]
fn an_idle_device_works_while_the_next_piece_is_copied() {
    let memory = guest_memory(1);
    let (disk, data) = (disk(), stamped(0, MIB, 1));
    let (media, expected) = (disk.clone(), data.clone());
    let pieces = Arc::new(Mutex::new(Vec::new()));
    let seen = pieces.clone();
    let device = FaultyDevice::new(disk, move |operation| {
        if let DeviceOperation::Transfer(transfer) = operation {
            let before = usize::try_from(transfer.offset()).unwrap();
            let is_there = media.media().data[..before] == expected[..before];
            let folio = transfer.folio().unwrap().as_ptr().addr();
            seen.lock().unwrap().push((transfer.direction(), is_there, folio));
        }
        None
    });
    let mut guest = Guest::start(&memory, Arc::new(device), Setup::default());
    assert_eq!(guest.perform(0, &Command::Write { sector: 0, data: data.clone() }).outcome(), (OK, 1));
    let written = std::mem::take(&mut *pieces.lock().unwrap());
    assert!(written.len() > 1);
    for (direction, is_there, folio) in &written {
        assert_eq!((*direction, *is_there), (TransferDirection::Write, true));
        assert_eq!(*folio, written[0].2, "the folio of the last piece is the one that is in the cache");
    }
    guest.recycle();
    assert!(guest.perform(0, &read(0)).data == data);
    guest.stop_all();
}

/// Also where the good pieces arrive before the others are asked for.
#[test]
fn a_read_of_which_one_piece_is_bad_gives_the_guest_nothing() {
    let memory = guest_memory(1);
    let disk = disk();
    let mut guest = Guest::start(&memory, disk.clone(), Setup::default());
    let data = stamped(0, MIB, 1);
    guest.perform(0, &Command::Write { sector: 0, data: data.clone() });
    for bad in [0, MIB / 2, MIB - 1] {
        guest.recycle();
        disk.media().data[bad] ^= 1;
        let failed = guest.perform(0, &read(0));
        assert_eq!(failed.outcome(), (IOERR, 1));
        assert!(failed.data.iter().all(|&byte| byte == NOT_WRITTEN), "unverified bytes reached the guest");
        disk.media().data[bad] ^= 1;
    }
    guest.recycle();
    assert!(guest.perform(0, &read(0)).data == data);
    guest.stop_all();
}

/// Pieces come back in another order, and between those of other requests.
#[test]
fn pieces_that_overtake_each_other_are_one_request() {
    let memory = guest_memory(1);
    let device = FaultyDevice::new(disk(), |operation| match operation {
        DeviceOperation::Transfer(transfer) => {
            let piece = usize::try_from(transfer.offset() >> 18).unwrap();
            (piece % 4 < 2).then_some(Fault::Delayed(7 - piece % 4))
        }
        _ => None,
    });
    let mut guest = Guest::start(&memory, Arc::new(device), Setup::default());
    let sectors = [0, 2048, 4096];
    for sector in sectors {
        guest.submit(0, &Command::Write { sector, data: stamped(sector, MIB, sector) });
    }
    while guest.outstanding() > 0 {
        assert!(guest.wait().iter().all(|write| write.outcome() == (OK, 1)));
    }
    guest.recycle();
    let reads = sectors.map(|sector| guest.submit(0, &read(sector)));
    while guest.outstanding() > 0 {
        for completion in guest.wait() {
            let sector = sectors[reads.iter().position(|id| *id == completion.id).unwrap()];
            assert_eq!(completion.outcome(), (OK, (1 << 20) + 1));
            assert!(completion.data == stamped(sector, MIB, sector));
        }
    }
    guest.stop_all();
}
