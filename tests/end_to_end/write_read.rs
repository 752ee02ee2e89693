//! What is written is what is read, whatever its size and however the driver splits it.

use virtio::request_type;
use virtio::testing::{Buffer, header};

use crate::harness::{Backend, Completion, Frontend, GuestMemory, Image, OK, Queue, Request, pattern};
use crate::skip::skip;

const MIB: usize = 1 << 20;

/// Writes and reads `len` bytes at `sector`, looks at the medium, and sees the bytes before and after unharmed.
fn assert_round_trip(args: &[&str], create_args: &[&str], sizes: &[usize]) {
    let image = Image::create_with(64 << 20, create_args);
    let backend = Backend::serve(&image, args);
    let memory = GuestMemory::new();
    let mut frontend = Frontend::connect(&backend, &memory);
    let mut queue = frontend.queue(0);
    let mut sector = 8;
    for (seed, &len) in (1..).zip(sizes) {
        let around = pattern(1000 + seed, len + 8192);
        let first = sector - 8;
        queue.write(first, &around);
        let data = pattern(seed, len);
        queue.write(sector, &data);
        assert!(queue.read(sector, len) == data, "{len} bytes at sector {sector} differ");
        let mut expected = around;
        expected[4096..4096 + len].copy_from_slice(&data);
        assert!(
            queue.read(first, len + 8192) == expected,
            "neighbours of {len} bytes at sector {sector} differ"
        );
        assert!(image.read(first * 512, len + 8192) == expected, "the medium differs");
        sector += (len as u64 + 8192).div_ceil(4096) * 8;
    }
    drop(frontend);
    backend.stop();
    image.assert_clean();
}

const SIZES: [usize; 9] = [4096, 8192, 12288, 65536, 65536 + 4096, MIB - 4096, MIB, MIB + 4096, 4 * MIB];
const UNEVEN_SIZES: [usize; 8] = [512, 1024, 3584, 4608, 7680, 65536 + 512, MIB + 512, 4 * MIB - 512];

#[test]
fn whole_intervals() {
    assert_round_trip(&[], &[], &SIZES);
}

#[test]
fn parts_of_intervals_are_merged() {
    assert_round_trip(&[], &[], &UNEVEN_SIZES);
}

#[test]
fn every_guard_and_interval() {
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
fn a_guest_of_4096_byte_blocks() {
    assert_round_trip(&["--block-size", "4096"], &["--interval", "512"], &[4096, 65536, 2 * MIB]);
}

#[test]
fn without_bounce() {
    assert_round_trip(&["--bounce", "never"], &[], &[512, 4096, 7680, 65536, 4 * MIB]);
}

#[test]
fn polling() {
    assert_round_trip(&["--poll-us", "50"], &[], &[512, 4096, MIB]);
}

#[test]
fn without_integrity() {
    let image = Image::without_sidecar(64 << 20);
    for bounce in ["auto", "always"] {
        let backend = Backend::serve(&image, &["--integrity", "none", "--bounce", bounce]);
        let memory = GuestMemory::new();
        let mut frontend = Frontend::connect(&backend, &memory);
        let mut queue = frontend.queue(0);
        for (seed, len) in (1..).zip([512, 4096, 7680, 4 * MIB]) {
            let data = pattern(seed, len);
            queue.write(seed * 4097, &data);
            assert!(queue.read(seed * 4097, len) == data);
        }
        drop(frontend);
        backend.stop();
    }
}

#[test]
fn on_a_file_system_without_disk() {
    let shared_memory = std::path::Path::new("/dev/shm");
    if tempfile::tempdir_in(shared_memory).is_err() {
        skip("no tmpfs to write to");
        return;
    }
    let image = Image::create_in(shared_memory, 16 << 20, &[]);
    let backend = Backend::serve(&image, &[]);
    let memory = GuestMemory::new();
    let mut frontend = Frontend::connect(&backend, &memory);
    let mut queue = frontend.queue(0);
    for (seed, len) in (1..).zip([512, 4096, 7680, MIB, 4 * MIB]) {
        let data = pattern(seed, len);
        queue.write(seed * 1001, &data);
        assert!(queue.read(seed * 1001, len) == data);
    }
    queue.flush();
    drop(frontend);
    backend.stop();
    image.assert_clean();
}

#[test]
fn blocks_never_written_are_zeros() {
    let image = Image::create(16 << 20);
    let backend = Backend::serve(&image, &[]);
    let memory = GuestMemory::new();
    let mut frontend = Frontend::connect(&backend, &memory);
    let mut queue = frontend.queue(0);
    queue.write(1, &pattern(1, 512));
    let mut expected = vec![0; 2 * MIB];
    expected[512..1024].copy_from_slice(&pattern(1, 512));
    assert!(queue.read(0, 2 * MIB) == expected);
}

#[test]
fn segments_of_any_length() {
    let image = Image::create(16 << 20);
    let backend = Backend::serve(&image, &[]);
    let memory = GuestMemory::new();
    let mut frontend = Frontend::connect(&backend, &memory);
    let mut queue = frontend.queue(0);
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
                let address = memory.allocate(len as usize + 512) + shift;
                memory.write(address, &data[done..done + len as usize]);
                segments.push((address, len));
                done += len as usize;
            }
            for indirect in [false, true] {
                let sector = seed * 3001 + shift;
                let submit = if indirect { Queue::submit_indirect } else { Queue::submit };
                let head = submit(&mut queue, &Request::write(sector, &segments));
                assert_eq!(queue.complete(head), Completion { head, status: OK, used_len: 1 });
                assert!(queue.read(sector, data.len()) == data, "written as {split:?}");
                for &(address, len) in &segments {
                    memory.write(address, &vec![0; len as usize]);
                }
                let head = submit(&mut queue, &Request::read(sector, &segments));
                assert_eq!(queue.complete(head), Completion { head, status: OK, used_len: len + 1 });
                let read: Vec<u8> =
                    segments.iter().flat_map(|&(address, len)| memory.read(address, len as usize)).collect();
                assert!(read == data, "read as {split:?}");
            }
        }
    }
    drop(frontend);
    backend.stop();
    image.assert_clean();
}

/// QEMU's qtest sends these: 528 bytes of header and data, 513 of data and status.
#[test]
fn header_data_and_status_share_descriptors() {
    let image = Image::create(16 << 20);
    let backend = Backend::serve(&image, &[]);
    let memory = GuestMemory::new();
    let mut frontend = Frontend::connect(&backend, &memory);
    let mut queue = frontend.queue(0);
    let data = pattern(7, 512);
    let (out, into) = (memory.allocate(4096), memory.allocate(4096));

    memory.write(out, &[&header(request_type::OUT, 5)[..], &data].concat());
    let head = queue.submit_chain(&[Buffer::readable(out, 528), Buffer::writable(into, 1)]);
    assert_eq!(queue.complete(head).used_len, 1);
    assert_eq!(memory.read_byte(into), OK);

    memory.write(out, &header(request_type::IN, 5));
    let head = queue.submit_chain(&[Buffer::readable(out, 16), Buffer::writable(into, 513)]);
    assert_eq!(queue.complete(head).used_len, 513);
    assert_eq!(memory.read(into, 513), [&data[..], &[OK]].concat());
}

/// A header in three descriptors, and data and status cut where no field ends.
#[test]
fn a_header_in_pieces() {
    let image = Image::create(16 << 20);
    let backend = Backend::serve(&image, &[]);
    let memory = GuestMemory::new();
    let mut frontend = Frontend::connect(&backend, &memory);
    let mut queue = frontend.queue(0);
    let data = pattern(8, 1024);
    let (out, into) = (memory.allocate(4096), memory.allocate(4096));

    memory.write(out, &[&header(request_type::OUT, 9)[..], &data].concat());
    let pieces = [(0, 3), (3, 8), (11, 105), (116, 924)];
    let mut chain: Vec<_> = pieces.iter().map(|&(offset, len)| Buffer::readable(out + offset, len)).collect();
    chain.push(Buffer::writable(into, 1));
    let head = queue.submit_chain(&chain);
    assert_eq!(queue.complete(head).used_len, 1);
    assert_eq!(memory.read_byte(into), OK);
    assert!(queue.read(9, 1024) == data);
}
