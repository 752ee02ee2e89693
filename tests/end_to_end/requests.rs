//! Every type of request, and what a request must not ask for: the exact status and used length.

use virtio::request_type;

use crate::harness::{Completion, IOERR, Image, NOT_WRITTEN, OK, Request, Setup, UNSUPP, pattern};

const SECTORS: u64 = (16 << 20) / 512;

#[track_caller]
fn assert_answer(completion: Completion, status: u8, used_len: u32) {
    assert_eq!((completion.status, completion.used_len), (status, used_len));
}

#[test]
fn get_id_returns_the_serial() {
    let mut vm = Setup::disk(16 << 20).options(&["--serial", "disk-0001"]).start();
    let buffer = vm.memory.allocate(4096);
    vm.memory.write(buffer, &[NOT_WRITTEN; 64]);
    assert_answer(vm.queue.execute(&Request::answered(request_type::GET_ID, buffer, 20)), OK, 21);
    assert_eq!(vm.memory.read(buffer, 21), b"disk-0001\0\0\0\0\0\0\0\0\0\0\0\xee");
    // a driver with less room gets less, one with more no more than there is
    vm.memory.write(buffer, &[NOT_WRITTEN; 64]);
    assert_answer(vm.queue.execute(&Request::answered(request_type::GET_ID, buffer, 4)), OK, 5);
    assert_eq!(vm.memory.read(buffer, 5), b"disk\xee");
    assert_answer(vm.queue.execute(&Request::answered(request_type::GET_ID, buffer, 64)), OK, 21);
}

#[test]
fn default_id_is_the_images_own() {
    let image = Image::create(16 << 20);
    let id = |image: &Image| {
        let mut vm = Setup::of(image).start();
        let buffer = vm.memory.allocate(4096);
        let completion = vm.queue.execute(&Request::answered(request_type::GET_ID, buffer, 20));
        assert_answer(completion, OK, 21);
        vm.memory.read(buffer, 20)
    };
    let first = id(&image);
    assert!(first.iter().all(u8::is_ascii_graphic), "{first:?}");
    assert_eq!(id(&image), first);
    assert_ne!(id(&Image::create(16 << 20)), first);
}

#[test]
fn unknown_types_are_unsupported() {
    let mut vm = Setup::disk(16 << 20).start();
    let buffer = vm.memory.allocate(4096);
    for kind in [2, 3, 10, 14, 0x8000_0000, u32::MAX] {
        assert_answer(vm.queue.execute(&Request::answered(kind, buffer, 512)), UNSUPP, 1);
    }
    vm.queue.write(0, &pattern(1, 4096));
}

#[test]
fn requests_past_the_end_fail() {
    let mut vm = Setup::disk(16 << 20).start();
    vm.queue.write(SECTORS - 1, &pattern(1, 512));
    vm.queue.write(SECTORS - 8, &pattern(2, 4096));
    let sectors = [SECTORS, SECTORS - 1, SECTORS + 1, u64::MAX, u64::MAX / 512, u64::MAX / 512 + 1, 1 << 55];
    for sector in sectors {
        assert_answer(vm.queue.try_write(sector, &pattern(3, 1024)), IOERR, 1);
        let (completion, read) = vm.queue.try_read(sector, 1024);
        assert_answer(completion, IOERR, 1);
        assert!(read == [NOT_WRITTEN; 1024]);
    }
    assert!(vm.queue.read(SECTORS - 8, 4096) == pattern(2, 4096));
    assert_eq!(std::fs::metadata(vm.image.path()).unwrap().len(), 16 << 20, "the image has grown");
}

#[test]
fn requests_for_parts_of_a_block_fail() {
    let mut vm = Setup::disk(16 << 20).options(&["--block-size", "4096"]).start();
    for (sector, len) in [(1, 4096), (0, 512), (7, 512), (8, 4096 + 512), (4, 8192)] {
        assert_answer(vm.queue.try_write(sector, &pattern(1, len)), IOERR, 1);
        assert_answer(vm.queue.try_read(sector, len).0, IOERR, 1);
    }
    vm.queue.write(8, &pattern(1, 4096));
}

#[test]
fn requests_for_parts_of_a_sector_fail() {
    let mut vm = Setup::disk(16 << 20).start();
    for len in [1, 511, 513, 4095, 4097] {
        assert_answer(vm.queue.try_write(0, &pattern(1, len)), IOERR, 1);
        assert_answer(vm.queue.try_read(0, len).0, IOERR, 1);
    }
    assert!(vm.queue.read(0, 8192) == [0; 8192]);
}

#[test]
fn requests_of_no_bytes_succeed() {
    let mut vm = Setup::disk(16 << 20).start();
    for sector in [0, 3, SECTORS] {
        assert_answer(vm.queue.execute(&Request::write(sector, &[])), OK, 1);
        assert_answer(vm.queue.execute(&Request::read(sector, &[])), OK, 1);
    }
    assert_answer(vm.queue.execute(&Request::read(SECTORS + 1, &[])), IOERR, 1);
    vm.queue.write(0, &pattern(1, 4096));
}

#[test]
fn a_read_only_disk_refuses_writes() {
    let image = Image::create(16 << 20);
    let data = pattern(1, 4096);
    let mut vm = Setup::of(&image).start();
    vm.queue.write(0, &data);
    drop(vm.frontend);
    vm.backend.stop();
    let sidecar = std::fs::read(image.sidecar_path()).unwrap();

    let mut vm = Setup::of(&image).options(&["--read-only"]).start();
    // whether or not the driver acknowledged the feature
    assert_answer(vm.queue.try_write(0, &pattern(2, 4096)), IOERR, 1);
    assert_answer(vm.queue.try_write(0, &pattern(2, 512)), IOERR, 1);
    assert!(vm.queue.read(0, 4096) == data);
    assert_answer(vm.queue.execute(&Request::flush()), OK, 1);
    drop(vm.frontend);
    // others may read it too, at the same time
    image.assert_clean();
    let log = vm.backend.stop();
    assert!(
        log.contains("refused=2") && log.contains("device_errors=0"),
        "the device was asked to write:\n{log}"
    );
    assert!(
        std::fs::read(image.sidecar_path()).unwrap() == sidecar,
        "serving read-only has changed the sidecar"
    );
}

#[test]
fn flushes_among_writes_in_flight_succeed() {
    let mut vm = Setup::disk(16 << 20).start();
    let buffer = vm.memory.allocate(4096);
    vm.memory.write(buffer, &pattern(1, 4096));
    for block in 0..32 {
        vm.queue.submit(&Request::write(block * 8, &[(buffer, 4096)]));
        vm.queue.submit(&Request::flush());
    }
    vm.queue.kick();
    let completions = vm.queue.wait_all();
    assert_eq!(completions.len(), 64);
    assert!(completions.iter().all(|completion| completion.status == OK && completion.used_len == 1));
}

/// More than the bounce memory of a worker holds, in one request and in many.
#[test]
fn requests_larger_than_the_bounce_memory_succeed() {
    const LEN: u32 = 32 << 20;
    let mut vm = Setup::disk(128 << 20).start();
    let (data, buffer) = (pattern(1, LEN as usize), vm.memory.allocate(LEN as usize));
    vm.memory.write(buffer, &data);
    assert_answer(vm.queue.execute(&Request::write(1, &[(buffer, LEN)])), OK, 1);
    vm.memory.write(buffer, &vec![0; LEN as usize]);
    assert_answer(vm.queue.execute(&Request::read(1, &[(buffer, LEN)])), OK, LEN + 1);
    assert!(vm.memory.read(buffer, LEN as usize) == data);
    // 64 MiB in flight at once
    for request in 0..64 {
        vm.queue.submit(&Request::write(request * 2048, &[(buffer, 1 << 20)]));
    }
    vm.queue.kick();
    assert!(vm.queue.wait_all().iter().all(|completion| completion.status == OK));
    vm.stop_clean();
}
