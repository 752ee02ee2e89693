//! Discard and write zeroes: the blocks read as zeros and match, their space is given back, and
//! every limit holds.

use std::os::unix::fs::MetadataExt;

use virtio::request_type::{DISCARD, WRITE_ZEROES};
use virtio::testing::range;

use crate::harness::{
    Completion, GuestMemory, IOERR, Image, OK, Queue, Request, Setup, UNSUPP, pattern, stamped, stamps,
};

const UNMAP: u32 = virtio::Range::UNMAP;
const SIZE: u64 = 16 << 20;
const SECTORS: u64 = SIZE / 512;

fn zero(queue: &mut Queue, memory: &GuestMemory, kind: u32, ranges: &[(u64, u32, u32)]) -> Completion {
    let bytes: Vec<u8> =
        ranges.iter().flat_map(|&(sector, count, flags)| range(sector, count, flags)).collect();
    let buffer = memory.allocate(bytes.len());
    memory.write(buffer, &bytes);
    queue.execute(&Request::zeroing(kind, buffer, u32::try_from(bytes.len()).unwrap()))
}

fn assert_status(completion: Completion, status: u8) {
    assert_eq!((completion.status, completion.used_len), (status, 1));
}

#[test]
fn blocks_become_zeros_that_match() {
    let mut vm = Setup::disk(SIZE).start();
    let mut expected = pattern(1, 4 << 20);
    for (kind, flags) in [(DISCARD, 0), (WRITE_ZEROES, 0), (WRITE_ZEROES, UNMAP)] {
        vm.queue.write(0, &expected);
        // whole blocks, parts of one, parts at both ends, more than a folio
        for (sector, count) in [(8, 8), (33, 2), (61, 30), (1003, 4097)] {
            assert_status(zero(&mut vm.queue, &vm.memory, kind, &[(sector, count, flags)]), OK);
            let (start, len) = (usize::try_from(sector).unwrap() * 512, count as usize * 512);
            let after = vm.queue.read(0, expected.len());
            if kind == WRITE_ZEROES {
                expected[start..start + len].fill(0);
            } else {
                // a hint: parts of a block may be kept
                for (index, block) in expected.chunks_mut(4096).enumerate() {
                    let inside = index * 4096 >= start && (index + 1) * 4096 <= start + len;
                    if inside {
                        block.fill(0);
                    }
                }
            }
            let differs = |index: &usize| after[*index] != expected[*index];
            let unexpected = (0..after.len()).filter(differs).find(|&index| {
                let inside = (start..start + len).contains(&index);
                kind == WRITE_ZEROES || !inside || after[index] != 0
            });
            assert_eq!(unexpected, None, "kind {kind}, {count} sectors at {sector}");
            expected = after;
        }
        expected = pattern(u64::from(kind), 4 << 20);
    }
    vm.stop_clean();
}

#[test]
fn zeroing_frees_space() {
    let image = Image::create(SIZE);
    let space = || {
        let blocks = |path| std::fs::metadata(path).unwrap().blocks() * 512;
        (blocks(image.path().to_owned()), blocks(image.sidecar_path()))
    };
    // tuples get to their array at the end of a session at the latest
    let session = |work: &dyn Fn(&mut Queue, &GuestMemory)| {
        let mut vm = Setup::of(&image).start();
        work(&mut vm.queue, &vm.memory);
        drop(vm.frontend);
        vm.backend.stop();
        space()
    };
    for (kind, flags) in [(DISCARD, 0), (WRITE_ZEROES, UNMAP)] {
        let (image_before, sidecar_before) =
            session(&|queue, _| queue.write(0, &pattern(1, usize::try_from(SIZE).unwrap())));
        assert!(image_before >= SIZE);
        let (image_after, sidecar_after) = session(&|queue, memory| {
            let sectors = u32::try_from(SECTORS).unwrap();
            assert_status(zero(queue, memory, kind, &[(0, sectors, flags)]), OK);
        });
        assert!(image_after < SIZE / 16, "{image_after} of {image_before} bytes are still in use");
        let tuples = SIZE / 4096 * 16;
        assert!(
            sidecar_after + tuples <= sidecar_before,
            "{sidecar_after} bytes of {sidecar_before} are still in use"
        );
        image.assert_clean();
    }
}

/// The cases of QEMU's vhost-user-blk qtest, and their neighbours.
#[test]
fn requests_beyond_a_limit_are_refused() {
    let mut vm = Setup::disk(SIZE).connect();
    let config = vm.frontend.config(0, 60).unwrap();
    let field = |offset: usize| u32::from_le_bytes(*config[offset..].first_chunk().unwrap());
    let (max_discard_sectors, max_discard_seg, alignment) = (field(36), field(40), field(44));
    let (max_zeroes_sectors, max_zeroes_seg, may_unmap) = (field(48), field(52), config[56]);
    assert!(max_discard_sectors > 0 && max_discard_seg == 1 && alignment == 8);
    assert!(max_zeroes_sectors > 0 && max_zeroes_seg == 1 && may_unmap == 1);

    let mut queue = vm.frontend.queue(0);
    let data = pattern(1, 65536);
    queue.write(0, &data);
    let end = SECTORS - 8;
    for (kind, max) in [(DISCARD, max_discard_sectors), (WRITE_ZEROES, max_zeroes_sectors)] {
        let mut assert_refused = |ranges: &[(u64, u32, u32)], status| {
            assert_status(zero(&mut queue, &vm.memory, kind, ranges), status);
        };
        assert_refused(&[(0, 8, 0), (16, 8, 0)], UNSUPP);
        assert_refused(&[(0, max + 1, 0)], IOERR);
        assert_refused(&[(SECTORS, 8, 0)], IOERR);
        assert_refused(&[(end + 1, 8, 0)], IOERR);
        assert_refused(&[(u64::MAX, 8, 0)], IOERR);
        assert_refused(&[(0, 8, 2)], UNSUPP);
        assert_refused(&[(0, 8, u32::MAX)], UNSUPP);
        assert_refused(&[], IOERR);
    }
    assert_status(zero(&mut queue, &vm.memory, DISCARD, &[(0, 8, UNMAP)]), UNSUPP);
    assert!(queue.read(0, 65536) == data, "a refused request has changed the disk");
    assert_status(zero(&mut queue, &vm.memory, DISCARD, &[(0, 0, 0)]), OK);
    assert_status(zero(&mut queue, &vm.memory, DISCARD, &[(end, 8, 0)]), OK);
    assert_status(zero(&mut queue, &vm.memory, WRITE_ZEROES, &[(end, 8, UNMAP)]), OK);
}

#[test]
fn a_read_only_disk_offers_neither() {
    let mut vm = Setup::disk(SIZE).options(&["--read-only"]).start();
    for kind in [DISCARD, WRITE_ZEROES] {
        assert_status(zero(&mut vm.queue, &vm.memory, kind, &[(0, 8, 0)]), UNSUPP);
    }
}

/// A zeroed bad block is sound; a bad neighbour of a zeroed part makes the request fail and change
/// nothing.
#[test]
fn zeroing_mends_bad_blocks_only_as_a_whole() {
    let mut vm = Setup::disk(SIZE).start();
    vm.queue.write(0, &pattern(1, 65536));
    drop(vm.frontend);
    vm.backend.stop();
    vm.image.flip_bit(3 * 4096);
    vm.image.flip_bit(9 * 4096);
    let mut vm = Setup::of(vm.image).start();
    assert_status(zero(&mut vm.queue, &vm.memory, WRITE_ZEROES, &[(3 * 8, 8, 0)]), OK);
    assert_eq!(vm.queue.read(3 * 8, 4096), [0; 4096]);
    assert_status(zero(&mut vm.queue, &vm.memory, WRITE_ZEROES, &[(9 * 8 + 1, 2, 0)]), IOERR);
    drop(vm.frontend);
    vm.backend.stop();
    assert_eq!(vm.image.bad_blocks(), [(9, "guard_tag".to_owned())]);
}

/// Zeroing, writing and reading the same blocks from three queues.
#[test]
fn zeroing_among_writes_and_reads_leaves_whole_sectors() {
    let mut vm = Setup::disk(1 << 20).connect();
    let mut queues = [vm.frontend.queue(0), vm.frontend.queue(1), vm.frontend.queue(2)];
    let (data, read, ranges) =
        (vm.memory.allocate(65536), vm.memory.allocate(65536), vm.memory.allocate(4096));
    for round in 1..=40_u64 {
        vm.memory.write(data, &stamped(0, 128, round));
        for block in 0..16 {
            let block = (block * 7 + round) % 16;
            queues[0].submit(&Request::write(block * 8, &[(data + block * 4096, 4096)]));
            let (sector, count) = (block * 8 % 126 + round % 3, 2 + u32::try_from(round % 3).unwrap() * 8);
            let count = count.min(128 - u32::try_from(sector).unwrap());
            vm.memory.write(ranges + block * 16, &range(sector, count, 0));
            let kind = if round % 2 == 0 { DISCARD } else { WRITE_ZEROES };
            queues[1].submit(&Request::zeroing(kind, ranges + block * 16, 16));
            queues[2].submit(&Request::read(block * 8, &[(read + block * 4096, 4096)]));
        }
        queues.iter().for_each(Queue::kick);
        for queue in &mut queues {
            assert!(queue.wait_all().iter().all(|completion| completion.status == OK), "round {round}");
        }
        for (sector, stamp) in (0..).zip(stamps(0, &queues[2].read(0, 65536)).unwrap()) {
            assert!(stamp <= round, "sector {sector} has stamp {stamp} in round {round}");
        }
        stamps(0, &vm.memory.read(read, 65536)).unwrap();
    }
    vm.stop_clean();
}
