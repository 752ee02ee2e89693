//! Arbitrary ring contents: no panic, no endless loop, and every popped chain comes back once.

use proptest::prelude::*;
use stableblk_virtio::testing::Driver;
use stableblk_virtio::{
    Descriptor, DescriptorFlags, DiskLimits, Features, Operation, RangeLimits, Request, RingError, SplitRing,
    Status,
};
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

use crate::harness::{BORDER, MEMORY_END, RING_SIZE, TABLE, guest_memory};

const LIMITS: DiskLimits = DiskLimits {
    capacity_sectors: 1 << 20,
    block_size: 512,
    read_only: false,
    discard: Some(RangeLimits { sectors_max: 1 << 16, ranges_max: 4 }),
    write_zeroes: Some(RangeLimits { sectors_max: 1 << 16, ranges_max: 4 }),
};

/// A buffer of this length lies in memory nowhere.
const LEN_TOO_LONG: u32 = 0x8_0001;

/// Addresses off the used ring, which is what the test looks at: mostly of tables, headers and
/// data, at times at every kind of edge.
fn address() -> impl Strategy<Value = u64> {
    prop_oneof![
        8 => (0..8_u64).prop_map(|page| TABLE + page * 256),
        2 => BORDER - 64..BORDER + 64,
        1 => 0..0x800_u64,
        1 => MEMORY_END - 64..MEMORY_END + 64,
        1 => u64::MAX - 64..=u64::MAX,
        1 => any::<u64>(),
    ]
}

fn descriptor() -> impl Strategy<Value = Descriptor> {
    let len = prop_oneof![
        4 => Just(16),
        2 => Just(1),
        2 => Just(64),
        2 => 0..600_u32,
        1 => LEN_TOO_LONG..=u32::MAX,
    ];
    // mostly flags of chains that continue
    let flags = prop_oneof![4 => Just(1_u16), 2 => Just(2), 2 => Just(3), 1 => Just(4), 1 => any::<u16>()];
    let next = prop_oneof![8 => 0..RING_SIZE, 1 => any::<u16>()];
    (address(), len, flags, next).prop_map(|(address, len, flags, next)| Descriptor {
        address,
        len,
        flags: DescriptorFlags::from_bits_retain(flags),
        next,
    })
}

fn header() -> impl Strategy<Value = (u32, u64)> {
    let request_type = prop_oneof![9 => 0..15_u32, 1 => any::<u32>()];
    let sector = prop_oneof![3 => 0..1_u64 << 20, 1 => any::<u64>()];
    (request_type, sector)
}

/// An action of a hostile driver between two looks of the device.
#[derive(Clone, Copy, Debug)]
enum Act {
    MakeAvailable(u16),
    SetAvailableIndex(u16),
    SetUsedEvent(u16),
    WriteDescriptor(u16, Descriptor),
    WriteTableEntry(u16, Descriptor),
    WriteHeader(u64, (u32, u64)),
}

fn act() -> impl Strategy<Value = Act> {
    let head = prop_oneof![20 => 0..RING_SIZE, 1 => any::<u16>()];
    prop_oneof![
        12 => head.prop_map(Act::MakeAvailable),
        1 => any::<u16>().prop_map(Act::SetAvailableIndex),
        1 => any::<u16>().prop_map(Act::SetUsedEvent),
        12 => (0..RING_SIZE, descriptor()).prop_map(|(index, descriptor)| Act::WriteDescriptor(index, descriptor)),
        6 => (0..64_u16, descriptor()).prop_map(|(index, descriptor)| Act::WriteTableEntry(index, descriptor)),
        3 => (0..8_u64, header()).prop_map(|(page, header)| Act::WriteHeader(TABLE + page * 256, header)),
    ]
}

fn perform(driver: &mut Driver<&GuestMemoryMmap>, act: Act) {
    match act {
        Act::MakeAvailable(head) => driver.make_available(head),
        Act::SetAvailableIndex(index) => driver.set_available_index(index),
        Act::SetUsedEvent(event) => driver.set_used_event(event),
        Act::WriteDescriptor(index, descriptor) => driver.write_descriptor(index, descriptor),
        Act::WriteTableEntry(index, descriptor) => {
            driver.write_table_entry(GuestAddress(TABLE), index, descriptor);
        }
        Act::WriteHeader(address, (request_type, sector)) => {
            driver.write_header(address, request_type, sector);
        }
    }
}

/// Serves what is available; how many chains were popped.
fn serve(ring: &mut SplitRing, mem: &GuestMemoryMmap) -> Result<u16, RingError> {
    let mut popped = 0;
    while let Some(chain) = ring.pop(mem)? {
        popped += 1;
        assert!(popped <= RING_SIZE, "more chains than the ring holds");
        match Request::parse(mem, chain) {
            Ok(request) => answer(request, ring, mem),
            Err(malformed) => malformed.complete(ring, mem),
        }
    }
    Ok(popped)
}

fn answer(request: Request, ring: &mut SplitRing, mem: &GuestMemoryMmap) {
    let status = request.check(&LIMITS).err().unwrap_or(Status::Ok);
    // parsed data lies in memory, which the driver cannot take away
    let len = usize::try_from(request.data.len()).unwrap();
    let mut data = vec![0; len.min(1 << 16)];
    let written = match request.operation {
        Operation::Read { .. } | Operation::GetId => {
            request.data.copy_from(mem, 0, &data).unwrap();
            u32::try_from(len).unwrap()
        }
        _ => {
            request.data.copy_to(mem, 0, &mut data).unwrap();
            0
        }
    };
    request.reply.complete(ring, mem, status, written);
}

/// The ring's features, negotiated or not.
fn features() -> impl Strategy<Value = Features> {
    [Features::EVENT_IDX, Features::INDIRECT_DESC]
        .map(|feature| prop::sample::select(vec![Features::empty(), feature]))
        .prop_map(|features| features.into_iter().collect())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    #[test]
    fn hostile_driver_gets_its_chains_back(
        features in features(),
        start: u16,
        rounds in prop::collection::vec(prop::collection::vec(act(), 1..40), 1..8),
    ) {
        let mem = guest_memory();
        let mut driver = Driver::new(&mem, 0, RING_SIZE);
        driver.start_at(start);
        let mut ring =
            SplitRing::new(&mem, RING_SIZE, driver.addresses(), features, start).unwrap();
        for acts in rounds {
            for act in acts {
                perform(&mut driver, act);
            }
            let before = ring.next_avail();
            let result = serve(&mut ring, &mem);
            let popped = ring.next_avail().wrapping_sub(before);
            prop_assert_eq!(ring.outstanding(), 0);
            ring.publish(&mem).unwrap();
            let returned = std::iter::from_fn(|| driver.take_used()).count();
            prop_assert_eq!(returned, usize::from(popped));
            if result.is_err() || ring.enable_notifications(&mem).is_err() {
                break;
            }
        }
    }

    /// Not even the indexes make sense.
    #[test]
    fn random_bytes_do_not_panic(
        bytes in prop::collection::vec(any::<u8>(), 0x600),
        features in features(),
        next_avail: u16,
    ) {
        let mem = guest_memory();
        let driver = Driver::new(&mem, 0, RING_SIZE);
        mem.write_slice(&bytes, GuestAddress(0)).unwrap();
        // an index that the device accepts, so that it continues with the rest
        driver.set_available_index(next_avail.wrapping_add(RING_SIZE));
        let mut ring =
            SplitRing::new(&mem, RING_SIZE, driver.addresses(), features, next_avail).unwrap();
        let _ = serve(&mut ring, &mem);
        ring.publish(&mem).unwrap();
        let _ = ring.enable_notifications(&mem);
    }
}
