//! Data buffers against a plain model: one array of bytes for guest memory.

use proptest::prelude::*;
use stableblk_virtio::testing::{ChainBuffer, DeviceAccess};
use stableblk_virtio::{CopyError, Request, request_type};
use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend, GuestMemoryMmap};

use crate::harness::{BORDER, DATA, Harness, MEMORY_LEN, TABLE, guest_memory};

/// Where buffers lie: across the border of two memory regions, so that some cross it.
const WINDOW: std::ops::Range<u64> = BORDER - 2048..BORDER + 2048;

/// A request with `buffers` as its data.
fn request(harness: &mut Harness<'_>, buffers: &[(u64, u32)], access: DeviceAccess) -> Request {
    let request_type = match access {
        DeviceAccess::Reads => request_type::OUT,
        DeviceAccess::Writes => request_type::IN,
    };
    let header = ChainBuffer::readable(TABLE - 64, 16);
    let status = ChainBuffer::writable(TABLE - 1, 1);
    harness.driver.write_header(header.address.0, request_type, 0);
    let data = buffers.iter().map(|(address, len)| ChainBuffer {
        address: GuestAddress(*address),
        len: *len,
        access,
    });
    let buffers: Vec<_> = [header].into_iter().chain(data).chain([status]).collect();
    let head = harness.driver.write_indirect_chain(TABLE, &buffers);
    harness.driver.make_available(head);
    harness.parse().unwrap()
}

fn snapshot(mem: &GuestMemoryMmap) -> Vec<u8> {
    let mut bytes = vec![0; MEMORY_LEN];
    mem.read_slice(&mut bytes, GuestAddress(0)).unwrap();
    bytes
}

/// The address of every byte of the data, in order.
fn byte_addresses(buffers: &[(u64, u32)]) -> Vec<usize> {
    let addresses = buffers.iter().flat_map(|(address, len)| *address..*address + u64::from(*len));
    addresses.map(|address| usize::try_from(address).unwrap()).collect()
}

/// Buffers that may overlap and may be empty.
fn buffers() -> impl Strategy<Value = Vec<(u64, u32)>> {
    let buffer = WINDOW.prop_flat_map(|address| {
        let len_max = u32::try_from(WINDOW.end - address).unwrap();
        (Just(address), prop_oneof![0..=len_max.min(16), 0..=len_max.min(700)])
    });
    prop::collection::vec(buffer, 1..12)
}

/// A part of `len` bytes.
fn part(len: usize, start: prop::sample::Index, end: prop::sample::Index) -> std::ops::Range<usize> {
    let (a, b) = (start.index(len + 1), end.index(len + 1));
    a.min(b)..a.max(b)
}

proptest! {
    #[test]
    fn copy_to_reads_the_stream(
        buffers in buffers(), content: [u8; 32], start: prop::sample::Index, end: prop::sample::Index,
    ) {
        let mem = guest_memory();
        let mut harness = Harness::new(&mem);
        for (chunk, byte) in WINDOW.step_by(128).zip(content) {
            let bytes: Vec<u8> = (0..128).map(|i| byte.wrapping_mul(31).wrapping_add(i)).collect();
            mem.write_slice(&bytes, GuestAddress(chunk)).unwrap();
        }
        let request = request(&mut harness, &buffers, DeviceAccess::Reads);
        let addresses = byte_addresses(&buffers);
        prop_assert_eq!(request.data.len(), addresses.len() as u64);
        let part = part(addresses.len(), start, end);

        let memory = snapshot(&mem);
        let expected: Vec<u8> = addresses[part.clone()].iter().map(|address| memory[*address]).collect();
        let mut copy = vec![0; part.len()];
        request.data.copy_to(&mem, part.start as u64, &mut copy).unwrap();
        prop_assert_eq!(copy, expected);
        request.reply.abandon();
    }

    #[test]
    fn copy_from_writes_in_descriptor_order(
        buffers in buffers(), seed: [u8; 31], start: prop::sample::Index, end: prop::sample::Index,
    ) {
        let mem = guest_memory();
        let mut harness = Harness::new(&mem);
        let request = request(&mut harness, &buffers, DeviceAccess::Writes);
        let addresses = byte_addresses(&buffers);
        let part = part(addresses.len(), start, end);
        let source: Vec<u8> = seed.into_iter().cycle().take(part.len()).collect();

        let mut expected = snapshot(&mem);
        for (address, byte) in addresses[part.clone()].iter().zip(&source) {
            expected[*address] = *byte;
        }
        request.data.copy_from(&mem, part.start as u64, &source).unwrap();
        prop_assert!(snapshot(&mem) == expected);
        request.reply.abandon();
    }

    #[test]
    fn slices_are_the_stream_itself(
        buffers in buffers(), start: prop::sample::Index, end: prop::sample::Index,
    ) {
        let mem = guest_memory();
        let mut harness = Harness::new(&mem);
        let request = request(&mut harness, &buffers, DeviceAccess::Reads);
        let addresses = byte_addresses(&buffers);
        let part = part(addresses.len(), start, end);

        let slices = request.data.slices(&mem, part.start as u64, part.len() as u64).unwrap();
        let pointers: Vec<usize> = slices
            .flat_map(|slice| {
                let slice = slice.unwrap();
                let first = slice.ptr_guard().as_ptr() as usize;
                first..first + slice.len()
            })
            .collect();
        let expected: Vec<usize> = addresses[part].iter().map(|address| host_address(&mem, *address as u64)).collect();
        prop_assert_eq!(pointers, expected);
        request.reply.abandon();
    }
}

/// Where guest memory is mapped.
fn host_address(mem: &GuestMemoryMmap, address: u64) -> usize {
    mem.get_host_address(GuestAddress(address)).unwrap() as usize
}

/// spdk 3485: Windows names one dummy page several times in one read.
#[test]
fn page_named_several_times_holds_its_last_occurrence() {
    let mem = guest_memory();
    let mut harness = Harness::new(&mem);
    let (page, dummy) = (DATA, DATA + 0x1000);
    let request =
        request(&mut harness, &[(dummy, 512), (page, 512), (dummy, 512), (dummy, 512)], DeviceAccess::Writes);
    let source: Vec<u8> = [1_u8, 2, 3, 4].into_iter().flat_map(|byte| [byte; 512]).collect();
    request.data.copy_from(&mem, 0, &source).unwrap();
    assert_eq!(mem.read_obj::<u8>(GuestAddress(page)).unwrap(), 2);
    assert_eq!(mem.read_obj::<u8>(GuestAddress(dummy)).unwrap(), 4);
    request.reply.abandon();
}

/// kvm-guest-drivers-windows 869.
#[test]
fn buffers_need_not_be_multiples_of_a_sector() {
    let mem = guest_memory();
    let mut harness = Harness::new(&mem);
    let request = request(&mut harness, &[(DATA, 3952), (DATA + 0x2000, 2704)], DeviceAccess::Reads);
    assert_eq!(request.data.len(), 13 * 512);
    assert_eq!(request.data.iter().map(|segment| segment.len).collect::<Vec<_>>(), [3952, 2704]);
    request.reply.abandon();
}

#[test]
fn bytes_past_the_end_are_refused() {
    let mem = guest_memory();
    let mut harness = Harness::new(&mem);
    let request = request(&mut harness, &[(DATA, 512)], DeviceAccess::Writes);
    let before = snapshot(&mem);
    for (offset, len) in [(0, 513), (512, 1), (513, 0), (u64::MAX, 1), (u64::MAX, 0)] {
        let mut buffer = vec![0; len];
        let result = request.data.copy_to(&mem, offset, &mut buffer);
        assert!(matches!(result, Err(CopyError::OutOfBounds { total: 512, .. })));
        let result = request.data.copy_from(&mem, offset, &buffer);
        assert!(matches!(result, Err(CopyError::OutOfBounds { total: 512, .. })));
        assert!(request.data.slices(&mem, offset, len as u64).is_err());
    }
    request.data.copy_to(&mem, 512, &mut []).unwrap();
    assert!(snapshot(&mem) == before);
    request.reply.abandon();
}
