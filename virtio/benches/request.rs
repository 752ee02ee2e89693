//! The cost of ring and parser for a request: pop, parse, copy 4096 bytes, complete; published
//! once a batch.
//!
//! `cargo bench -p stableblk-virtio`

use std::hint::black_box;

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use stableblk_virtio::testing::{ChainBuffer, Driver};
use stableblk_virtio::{Request, SplitRing, Status, request_type};
use vm_memory::{GuestAddress, GuestMemoryMmap};

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
        }
    }
}

criterion_group!(benches, bench);
criterion_main!(benches);
