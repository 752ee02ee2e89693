//! Tests of a queue: reads whose tuples are not in memory, writes that fail, and a worker that
//! dies.

use std::ops::Range;

use integrity::sidecar::{Intent, IntentMode, PAGE_SIZE, Permission, Superblock, is_lost, is_unwritten};
use integrity::{Guard, IntegrityProfile, PiType};
use tempfile::TempDir;

use super::*;
use crate::device::OwnEvents;
use crate::device::bounce::{BounceFolio, FolioPool};
use crate::device::operation::{DeviceOperation, Piece, Transfer, TransferBuffer, TransferDirection, ZeroBy};
use crate::device::{DeviceQueue, Event};
use crate::storage::blocking::NeverBlocks;
use crate::storage::image::{Access, DirectIo, Image};
use crate::storage::sidecar_file::SidecarFile;

const BLOCK: usize = 4096;

const SIZE: u64 = 8 << 20;
/// Bytes of the disk whose tuples are in one page.
const PER_PAGE: u64 = 248 * BLOCK as u64;

/// A protected disk of [`SIZE`] bytes in `directory`.
fn device(directory: &TempDir, mode: IntentMode) -> Arc<SidecarDevice> {
    device_with_memory(directory, mode, 1 << 20)
}

/// The same, with `cache_bytes` of memory for tuples.
fn device_with_memory(directory: &TempDir, mode: IntentMode, cache_bytes: usize) -> Arc<SidecarDevice> {
    let (path, sidecar) = (directory.path().join("image"), directory.path().join("sidecar"));
    std::fs::File::create(&path).unwrap().set_len(SIZE).unwrap();
    let image = Image::open(&path, Access::ReadWrite, DirectIo::Never).unwrap();
    let profile = IntegrityProfile::new(Guard::Crc64Nvme, PiType::Type1, 4096).unwrap();
    let superblock = Superblock::new([7; 16], profile, SIZE).unwrap();
    let file = std::fs::File::options().read(true).write(true).create_new(true).open(&sidecar).unwrap();
    let created =
        SidecarFile::create(file, &sidecar, image.file().try_clone().unwrap(), &superblock).unwrap();
    drop(created);
    let sidecar = SidecarFile::open(&sidecar, &image, Access::ReadWrite).unwrap();
    let options = SidecarOptions { mode, cache_bytes, doubt_limit: None };
    Arc::new(SidecarDevice::open(image, sidecar, options).unwrap())
}

/// One transfer of block 0, its folio filled with `byte` and, for a write, with tuples.
fn transfer(
    device: &SidecarDevice,
    pool: &mut FolioPool,
    direction: TransferDirection,
    byte: u8,
) -> DeviceOperation {
    let mut folio = pool.take(BLOCK, BLOCK).unwrap();
    let (data, metadata) = folio.parts_mut();
    data[..BLOCK].fill(byte);
    device.protection.generate(0, 0..BLOCK, data, metadata).unwrap();
    at(0, direction, folio)
}

fn at(offset: u64, direction: TransferDirection, folio: BounceFolio) -> DeviceOperation {
    let piece = Piece { request: 0, data_offset: 0, data_len: BLOCK, lead: 0, merge: false };
    let buffer = TransferBuffer::Bounce(folio);
    DeviceOperation::Transfer(Transfer::new(direction, offset, BLOCK, buffer, piece))
}

fn finish(queue: &mut SidecarQueue) -> DeviceOperation {
    let (operation, result) = end(queue);
    result.unwrap();
    operation
}

/// Waits for the end of an operation, as a worker does.
fn end(queue: &mut SidecarQueue) -> (DeviceOperation, io::Result<()>) {
    let _marked = NeverBlocks::mark();
    loop {
        queue.enter(true).unwrap();
        while let Some(event) = queue.reap() {
            if let Event::Done(operation, result) = event {
                return (operation, result);
            }
        }
    }
}

/// An intent to make the change of `operation`, granted.
fn granted(device: &SidecarDevice, operation: &DeviceOperation, intervals: Range<u64>) -> Intent {
    let (mut intent, change) = (Intent::new(intervals), device.change(operation));
    let mut log = device.log.lock();
    while log.journal.intend(&mut intent, change).unwrap() == Permission::Later {
        device.log.unlock(log);
        std::thread::yield_now();
        log = device.log.lock();
    }
    device.log.unlock(log);
    intent
}

/// The place of a transfer, in bytes.
fn offset_of(operation: &DeviceOperation) -> u64 {
    let DeviceOperation::Transfer(transfer) = operation else { panic!("a transfer") };
    transfer.offset()
}

#[test]
fn missing_tuples_are_read_at_the_same_time_and_once_for_all_that_need_them() {
    let directory = tempfile::tempdir().unwrap();
    let device = device(&directory, IntentMode::Region);
    let metadata = device.protection.metadata_per_page();
    let (mut pool, events) = (FolioPool::reserve(metadata).unwrap(), OwnEvents::new().unwrap());
    let mut queue = device.open_queue(pool.arena(), events.sources()).unwrap();
    for (round, pages_to_read) in [(0, 8), (1, 0)] {
        for offset in (0..8).flat_map(|page| [page * PER_PAGE, page * PER_PAGE + BLOCK as u64]) {
            let folio = pool.take(BLOCK, BLOCK).unwrap();
            queue.submit(at(offset, TransferDirection::Read, folio));
        }
        queue.enter(false).unwrap();
        assert_eq!(queue.pages_in_flight(), pages_to_read, "round {round}");
        for _ in 0..16 {
            let DeviceOperation::Transfer(read) = finish(&mut queue) else { panic!("a read") };
            let (_, tuples) = read.folio().unwrap().parts();
            assert!(is_unwritten(&tuples[..16]));
            let TransferBuffer::Bounce(folio) = read.into_buffer() else { panic!("a folio") };
            pool.put(folio);
        }
    }
    drop(queue);
    device.close().unwrap();
}

/// Reads blocks of a page of which one sector is damaged.
fn read_beside_damage(device: &Arc<SidecarDevice>, directory: &TempDir) {
    let layout = device.log.lock().journal.layout().clone();
    let sidecar = std::fs::File::options().write(true).open(directory.path().join("sidecar")).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&sidecar, b"damage", layout.page_offset(0) + 512).unwrap();
    let metadata = device.protection.metadata_per_page();
    let (mut pool, events) = (FolioPool::reserve(metadata).unwrap(), OwnEvents::new().unwrap());
    let mut queue = device.open_queue(pool.arena(), events.sources()).unwrap();
    for (interval, expected) in [(0, false), (31, true), (61, true), (62, false)] {
        let folio = pool.take(BLOCK, BLOCK).unwrap();
        queue.submit(at(interval * BLOCK as u64, TransferDirection::Read, folio));
        let DeviceOperation::Transfer(read) = finish(&mut queue) else { panic!("a read") };
        let (_, tuples) = read.folio().unwrap().parts();
        assert_eq!(is_lost(layout.profile(), &tuples[..16]), expected, "{interval}");
    }
}

#[test]
fn the_log_thread_reads_a_page_again_in_which_a_sector_is_damaged() {
    let directory = tempfile::tempdir().unwrap();
    let device = device(&directory, IntentMode::Region);
    read_beside_damage(&device, &directory);
    device.close().unwrap();
}

#[test]
fn a_disk_that_is_only_read_has_a_thread_that_reads_a_damaged_page_again() {
    let directory = tempfile::tempdir().unwrap();
    device(&directory, IntentMode::Region).close().unwrap();
    let image = Image::open(&directory.path().join("image"), Access::Read, DirectIo::Never).unwrap();
    let sidecar = SidecarFile::open(&directory.path().join("sidecar"), &image, Access::Read).unwrap();
    let device = Arc::new(SidecarDevice::view(image, sidecar, 1 << 20).unwrap());
    read_beside_damage(&device, &directory);
    device.close().unwrap();
}

#[test]
fn a_damaged_page_that_is_read_slowly_delays_no_other_read() {
    let directory = tempfile::tempdir().unwrap();
    let device = device(&directory, IntentMode::Region);
    let layout = device.log.lock().journal.layout().clone();
    let sidecar = std::fs::File::options().write(true).open(directory.path().join("sidecar")).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&sidecar, b"damage", layout.page_offset(0) + 512).unwrap();
    let metadata = device.protection.metadata_per_page();
    let (mut pool, events) = (FolioPool::reserve(metadata).unwrap(), OwnEvents::new().unwrap());
    let mut queue = device.open_queue(pool.arena(), events.sources()).unwrap();
    let stalled = device.log.media().stall();
    for offset in [0, PER_PAGE, 2 * PER_PAGE] {
        let folio = pool.take(BLOCK, BLOCK).unwrap();
        queue.submit(at(offset, TransferDirection::Read, folio));
    }
    let mut done = [finish(&mut queue), finish(&mut queue)].map(|read| offset_of(&read));
    done.sort_unstable();
    assert_eq!(done, [PER_PAGE, 2 * PER_PAGE]);
    drop(stalled);
    assert_eq!(offset_of(&finish(&mut queue)), 0);
    drop(queue);
    device.close().unwrap();
}

/// The blocks of a write that has failed are read by the log's thread.
#[test]
fn a_failed_write_whose_blocks_are_read_slowly_delays_no_other_request() {
    let directory = tempfile::tempdir().unwrap();
    let device = device(&directory, IntentMode::Region);
    let metadata = device.protection.metadata_per_page();
    let (mut pool, events) = (FolioPool::reserve(metadata).unwrap(), OwnEvents::new().unwrap());
    let mut queue = device.open_queue(pool.arena(), events.sources()).unwrap();
    queue.submit(transfer(&device, &mut pool, TransferDirection::Write, 1));
    finish(&mut queue);
    let stalled = device.log.media().stall();
    // its old tuple is not in memory
    let failing = at(PER_PAGE, TransferDirection::Write, pool.take(BLOCK, BLOCK).unwrap());
    let intent = granted(&device, &failing, 248..249);
    queue.fail_change(failing, intent, io::Error::from_raw_os_error(5));
    queue.submit(transfer(&device, &mut pool, TransferDirection::Read, 0));
    assert_eq!(offset_of(&finish(&mut queue)), 0);
    drop(stalled);
    let (operation, result) = end(&mut queue);
    assert_eq!((offset_of(&operation), result.unwrap_err().raw_os_error()), (PER_PAGE, Some(5)));
    let folio = pool.take(BLOCK, BLOCK).unwrap();
    queue.submit(at(PER_PAGE, TransferDirection::Read, folio));
    let DeviceOperation::Transfer(read) = finish(&mut queue) else { panic!("a read") };
    let (_, tuples) = read.folio().unwrap().parts();
    assert!(is_unwritten(&tuples[..16]), "nothing was written");
    drop(queue);
    device.close().unwrap();
}

/// The tuples that its blocks had are looked up page by page.
#[test]
fn a_failed_discard_of_more_pages_than_memory_has_room_for_is_settled() {
    let directory = tempfile::tempdir().unwrap();
    let device = device_with_memory(&directory, IntentMode::Region, 2 * PAGE_SIZE);
    let metadata = device.protection.metadata_per_page();
    let (mut pool, events) = (FolioPool::reserve(metadata).unwrap(), OwnEvents::new().unwrap());
    let mut queue = device.open_queue(pool.arena(), events.sources()).unwrap();
    queue.submit(transfer(&device, &mut pool, TransferDirection::Write, 1));
    finish(&mut queue);
    let failing = DeviceOperation::Zero { request: 0, offset: 0, len: SIZE, by: ZeroBy::PunchHole };
    let intent = granted(&device, &failing, 0..SIZE / BLOCK as u64);
    queue.fail_change(failing, intent, io::Error::from_raw_os_error(5));
    let (_, result) = end(&mut queue);
    assert_eq!(result.unwrap_err().raw_os_error(), Some(5));
    queue.submit(transfer(&device, &mut pool, TransferDirection::Read, 0));
    let DeviceOperation::Transfer(read) = finish(&mut queue) else { panic!("a read") };
    let (data, tuples) = read.folio().unwrap().parts();
    assert!(data[..BLOCK] == [1; BLOCK], "nothing was discarded");
    device.protection.verify(0, 0..BLOCK, data, tuples).unwrap();
    drop(queue);
    device.close().unwrap();
}

/// A worker that dies drops its queue with everything in flight.
#[test]
fn a_queue_that_is_dropped_leaves_no_change_unsettled() {
    for mode in [IntentMode::Region, IntentMode::Block] {
        let directory = tempfile::tempdir().unwrap();
        let device = device(&directory, mode);
        let metadata = device.protection.metadata_per_page();
        let (mut pool, events) = (FolioPool::reserve(metadata).unwrap(), OwnEvents::new().unwrap());
        let open = |pool: &FolioPool| device.open_queue(pool.arena(), events.sources()).unwrap();
        let mut queue = open(&pool);
        queue.submit(transfer(&device, &mut pool, TransferDirection::Write, 1));
        finish(&mut queue);
        queue.submit(transfer(&device, &mut pool, TransferDirection::Write, 2));
        queue.enter(false).unwrap();
        drop(queue);
        let mut queue = open(&pool);
        queue.submit(transfer(&device, &mut pool, TransferDirection::Read, 0));
        let DeviceOperation::Transfer(read) = finish(&mut queue) else { panic!("a read") };
        let (data, tuples) = read.folio().unwrap().parts();
        device.protection.verify(0, 0..BLOCK, data, tuples).unwrap();
        drop(queue);
        device.close().expect("a change is still under way");
    }
}
