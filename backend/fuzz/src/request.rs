//! Guest memory of any content: rings are popped, requests parsed, checked, and their data moved.

use virtio::{
    DiskLimits, Features, Malformed, Operation, RangeLimits, Request, RingAddresses, SplitRing, Status,
};
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

use super::input::Input;

/// Two regions with a hole between them. The first is small, so that an input soon reaches all of
/// it: rings, then buffers and indirect tables, all over each other.
const REGIONS: [(GuestAddress, usize); 2] = [(GuestAddress(0), 0x400), (GuestAddress(0x1000), 0x1000)];
const RING: RingAddresses = RingAddresses {
    descriptor_table: GuestAddress(0x20),
    available_ring: GuestAddress(0),
    used_ring: GuestAddress(0x380),
};
const SECTORS: u64 = 32;

/// Serves the ring that the input lays out in memory, and checks that each popped chain comes back
/// once.
pub fn run(input: &[u8]) {
    let mut input = Input(input);
    let (flags, size) = (input.u8(), 1 << (input.u8() % 4));
    let (read_only, block_size) = (flags & 1 != 0, input.choose([512, 4096]));
    let mut features = Features::empty();
    features.set(Features::EVENT_IDX, flags & 2 != 0);
    features.set(Features::INDIRECT_DESC, flags & 4 != 0);
    let next_avail = input.u16();
    let memory: GuestMemoryMmap = GuestMemoryMmap::from_ranges(&REGIONS).expect("two small regions");
    let (region, len) = REGIONS[0];
    memory.write_slice(&input.0[..len.min(input.0.len())], region).expect("the region is that long");
    let ring = SplitRing::new(&memory, size, RING, features, next_avail);
    let mut ring = ring.expect("all areas are aligned and in the first region");
    let limit = Some(RangeLimits { sectors_max: 16, ranges_max: 1 });
    let limits =
        DiskLimits { capacity_sectors: SECTORS, block_size, read_only, discard: limit, write_zeroes: limit };
    let first_used = ring.next_used();
    serve(&mut ring, &memory, &limits);
    assert_eq!(ring.outstanding(), 0);
    let (popped, returned) =
        (ring.next_avail().wrapping_sub(next_avail), ring.next_used().wrapping_sub(first_used));
    assert_eq!(popped, returned);
    assert!(popped <= size);
}

/// Until the ring is empty or broken. Nothing is published in between, so no head can come twice.
fn serve(ring: &mut SplitRing, memory: &GuestMemoryMmap, limits: &DiskLimits) {
    while let Ok(Some(chain)) = ring.pop(memory) {
        match Request::parse(memory, chain) {
            Ok(request) => answer(request, ring, memory, limits),
            Err(malformed) => {
                let _ = malformed.reason().to_string();
                let answerable = matches!(malformed, Malformed::Answerable { .. });
                malformed.complete(ring, memory);
                if !answerable {
                    break;
                }
            }
        }
    }
    ring.publish(memory).expect("the rings do not move");
}

fn answer(request: Request, ring: &mut SplitRing, memory: &GuestMemoryMmap, limits: &DiskLimits) {
    let status = request.check(limits).err().unwrap_or(Status::Ok);
    if status == Status::Ok {
        carry_out(&request, memory, limits);
    }
    request.reply.complete(ring, memory, status, 0);
}

/// Moves the data of a request that passed its checks, and so lies within the disk.
fn carry_out(request: &Request, memory: &GuestMemoryMmap, limits: &DiskLimits) {
    let len = request.data.len();
    let mut data = vec![0; usize::try_from(len).expect("guest memory is small")];
    let (sector, sectors, writes) = match &request.operation {
        Operation::Read { sector } => (*sector, len / 512, false),
        Operation::Write { sector } => (*sector, len / 512, true),
        Operation::Discard(ranges) | Operation::WriteZeroes(ranges) => {
            let [range] = ranges[..] else { panic!("one range was allowed, here are {ranges:?}") };
            (range.sector, range.num_sectors.into(), true)
        }
        Operation::GetId | Operation::Flush => (0, 0, false),
        Operation::Unknown(_) => panic!("an unknown type passed"),
    };
    assert!(sector + sectors <= SECTORS, "{:?}", request.operation);
    assert!(!writes || !limits.read_only, "{:?}", request.operation);
    if writes {
        request.data.copy_to(memory, 0, &mut data).expect("it was in memory when it was parsed");
    } else {
        request.data.copy_from(memory, 0, &data).expect("it was in memory when it was parsed");
    }
}
