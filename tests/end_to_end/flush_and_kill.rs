//! kill -9: whatever was flushed is there, and whatever was completed can be read.

use std::collections::HashMap;

use crate::harness::{GuestMemory, IOERR, Image, OK, Queue, Request, Setup, stamped, stamps};

const BLOCK: u32 = 4096;
const SECTORS: u64 = 8;
/// Blocks that are flushed before the kill, and as many that are in flight during it.
const BLOCKS: u64 = 64;
const ROUNDS: u64 = 20;
/// Where a busy machine kills late, more rounds cut something off.
const ROUNDS_MAX: u64 = 400;

/// Writes `stamp` to each of `blocks`. Returns the block by the head of its request.
fn submit_writes(
    queue: &mut Queue,
    memory: &GuestMemory,
    blocks: impl Iterator<Item = u64>,
    stamp: u64,
) -> HashMap<u16, u64> {
    let heads = blocks.map(|block| {
        let buffer = memory.allocate(BLOCK as usize);
        memory.write(buffer, &stamped(block * SECTORS, 8, stamp));
        (queue.submit(&Request::write(block * SECTORS, &[(buffer, BLOCK)])), block)
    });
    let heads = heads.collect();
    queue.kick();
    heads
}

#[test]
fn flushed_writes_survive_sigkill() {
    let image = Image::create(16 << 20);
    // by block: the stamp of the last completed write; none when that write was cut off
    let mut known: HashMap<u64, Option<u64>> = HashMap::new();
    let (mut round, mut cut_off) = (0, 0);
    while round < ROUNDS || cut_off == 0 {
        round += 1;
        assert!(round <= ROUNDS_MAX, "every write was completed before the kill: nothing was tested");
        let mut vm = Setup::of(&image).connect();
        let (mut queue, mut other) = (vm.frontend.queue(0), vm.frontend.queue(1));
        assert_known(&mut queue, &known, round);

        submit_writes(&mut queue, &vm.memory, 0..BLOCKS / 2, round);
        submit_writes(&mut other, &vm.memory, BLOCKS / 2..BLOCKS, round);
        for completion in queue.wait_all().into_iter().chain(other.wait_all()) {
            assert_eq!(completion.status, OK);
        }
        queue.flush();
        known.extend((0..BLOCKS).map(|block| (block, Some(round))));

        let blocks = |offset| (BLOCKS + offset..2 * BLOCKS).step_by(2);
        let in_flight = submit_writes(&mut queue, &vm.memory, blocks(0), round);
        let in_flight_too = submit_writes(&mut other, &vm.memory, blocks(1), round);
        // let some of them through, another number each round
        (0..round % 8).for_each(|_| drop_completion(&mut queue, &in_flight, &mut known, round));
        vm.backend.kill();
        for (queue, heads) in [(&mut queue, in_flight), (&mut other, in_flight_too)] {
            for &block in heads.values() {
                known
                    .entry(block)
                    .and_modify(|stamp| *stamp = stamp.filter(|&stamp| stamp == round))
                    .or_insert(None);
            }
            while let Some(completion) = queue.take_completion() {
                known.insert(heads[&completion.head], Some(round));
            }
        }
        cut_off += known.values().filter(|stamp| stamp.is_none()).count();
    }
    let mut vm = Setup::of(&image).start();
    assert_known(&mut vm.queue, &known, round + 1);
    drop(vm.frontend);
    vm.backend.stop();
    // nothing but what was cut off may be bad
    for (lba, _) in image.bad_blocks() {
        assert_eq!(known.get(&lba), Some(&None), "block {lba}");
    }
}

fn drop_completion(
    queue: &mut Queue,
    heads: &HashMap<u16, u64>,
    known: &mut HashMap<u64, Option<u64>>,
    round: u64,
) {
    let completion = queue.wait();
    assert_eq!(completion.status, OK);
    known.insert(heads[&completion.head], Some(round));
}

/// Reads every block: known data must be present; an interrupted write is old, new, or an error.
fn assert_known(queue: &mut Queue, known: &HashMap<u64, Option<u64>>, round: u64) {
    for (&block, &stamp) in known {
        let (completion, data) = queue.try_read(block * SECTORS, BLOCK as usize);
        match stamp {
            Some(stamp) => {
                assert_eq!(completion.status, OK, "round {round}, block {block}");
                assert_eq!(
                    stamps(block * SECTORS, &data).unwrap(),
                    [stamp; 8],
                    "round {round}, block {block}"
                );
            }
            None if completion.status == OK => {
                assert!(stamps(block * SECTORS, &data).is_ok(), "block {block}");
            }
            None => assert_eq!(completion.status, IOERR),
        }
    }
}

#[test]
fn a_write_that_was_cut_off_is_healed_by_the_next() {
    let image = Image::create(16 << 20);
    for round in 1..=5 {
        let mut vm = Setup::of(&image).start();
        submit_writes(&mut vm.queue, &vm.memory, 0..64, round);
        vm.backend.kill();
    }
    let mut vm = Setup::of(&image).start();
    submit_writes(&mut vm.queue, &vm.memory, 0..64, 9);
    assert!(vm.queue.wait_all().iter().all(|completion| completion.status == OK));
    assert_eq!(stamps(0, &vm.queue.read(0, 64 * 4096)).unwrap(), [9; 512]);
    drop(vm.frontend);
    let log = vm.backend.stop();
    assert!(log.contains("was not closed cleanly"), "{log}");
    image.assert_clean();
}
