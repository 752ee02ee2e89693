//! The cost of ring and parser for a request: pop, parse, copy 4096 bytes, complete; published
//! once a batch.
//!
//! `cargo bench -p stableblk-virtio`

use std::hint::black_box;

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use stableblk_virtio::testing::{ChainBuffer, Driver};
use stableblk_virtio::{Request, SplitRing, Status, request_type};
use virtio_queue::{Queue, QueueT};
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

const RING_SIZE: u16 = 128;
const BLOCK_SIZE: u32 = 4096;
/// Chains in a batch: one is queue depth 1, where every request pays for a publish of its own.
const BATCHES: [u16; 2] = [1, 32];

/// Where the chain's descriptors are.
#[derive(Clone, Copy, Debug)]
enum Table {
    Direct,
    Indirect,
}

/// Guest memory in two regions, as x86 guests have it, so that translation has something to search.
fn guest_memory() -> GuestMemoryMmap {
    GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 1 << 24), (GuestAddress(1 << 32), 1 << 24)]).unwrap()
}

fn write_chain(driver: &mut Driver<&GuestMemoryMmap>, table: Table, slot: u64) -> u16 {
    let address = (1 << 32) + slot * 0x4000;
    driver.write_header(address, request_type::OUT, slot * 8);
    let buffers = [
        ChainBuffer::readable(address, 16),
        ChainBuffer::readable(address + 0x1000, BLOCK_SIZE),
        ChainBuffer::writable(address + 0x2000, 1),
    ];
    match table {
        Table::Direct => driver.write_chain(&buffers),
        Table::Indirect => driver.write_indirect_chain(address + 0x3000, &buffers),
    }
}

fn serve(ring: &mut SplitRing, mem: &GuestMemoryMmap, folio: Option<&mut [u8]>) {
    let mut folio = folio;
    while let Some(chain) = ring.pop(mem).unwrap() {
        let request = Request::parse(mem, chain).unwrap();
        if let Some(folio) = folio.as_deref_mut() {
            request.data.copy_to(mem, 0, folio).unwrap();
        }
        black_box(&request);
        request.reply.complete(ring, mem, Status::Ok, 0);
    }
    black_box(ring.publish(mem).unwrap());
}

/// The same work on the ring of rust-vmm's `virtio-queue`: it has descriptors, and no requests, so
/// the parts of a request are found by their order.
fn serve_by_virtio_queue(queue: &mut Queue, mem: &GuestMemoryMmap, folio: &mut [u8]) {
    while let Some(chain) = queue.pop_descriptor_chain(mem) {
        let head = chain.head_index();
        let mut header = [0_u8; 16];
        let mut status = None;
        for (index, descriptor) in chain.enumerate() {
            match (index, descriptor.is_write_only()) {
                (0, false) => mem.read_slice(&mut header, descriptor.addr()).unwrap(),
                (_, false) => {
                    let len = descriptor.len() as usize;
                    mem.read_slice(&mut folio[..len], descriptor.addr()).unwrap();
                }
                (_, true) => status = Some(descriptor.addr()),
            }
        }
        black_box(&header);
        mem.write_obj(0_u8, status.unwrap()).unwrap();
        queue.add_used(mem, head, 1).unwrap();
    }
    black_box(queue.needs_notification(mem).unwrap());
}

fn virtio_queue(mem: &GuestMemoryMmap, driver: &Driver<&GuestMemoryMmap>) -> Queue {
    let mut queue = Queue::new(RING_SIZE).unwrap();
    let addresses = driver.addresses();
    queue.try_set_desc_table_address(addresses.descriptor_table).unwrap();
    queue.try_set_avail_ring_address(addresses.available_ring).unwrap();
    queue.try_set_used_ring_address(addresses.used_ring).unwrap();
    queue.set_event_idx(true);
    queue.set_ready(true);
    assert!(queue.is_valid(mem));
    queue
}

fn bench(c: &mut Criterion) {
    let mem = guest_memory();
    for table in [Table::Direct, Table::Indirect] {
        for batch in BATCHES {
            for copies in [false, true] {
                let mut driver = Driver::new(&mem, 0, RING_SIZE);
                let heads: Vec<u16> =
                    (0..batch).map(|slot| write_chain(&mut driver, table, u64::from(slot))).collect();
                let mut ring = driver.device(true).unwrap();
                let mut folio = vec![0; BLOCK_SIZE as usize];
                let copied = if copies { "4 KiB" } else { "no copy" };
                let mut group = c.benchmark_group("request");
                group.throughput(Throughput::Elements(u64::from(batch)));
                group.bench_function(format!("{table:?}/{copied}/batch {batch}"), |b| {
                    b.iter_batched(
                        || heads.iter().for_each(|head| driver.make_available(*head)),
                        |()| serve(&mut ring, &mem, copies.then_some(&mut folio)),
                        BatchSize::PerIteration,
                    );
                });
            }
            let mut driver = Driver::new(&mem, 0, RING_SIZE);
            let heads: Vec<u16> =
                (0..batch).map(|slot| write_chain(&mut driver, table, u64::from(slot))).collect();
            let mut queue = virtio_queue(&mem, &driver);
            let mut folio = vec![0; BLOCK_SIZE as usize];
            let mut group = c.benchmark_group("request");
            group.throughput(Throughput::Elements(u64::from(batch)));
            group.bench_function(format!("{table:?}/4 KiB/batch {batch}/virtio-queue"), |b| {
                b.iter_batched(
                    || heads.iter().for_each(|head| driver.make_available(*head)),
                    |()| serve_by_virtio_queue(&mut queue, &mem, &mut folio),
                    BatchSize::PerIteration,
                );
            });
        }
    }
}

criterion_group!(benches, bench);
criterion_main!(benches);
