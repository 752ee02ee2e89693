//! Media that do not hold the data that was written: the next read finds that, distinguishes the
//! causes, and gives the guest no byte.

use std::ops::Range;
use std::sync::{Arc, Mutex};

use integrity::sidecar::{self, Mismatch};
use integrity::{Guard, IntegrityProfile, PiError, PiType, Tag};
use stableblk::device::faulty::{Fault, FaultyDevice};
use stableblk::device::mem::{MemDevice, MemMedia};
use stableblk::device::operation::{DeviceOperation, TransferDirection};
use stableblk::guest::memory_table::GuestMemory;

use crate::guest::{Command, Guest, IOERR, NOT_WRITTEN, OK, Setup, guest_memory};
use crate::model::stamped;

const INTERVAL: usize = 4096;
const TUPLE: usize = 16;

fn profile() -> IntegrityProfile {
    IntegrityProfile::new(Guard::Crc64Nvme, PiType::Type1, 4096).unwrap()
}

fn mismatches(media: &MemMedia) -> Vec<Mismatch> {
    sidecar::mismatches(&profile(), 0, &media.data, &media.tuples).unwrap().collect()
}

/// Where interval `lba` and its tuple are.
fn place(lba: usize) -> (Range<usize>, Range<usize>) {
    (lba * INTERVAL..(lba + 1) * INTERVAL, lba * TUPLE..(lba + 1) * TUPLE)
}

/// A disk, a guest, and the fault that the next transfer in one direction meets.
struct Bench<'m> {
    device: Arc<MemDevice>,
    fault: Arc<Mutex<Option<(TransferDirection, Fault)>>>,
    guest: Guest<'m, FaultyDevice<MemDevice>>,
}

impl<'m> Bench<'m> {
    fn new(memory: &'m Arc<GuestMemory>) -> Self {
        Self::on(memory, MemDevice::new(Some(profile()), 1 << 20))
    }

    fn on(memory: &'m Arc<GuestMemory>, device: MemDevice) -> Self {
        let (device, fault) = (Arc::new(device), Arc::new(Mutex::new(None::<(TransferDirection, Fault)>)));
        let next = fault.clone();
        let faulty = FaultyDevice::new(device.clone(), move |operation| match operation {
            DeviceOperation::Transfer(transfer) => next
                .lock()
                .unwrap()
                .take_if(|(direction, _)| *direction == transfer.direction())
                .map(|it| it.1),
            _ => None,
        });
        let guest = Guest::start(memory, Arc::new(faulty), Setup::default());
        Self { device, fault, guest }
    }

    fn fail_next(&self, direction: TransferDirection, fault: Fault) {
        *self.fault.lock().unwrap() = Some((direction, fault));
    }

    /// Writes interval `lba`.
    fn write(&mut self, lba: u64, stamp: u64) {
        let data = stamped(lba * 8, INTERVAL, stamp);
        assert_eq!(self.guest.perform(0, &Command::Write { sector: lba * 8, data }).outcome(), (OK, 1));
    }

    fn assert_reads(&mut self, lba: u64, stamp: u64) {
        let read = self.guest.perform(0, &Command::Read { sector: lba * 8, len: 4096 });
        assert_eq!(read.outcome(), (OK, 4097));
        assert_eq!(read.data, stamped(lba * 8, INTERVAL, stamp));
    }

    /// Reads interval `lba`, which fails, between others that succeed.
    fn assert_unreadable(&mut self, lba: u64) {
        let errors = self.guest.disk.metrics[0].failed.integrity_errors.get();
        let read = self.guest.perform(0, &Command::Read { sector: lba * 8, len: 4096 });
        assert_eq!(read.outcome(), (IOERR, 1));
        assert!(read.data.iter().all(|&byte| byte == NOT_WRITTEN), "unverified bytes reached the guest");
        assert_eq!(self.guest.disk.metrics[0].failed.integrity_errors.get(), errors + 1);
        assert_eq!(self.guest.disk.metrics[0].failed.device_errors.get(), 0);
    }

    fn mismatches(&self) -> Vec<Mismatch> {
        mismatches(&self.device.media())
    }

    /// The only mismatch of the media: its interval and its tag.
    fn mismatch(&self) -> (u64, Tag) {
        match self.mismatches()[..] {
            [Mismatch::Pi(PiError { lba, tag, .. })] => (lba, tag),
            ref other => panic!("{other:?}"),
        }
    }
}

#[test]
fn a_bit_that_flips_on_the_way_to_the_media() {
    let memory = guest_memory(1);
    let mut bench = Bench::new(&memory);
    bench.fail_next(TransferDirection::Write, Fault::FlippedBit(8 * 4000 + 3));
    bench.write(5, 1);
    bench.assert_unreadable(5);
    assert_eq!(bench.mismatch(), (5, Tag::Guard));
    bench.write(5, 2);
    bench.assert_reads(5, 2);
    bench.guest.stop_all();
}

#[test]
fn a_bit_that_flips_on_the_way_to_the_guest() {
    let memory = guest_memory(1);
    let mut bench = Bench::new(&memory);
    bench.write(5, 1);
    bench.fail_next(TransferDirection::Read, Fault::FlippedBit(0));
    bench.assert_unreadable(5);
    bench.assert_reads(5, 1);
    assert_eq!(bench.mismatches(), []);
    bench.guest.stop_all();
}

#[test]
fn a_misdirected_write() {
    let memory = guest_memory(1);
    let mut bench = Bench::new(&memory);
    bench.write(7, 1);
    bench.fail_next(TransferDirection::Write, Fault::Misdirected(2 * 4096));
    bench.write(5, 2);
    bench.assert_unreadable(7);
    assert_eq!(bench.mismatch(), (7, Tag::Reference));
    bench.guest.stop_all();
}

#[test]
fn a_misdirected_read() {
    let memory = guest_memory(1);
    let mut bench = Bench::new(&memory);
    bench.write(5, 1);
    bench.write(7, 2);
    bench.fail_next(TransferDirection::Read, Fault::Misdirected(2 * 4096));
    bench.assert_unreadable(5);
    bench.assert_reads(5, 1);
    bench.guest.stop_all();
}

/// The folio holds another block and the tuple that is right for it.
#[test]
fn a_read_that_was_not_done() {
    let memory = guest_memory(1);
    let mut bench = Bench::new(&memory);
    bench.write(5, 1);
    bench.write(7, 2);
    bench.assert_reads(7, 2);
    bench.fail_next(TransferDirection::Read, Fault::Lost);
    bench.assert_unreadable(5);
    bench.guest.stop_all();
}

/// A loss that type 1 protection cannot find: a block that was lost together with its tuple is the
/// old one.
#[test]
fn a_write_lost_with_its_tuples_leaves_the_old_block() {
    let memory = guest_memory(1);
    let mut bench = Bench::new(&memory);
    bench.write(5, 1);
    bench.fail_next(TransferDirection::Write, Fault::Lost);
    bench.write(5, 2);
    bench.assert_reads(5, 1);
    bench.guest.stop_all();
}

/// Puts a part of the media back to what it was before interval 5 was written again.
fn lose_part_of_a_write(bench: &mut Bench<'_>, part: impl Fn(&mut MemMedia, &MemMedia)) {
    let before = {
        let media = bench.device.media();
        MemMedia { data: media.data.clone(), tuples: media.tuples.clone() }
    };
    bench.write(5, 2);
    part(&mut bench.device.media(), &before);
}

#[test]
fn lost_data_and_a_torn_block() {
    let memory = guest_memory(1);
    for lost in [0..4096, 2048..4096, 4095..4096] {
        let mut bench = Bench::new(&memory);
        bench.write(5, 1);
        lose_part_of_a_write(&mut bench, |media, before| {
            let lost = 5 * INTERVAL + lost.start..5 * INTERVAL + lost.end;
            media.data[lost.clone()].copy_from_slice(&before.data[lost]);
        });
        bench.assert_unreadable(5);
        assert_eq!(bench.mismatch(), (5, Tag::Guard));
        bench.guest.stop_all();
    }
}

#[test]
fn a_lost_tuple() {
    let memory = guest_memory(1);
    let lose_tuple = |media: &mut MemMedia, before: &MemMedia| {
        let (_, tuple) = place(5);
        media.tuples[tuple.clone()].copy_from_slice(&before.tuples[tuple]);
    };
    let mut bench = Bench::new(&memory);
    lose_part_of_a_write(&mut bench, lose_tuple);
    bench.assert_unreadable(5);
    assert_eq!(bench.mismatches(), [Mismatch::UnwrittenNotZero { lba: 5 }]);
    bench.write(5, 1);
    lose_part_of_a_write(&mut bench, lose_tuple);
    bench.assert_unreadable(5);
    assert_eq!(bench.mismatch(), (5, Tag::Guard));
    bench.guest.stop_all();
}

#[test]
fn a_bad_block_fails_the_read_that_has_it_and_no_other() {
    let memory = guest_memory(1);
    let mut bench = Bench::new(&memory);
    (0..8).for_each(|lba| bench.write(lba, lba + 1));
    bench.device.media().data[5 * INTERVAL] ^= 1;
    let reads = [(0, 8), (0, 5), (5, 1), (6, 2)].map(|(lba, count)| {
        let read = Command::Read { sector: lba * 8, len: count * 4096 };
        bench.guest.submit(0, &read)
    });
    let completions = bench.guest.wait_for(reads);
    let outcomes = completions.each_ref().map(|completion| completion.status);
    assert_eq!(outcomes, [IOERR, OK, IOERR, OK]);
    assert!(completions[0].data.iter().all(|&byte| byte == NOT_WRITTEN));
    bench.guest.stop_all();
}

#[test]
fn a_partial_write_beside_a_bad_block_changes_nothing() {
    let memory = guest_memory(1);
    let mut bench = Bench::new(&memory);
    bench.write(5, 1);
    bench.device.media().data[5 * INTERVAL] ^= 1;
    let before = { bench.device.media().data.clone() };
    let partial = [
        Command::Write { sector: 41, data: stamped(41, 512, 2) },
        Command::Write { sector: 40, data: stamped(40, 7 * 512, 2) },
        Command::WriteZeroes { sector: 42, sectors: 2, unmap: false },
        Command::Discard { sector: 43, sectors: 1 },
    ];
    for command in partial {
        assert_eq!(bench.guest.perform(0, &command).outcome(), (IOERR, 1), "{command:?}");
        assert!(bench.device.media().data == before, "{command:?}");
        assert_eq!(bench.mismatch(), (5, Tag::Guard), "{command:?}");
    }
    bench.guest.stop_all();
}

#[test]
fn a_bad_block_is_healed_by_what_covers_it() {
    let memory = guest_memory(1);
    let whole = [
        (Command::Write { sector: 40, data: stamped(40, 4096, 2) }, 2),
        // the ends are merged into the neighbours, the bad block is covered
        (Command::Write { sector: 39, data: stamped(39, 10 * 512, 2) }, 2),
        (Command::WriteZeroes { sector: 40, sectors: 8, unmap: false }, 0),
        (Command::WriteZeroes { sector: 40, sectors: 8, unmap: true }, 0),
        (Command::Discard { sector: 32, sectors: 24 }, 0),
    ];
    for (command, stamp) in whole {
        let mut bench = Bench::new(&memory);
        (4..7).for_each(|lba| bench.write(lba, 1));
        bench.device.media().data[5 * INTERVAL] ^= 1;
        assert_eq!(bench.guest.perform(0, &command).outcome(), (OK, 1), "{command:?}");
        assert_eq!(bench.mismatches(), [], "{command:?}");
        bench.assert_reads(5, stamp);
        bench.guest.stop_all();
    }
}

/// Direct I/O on blocks larger than the interval: 65536 bytes are read and written, 16 intervals.
#[test]
fn a_bad_block_does_not_spread_over_its_granule() {
    let memory = guest_memory(1);
    let device = MemDevice::new(Some(profile()), 1 << 20).with_granule(65536);
    let mut bench = Bench::on(&memory, device);
    (3..7).for_each(|lba| bench.write(lba, 1));
    bench.device.media().data[5 * INTERVAL] ^= 1;
    bench.assert_unreadable(5);
    bench.assert_reads(4, 1);
    bench.write(4, 2);
    bench.assert_reads(4, 2);
    let partial = Command::Write { sector: 6 * 8, data: stamped(6 * 8, 512, 3) };
    assert_eq!(bench.guest.perform(0, &partial).outcome(), (OK, 1));
    bench.assert_unreadable(5);
    assert_eq!(bench.mismatch(), (5, Tag::Guard));
    // the others of the granule stay unwritten
    assert!(bench.device.media().tuples[7 * TUPLE..].iter().all(|&byte| byte == 0));
    bench.write(5, 4);
    assert_eq!(bench.mismatches(), []);
    bench.guest.stop_all();
}
