//! A client that is not ours: `blkio`, driver virtio-blk-vhost-user, which shares no code with the
//! back-end.

use blkio::{Blkio, ReqFlags};
use load::Client;

use crate::harness::{Backend, Image, pattern};

const SIZE: u64 = 64 << 20;

fn connect(backend: &Backend, read_only: bool) -> Blkio {
    load::connect(backend.socket(), read_only).unwrap()
}

fn start(backend: &Backend, num_queues: i32, buffer_len: usize) -> Client {
    Client::start(connect(backend, false), num_queues, buffer_len).unwrap()
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
fn data_written_is_read_back() {
    let image = Image::create(SIZE);
    let backend = Backend::serve(&image, &[]);
    // length of a request, requests in flight on each queue, queues
    for (seed, (len, depth, queues)) in
        (1..).zip([(512, 1, 1), (4096, 1, 1), (4096, 32, 1), (4096, 64, 4), (65536, 16, 4), (1 << 20, 4, 4)])
    {
        let total = len * depth * queues;
        let data = pattern(seed, total);
        let mut client = start(&backend, i32::try_from(queues).unwrap(), 2 * total);
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
fn a_read_only_disk_refuses_a_writer() {
    let image = Image::create(SIZE);
    let backend = Backend::serve(&image, &["--read-only"]);
    let mut blkio = connect(&backend, false);
    assert!(blkio.start().is_err(), "a writer was let in");
    drop(blkio);
    let mut client = Client::start(connect(&backend, true), 1, 4096).unwrap();
    let buffer = client.buffer(0);
    client.queues[0].read(0, buffer, 4096, 1, ReqFlags::empty());
    assert_eq!(client.complete(0, 1), [(1, 0)]);
    assert_eq!(client.contents(0, 4096), [0; 4096]);
}

#[test]
fn discarded_and_zeroed_ranges_read_as_zeros() {
    let image = Image::create(SIZE);
    let backend = Backend::serve(&image, &[]);
    let mut client = start(&backend, 1, 65536);
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
