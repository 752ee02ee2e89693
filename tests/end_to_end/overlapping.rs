//! Requests in flight over the same blocks, on all queues: no guard error that the medium does not
//! have, no lost update.

use crate::harness::{OK, Queue, Request, Setup, stamped, stamps};

const QUEUES: usize = 4;
const BLOCK: u32 = 4096;
const SECTORS: u64 = 8;
/// Few, so that every request meets others.
const BLOCKS: u64 = 16;
const AREA: u32 = 16 * BLOCK;

/// A read in flight: where it began, and where its data is.
struct Read {
    head: u16,
    block: u64,
    buffer: u64,
    len: usize,
}

#[test]
fn reads_of_blocks_being_written_see_whole_writes() {
    let mut vm = Setup::disk(1 << 20).connect();
    let mut queues: Vec<_> = (0..QUEUES).map(|index| vm.frontend.queue(index)).collect();
    let buffers: Vec<_> = (0..QUEUES * 32).map(|_| vm.memory.allocate(AREA as usize)).collect();
    let mut written = vec![vec![0]; usize::try_from(BLOCKS).unwrap()];
    let mut stamp = 0;
    for round in 0..40 {
        let mut reads: Vec<Vec<Read>> = (0..QUEUES).map(|_| Vec::new()).collect();
        for (slot, &buffer) in buffers.iter().enumerate() {
            let (queue, request) = (slot % QUEUES, slot as u64 + round);
            let first = request * 5 % BLOCKS;
            let blocks = (request % 4 + 1).min(BLOCKS - first);
            let len = u32::try_from(blocks).unwrap() * BLOCK;
            if request % 3 == 0 {
                let head = queues[queue].submit(&Request::read(first * SECTORS, &[(buffer, len)]));
                reads[queue].push(Read { head, block: first, buffer, len: len as usize });
            } else {
                stamp += 1;
                let sectors = usize::try_from(blocks * SECTORS).unwrap();
                vm.memory.write(buffer, &stamped(first * SECTORS, sectors, stamp));
                queues[queue].submit(&Request::write(first * SECTORS, &[(buffer, len)]));
                for block in first..first + blocks {
                    written[usize::try_from(block).unwrap()].push(stamp);
                }
            }
        }
        queues.iter().for_each(Queue::kick);
        for (queue, reads) in queues.iter_mut().zip(reads) {
            for completion in queue.wait_all() {
                assert_eq!(completion.status, OK, "round {round}:\n{}", vm.backend.log().so_far());
            }
            for read in reads {
                assert!(read.head < queue.size());
                assert_whole_blocks(read.block, &vm.memory.read(read.buffer, read.len), &written);
            }
        }
    }
    let last = queues[0].read(0, AREA as usize);
    assert_whole_blocks(0, &last, &written);
    assert!(stamps(0, &last).unwrap().iter().all(|&stamp| stamp != 0));
    let log = vm.stop_clean();
    assert!(log.contains("integrity_errors=0"), "{log}");
}

/// Each block is, as a whole, what one write made of it.
#[track_caller]
fn assert_whole_blocks(first: u64, data: &[u8], written: &[Vec<u64>]) {
    let found = stamps(first * SECTORS, data).unwrap();
    for (block, sectors) in (usize::try_from(first).unwrap()..).zip(found.chunks(8)) {
        assert!(
            sectors.iter().all(|&stamp| stamp == sectors[0]),
            "block {block} is of several writes: {sectors:?}"
        );
        assert!(written[block].contains(&sectors[0]), "block {block} was never written as {}", sectors[0]);
    }
}

/// Two queues write every other sector of the same blocks at the same time: read-merge-write must
/// not undo a neighbour.
#[test]
fn writes_of_parts_of_a_block_keep_each_other() {
    let mut vm = Setup::disk(1 << 20).connect();
    let mut queues = [vm.frontend.queue(0), vm.frontend.queue(1)];
    let buffers: Vec<_> = (0..64).map(|_| vm.memory.allocate(512)).collect();
    for round in 1..=60 {
        for sector in 0..64 {
            // so that neighbours are on different queues, in different order each round
            let sector = sector * 13 % 64;
            let buffer = buffers[usize::try_from(sector).unwrap()];
            vm.memory.write(buffer, &stamped(sector, 1, round));
            let owner = usize::try_from((sector + round) % 2).unwrap();
            queues[owner].submit(&Request::write(sector, &[(buffer, 512)]));
        }
        queues.iter().for_each(Queue::kick);
        for queue in &mut queues {
            assert!(queue.wait_all().iter().all(|completion| completion.status == OK), "round {round}");
        }
        let found = stamps(0, &queues[0].read(0, 64 * 512)).unwrap();
        assert_eq!(found, [round; 64], "a sector was lost");
    }
    vm.stop_clean();
}

/// A whole write and parts of it: afterwards every sector is of one of them.
#[test]
fn after_a_whole_write_among_parts_each_sector_is_of_one_of_them() {
    let mut vm = Setup::disk(1 << 20).connect();
    let mut queues = [vm.frontend.queue(0), vm.frontend.queue(1)];
    let (whole, part) = (vm.memory.allocate(65536), vm.memory.allocate(65536));
    for round in 1..=60 {
        vm.memory.write(whole, &stamped(0, 128, 2 * round));
        vm.memory.write(part, &stamped(0, 128, 2 * round + 1));
        queues[0].submit(&Request::write(0, &[(whole, 65536)]));
        for sector in (3..128).step_by(5) {
            queues[1].submit(&Request::write(sector, &[(part + sector * 512, 512)]));
        }
        queues.iter().for_each(Queue::kick);
        for queue in &mut queues {
            assert!(queue.wait_all().iter().all(|completion| completion.status == OK), "round {round}");
        }
        for (sector, stamp) in (0..).zip(stamps(0, &queues[1].read(0, 65536)).unwrap()) {
            let is_part = sector % 5 == 3;
            assert!(
                stamp == 2 * round || (is_part && stamp == 2 * round + 1),
                "sector {sector} has stamp {stamp}"
            );
        }
    }
    vm.stop_clean();
}
