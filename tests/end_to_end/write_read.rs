//! Data written is read back, whatever its size and however the driver splits it.

use virtio::request_type;
use virtio::testing::{ChainBuffer, header};

use crate::harness::{Completion, Image, OK, Queue, Request, Setup, pattern};
use crate::skip::skip;

const MIB: usize = 1 << 20;

/// Writes and reads `len` bytes at `sector`, looks at the medium, and sees the bytes before and
/// after unharmed.
fn assert_round_trip(args: &[&str], create_args: &[&str], sizes: &[usize]) {
    let mut vm = Setup::of(Image::create_with(64 << 20, create_args)).options(args).start();
    let mut sector = 8;
    for (seed, &len) in (1..).zip(sizes) {
        let around = pattern(1000 + seed, len + 8192);
        let first = sector - 8;
        vm.queue.write(first, &around);
        let data = pattern(seed, len);
        vm.queue.write(sector, &data);
        assert!(vm.queue.read(sector, len) == data, "{len} bytes at sector {sector} differ");
        let mut expected = around;
        expected[4096..4096 + len].copy_from_slice(&data);
        assert!(
            vm.queue.read(first, len + 8192) == expected,
            "neighbours of {len} bytes at sector {sector} differ"
        );
        assert!(vm.image.read(first * 512, len + 8192) == expected, "the medium differs");
        sector += (len as u64 + 8192).div_ceil(4096) * 8;
    }
    vm.stop_clean();
}

const SIZES: [usize; 9] = [4096, 8192, 12288, 65536, 65536 + 4096, MIB - 4096, MIB, MIB + 4096, 4 * MIB];
const UNEVEN_SIZES: [usize; 8] = [512, 1024, 3584, 4608, 7680, 65536 + 512, MIB + 512, 4 * MIB - 512];

#[test]
fn whole_intervals_are_read_back() {
    assert_round_trip(&[], &[], &SIZES);
}

#[test]
fn parts_of_intervals_are_merged() {
    assert_round_trip(&[], &[], &UNEVEN_SIZES);
}

#[test]
fn data_is_read_back_with_every_guard_and_interval() {
    for guard in ["crc64", "crc32c", "t10"] {
        for interval in ["512", "4096"] {
            assert_round_trip(
                &[],
                &["--guard", guard, "--interval", interval],
                &[512, 4096, 7680, MIB + 512],
            );
        }
    }
}

#[test]
fn data_is_read_back_by_a_guest_of_4096_byte_blocks() {
    assert_round_trip(&["--block-size", "4096"], &["--interval", "512"], &[4096, 65536, 2 * MIB]);
}

#[test]
fn data_is_read_back_without_bounce() {
    assert_round_trip(&["--bounce", "never"], &[], &[512, 4096, 7680, 65536, 4 * MIB]);
}

#[test]
fn data_is_read_back_when_polling() {
    assert_round_trip(&["--poll-us", "50"], &[], &[512, 4096, MIB]);
}

#[test]
fn data_is_read_back_without_integrity() {
    let image = Image::without_sidecar(64 << 20);
    for bounce in ["auto", "always"] {
        let mut vm = Setup::of(&image).options(&["--integrity", "none", "--bounce", bounce]).start();
        for (seed, len) in (1..).zip([512, 4096, 7680, 4 * MIB]) {
            let data = pattern(seed, len);
            vm.queue.write(seed * 4097, &data);
            assert!(vm.queue.read(seed * 4097, len) == data);
        }
        drop(vm.frontend);
        vm.backend.stop();
    }
}

#[test]
fn data_is_read_back_on_a_file_system_in_memory() {
    let shared_memory = std::path::Path::new("/dev/shm");
    if tempfile::tempdir_in(shared_memory).is_err() {
        skip("no tmpfs to write to");
        return;
    }
    let mut vm = Setup::of(Image::create_in(shared_memory, 16 << 20, &[])).start();
    for (seed, len) in (1..).zip([512, 4096, 7680, MIB, 4 * MIB]) {
        let data = pattern(seed, len);
        vm.queue.write(seed * 1001, &data);
        assert!(vm.queue.read(seed * 1001, len) == data);
    }
    vm.queue.flush();
    vm.stop_clean();
}

#[test]
fn blocks_never_written_are_zeros() {
    let mut vm = Setup::disk(16 << 20).start();
    vm.queue.write(1, &pattern(1, 512));
    let mut expected = vec![0; 2 * MIB];
    expected[512..1024].copy_from_slice(&pattern(1, 512));
    assert!(vm.queue.read(0, 2 * MIB) == expected);
}

#[test]
fn segments_of_any_length_are_read_back() {
    let mut vm = Setup::disk(16 << 20).start();
    // the first is Windows', virtio-win#869
    let splits: [&[u32]; 6] = [
        &[3952, 2704],
        &[448, 64],
        &[1, 511],
        &[511, 1, 3583, 1],
        &[1, 4094, 1],
        &[65535, 1, 1_048_576, 4097, 4095],
    ];
    for (seed, split) in (1..).zip(splits) {
        let len: u32 = split.iter().sum();
        let data = pattern(seed, len as usize);
        for shift in [0, 1, 512] {
            // buffers apart from each other and, with a shift, not aligned to anything
            let mut segments = Vec::new();
            let mut done = 0;
            for &len in split {
                let address = vm.memory.allocate(len as usize + 512) + shift;
                vm.memory.write(address, &data[done..done + len as usize]);
                segments.push((address, len));
                done += len as usize;
            }
            for indirect in [false, true] {
                let sector = seed * 3001 + shift;
                let submit = if indirect { Queue::submit_indirect } else { Queue::submit };
                let head = submit(&mut vm.queue, &Request::write(sector, &segments));
                assert_eq!(vm.queue.complete(head), Completion { head, status: OK, used_len: 1 });
                assert!(vm.queue.read(sector, data.len()) == data, "written as {split:?}");
                for &(address, len) in &segments {
                    vm.memory.write(address, &vec![0; len as usize]);
                }
                let head = submit(&mut vm.queue, &Request::read(sector, &segments));
                assert_eq!(vm.queue.complete(head), Completion { head, status: OK, used_len: len + 1 });
                let read: Vec<u8> = segments
                    .iter()
                    .flat_map(|&(address, len)| vm.memory.read(address, len as usize))
                    .collect();
                assert!(read == data, "read as {split:?}");
            }
        }
    }
    vm.stop_clean();
}

/// QEMU's qtest sends these: 528 bytes of header and data, 513 of data and status.
#[test]
fn header_data_and_status_may_share_descriptors() {
    let mut vm = Setup::disk(16 << 20).start();
    let data = pattern(7, 512);
    let (out, into) = (vm.memory.allocate(4096), vm.memory.allocate(4096));

    vm.memory.write(out, &[&header(request_type::OUT, 5)[..], &data].concat());
    let head = vm.queue.submit_chain(&[ChainBuffer::readable(out, 528), ChainBuffer::writable(into, 1)]);
    assert_eq!(vm.queue.complete(head).used_len, 1);
    assert_eq!(vm.memory.read_byte(into), OK);

    vm.memory.write(out, &header(request_type::IN, 5));
    let head = vm.queue.submit_chain(&[ChainBuffer::readable(out, 16), ChainBuffer::writable(into, 513)]);
    assert_eq!(vm.queue.complete(head).used_len, 513);
    assert_eq!(vm.memory.read(into, 513), [&data[..], &[OK]].concat());
}

/// A header in three descriptors, and data and status cut where no field ends.
#[test]
fn a_header_may_come_in_pieces() {
    let mut vm = Setup::disk(16 << 20).start();
    let data = pattern(8, 1024);
    let (out, into) = (vm.memory.allocate(4096), vm.memory.allocate(4096));

    vm.memory.write(out, &[&header(request_type::OUT, 9)[..], &data].concat());
    let pieces = [(0, 3), (3, 8), (11, 105), (116, 924)];
    let mut chain: Vec<_> =
        pieces.iter().map(|&(offset, len)| ChainBuffer::readable(out + offset, len)).collect();
    chain.push(ChainBuffer::writable(into, 1));
    let head = vm.queue.submit_chain(&chain);
    assert_eq!(vm.queue.complete(head).used_len, 1);
    assert_eq!(vm.memory.read_byte(into), OK);
    assert!(vm.queue.read(9, 1024) == data);
}
