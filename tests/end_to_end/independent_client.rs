//! A client that is not ours: `blkio`, driver virtio-blk-vhost-user, which shares no code with the back-end.

#![expect(unsafe_code, reason = "blkio fills an array of uninitialized completions")]

use std::fs::File;
use std::mem::MaybeUninit;
use std::os::fd::AsRawFd;

use blkio::{Blkio, Blkioq, Completion, MemoryRegion, ReqFlags};
use rustix::fs::{MemfdFlags, memfd_create};
use vm_memory::{Bytes, FileOffset, GuestAddress, GuestMemoryBackend, GuestMemoryMmap};

use crate::harness::{Backend, Image, TIME_LIMIT, pattern};

const SIZE: u64 = 64 << 20;

/// A connected client with memory of its own.
struct Client {
    queues: Vec<Blkioq>,
    memory: GuestMemoryMmap,
    blkio: Blkio,
}

fn connect(backend: &Backend, read_only: bool) -> Blkio {
    let mut blkio = Blkio::new("virtio-blk-vhost-user").unwrap();
    blkio.set_str("path", backend.socket().to_str().unwrap()).unwrap();
    blkio.set_bool("read-only", read_only).unwrap();
    blkio.connect().unwrap();
    blkio
}

impl Client {
    fn new(backend: &Backend, num_queues: i32, buffer_len: usize) -> Self {
        let mut blkio = connect(backend, false);
        blkio.set_i32("num-queues", num_queues).unwrap();
        let queues = blkio.start().unwrap().queues;
        let memory = share_memory(&mut blkio, buffer_len);
        Self { queues, memory, blkio }
    }

    /// Where the buffer at `offset` is in this process.
    fn buffer(&self, offset: usize) -> *mut u8 {
        self.memory.get_host_address(GuestAddress(offset as u64)).unwrap()
    }

    fn fill(&self, offset: usize, data: &[u8]) {
        self.memory.write_slice(data, GuestAddress(offset as u64)).unwrap();
    }

    fn contents(&self, offset: usize, len: usize) -> Vec<u8> {
        let mut data = vec![0; len];
        self.memory.read_slice(&mut data, GuestAddress(offset as u64)).unwrap();
        data
    }

    /// Waits for `count` completions of a queue: their results by `user_data`.
    fn complete(&mut self, queue: usize, count: usize) -> Vec<(usize, i32)> {
        let mut completions: Vec<MaybeUninit<Completion>> =
            (0..count).map(|_| MaybeUninit::uninit()).collect();
        let mut limit = TIME_LIMIT;
        let done = self.queues[queue].do_io(&mut completions, count, Some(&mut limit), None).unwrap();
        assert_eq!(done, count);
        let initialized = completions.into_iter().map(|completion| {
            // SAFETY: `do_io` has filled as many as it returned, and that is all of them.
            unsafe { completion.assume_init() }
        });
        initialized.map(|completion| (completion.user_data, completion.ret)).collect()
    }
}

fn share_memory(blkio: &mut Blkio, len: usize) -> GuestMemoryMmap {
    let file = File::from(memfd_create("client", MemfdFlags::CLOEXEC).unwrap());
    file.set_len(len as u64).unwrap();
    let fd = file.as_raw_fd();
    let memory =
        GuestMemoryMmap::from_ranges_with_files([(GuestAddress(0), len, Some(FileOffset::new(file, 0)))])
            .unwrap();
    let addr = memory.get_host_address(GuestAddress(0)).unwrap().addr();
    blkio.map_mem_region(&MemoryRegion { addr, iova: 0, len, fd, fd_offset: 0, flags: 0 }).unwrap();
    memory
}

#[test]
fn properties_are_those_of_the_disk() {
    let image = Image::create(SIZE);
    let backend = Backend::serve(&image, &["--num-queues", "5"]);
    let blkio = connect(&backend, false);
    assert_eq!(blkio.get_u64("capacity").unwrap(), SIZE);
    assert_eq!(blkio.get_i32("max-queues").unwrap(), 5);
    assert_eq!(blkio.get_i32("request-alignment").unwrap(), 512);
    assert_eq!(blkio.get_i32("optimal-io-alignment").unwrap(), 4096);
    assert_eq!(blkio.get_i32("max-segments").unwrap(), 126);
    assert!(blkio.get_bool("flush-needed").unwrap());
    drop(blkio);
    backend.stop();
    let backend = Backend::serve(&image, &["--block-size", "4096"]);
    let blkio = connect(&backend, false);
    assert_eq!(blkio.get_u64("capacity").unwrap(), SIZE);
    assert_eq!(blkio.get_i32("max-queues").unwrap(), 64);
    assert_eq!(blkio.get_i32("request-alignment").unwrap(), 4096);
}

#[test]
fn what_it_writes_it_reads() {
    let image = Image::create(SIZE);
    let backend = Backend::serve(&image, &[]);
    // length of a request, requests in flight on each queue, queues
    for (seed, (len, depth, queues)) in
        (1..).zip([(512, 1, 1), (4096, 1, 1), (4096, 32, 1), (4096, 64, 4), (65536, 16, 4), (1 << 20, 4, 4)])
    {
        let total = len * depth * queues;
        let data = pattern(seed, total);
        let mut client = Client::new(&backend, i32::try_from(queues).unwrap(), 2 * total);
        client.fill(0, &data);
        for round in 0..4 {
            // another place each round, not aligned to an interval
            let base = (round * total + 512) as u64 % (SIZE / 2) / 512 * 512;
            for queue in 0..queues {
                for slot in 0..depth {
                    let offset = (queue * depth + slot) * len;
                    let buffer = client.buffer(offset);
                    client.queues[queue].write(base + offset as u64, buffer, len, slot, ReqFlags::empty());
                }
            }
            for queue in 0..queues {
                let results = client.complete(queue, depth);
                assert!(results.iter().all(|&(_, result)| result == 0), "{results:?}");
                client.queues[queue].flush(99, ReqFlags::empty());
                assert_eq!(client.complete(queue, 1), [(99, 0)]);
            }
            // each queue reads what the next one wrote
            client.fill(total, &vec![0; total]);
            for queue in 0..queues {
                for slot in 0..depth {
                    let offset = ((queue + 1) % queues * depth + slot) * len;
                    let buffer = client.buffer(total + offset);
                    client.queues[queue].read(base + offset as u64, buffer, len, slot, ReqFlags::empty());
                }
            }
            for queue in 0..queues {
                let results = client.complete(queue, depth);
                assert!(results.iter().all(|&(_, result)| result == 0), "{results:?}");
            }
            assert!(client.contents(total, total) == data, "{len} bytes at depth {depth} on {queues} queues");
        }
        assert_eq!(client.blkio.get_u64("capacity").unwrap(), SIZE);
    }
    backend.stop();
    image.assert_clean();
}

#[test]
fn a_read_only_disk_is_known_to_be_one() {
    let image = Image::create(SIZE);
    let backend = Backend::serve(&image, &["--read-only"]);
    let mut blkio = connect(&backend, false);
    assert!(blkio.start().is_err(), "a writer was let in");
    drop(blkio);
    let mut blkio = connect(&backend, true);
    let mut queues = blkio.start().unwrap().queues;
    let memory = share_memory(&mut blkio, 4096);
    let buffer = memory.get_host_address(GuestAddress(0)).unwrap();
    queues[0].read(0, buffer, 4096, 1, ReqFlags::empty());
    let mut client = Client { queues, memory, blkio };
    assert_eq!(client.complete(0, 1), [(1, 0)]);
    assert_eq!(client.contents(0, 4096), [0; 4096]);
}

#[test]
fn discard_and_write_zeroes() {
    let image = Image::create(SIZE);
    let backend = Backend::serve(&image, &[]);
    let mut client = Client::new(&backend, 1, 65536);
    client.fill(0, &pattern(1, 65536));
    let buffer = client.buffer(0);
    client.queues[0].write(0, buffer, 65536, 1, ReqFlags::empty());
    client.complete(0, 1);
    client.queues[0].discard(4096, 8192, 2, ReqFlags::empty());
    client.queues[0].write_zeroes(32768, 1024, 3, ReqFlags::NO_UNMAP);
    client.queues[0].write_zeroes(49152, 8192, 4, ReqFlags::empty());
    let results = client.complete(0, 3);
    assert!(results.iter().all(|&(_, result)| result == 0), "{results:?}");
    client.queues[0].read(0, buffer, 65536, 5, ReqFlags::empty());
    client.complete(0, 1);
    let mut expected = pattern(1, 65536);
    for (start, len) in [(4096, 8192), (32768, 1024), (49152, 8192)] {
        expected[start..start + len].fill(0);
    }
    assert!(client.contents(0, 65536) == expected);
}
