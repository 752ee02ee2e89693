//! Tests of a queue whose worker dies.

use integrity::sidecar::{IntentMode, Superblock};
use integrity::{Guard, IntegrityProfile, PiType};
use tempfile::TempDir;

use super::*;
use crate::device::OwnEvents;
use crate::device::bounce::FolioPool;
use crate::device::operation::{DeviceOperation, Piece, Transfer, TransferBuffer, TransferDirection};
use crate::device::{DeviceQueue, Event};
use crate::storage::image::{Access, DirectIo, Image};
use crate::storage::sidecar_file::SidecarFile;

const BLOCK: usize = 4096;

/// A protected disk of 1 MiB in `directory`.
fn device(directory: &TempDir, mode: IntentMode) -> Arc<SidecarDevice> {
    let (path, sidecar) = (directory.path().join("image"), directory.path().join("sidecar"));
    std::fs::File::create(&path).unwrap().set_len(1 << 20).unwrap();
    let image = Image::open(&path, Access::ReadWrite, DirectIo::Never).unwrap();
    let profile = IntegrityProfile::new(Guard::Crc64Nvme, PiType::Type1, 4096).unwrap();
    let superblock = Superblock::new([7; 16], profile, 1 << 20).unwrap();
    let file = std::fs::File::options().read(true).write(true).create_new(true).open(&sidecar).unwrap();
    let created =
        SidecarFile::create(file, &sidecar, image.file().try_clone().unwrap(), &superblock).unwrap();
    drop(created);
    let sidecar = SidecarFile::open(&sidecar, &image, Access::ReadWrite).unwrap();
    Arc::new(SidecarDevice::open(image, sidecar, mode, 1 << 20).unwrap())
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
    let piece = Piece { request: 0, data_offset: 0, data_len: BLOCK, lead: 0, merge: false };
    DeviceOperation::Transfer(Transfer::new(direction, 0, BLOCK, TransferBuffer::Bounce(folio), piece))
}

fn finish(queue: &mut SidecarQueue) -> DeviceOperation {
    loop {
        queue.enter(true).unwrap();
        while let Some(event) = queue.reap() {
            if let Event::Done(operation, result) = event {
                result.unwrap();
                return operation;
            }
        }
    }
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
