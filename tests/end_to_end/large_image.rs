//! An image far larger than memory: what is not used costs nothing.

use crate::harness::{Setup, pattern};

const TIB: u64 = 1 << 40;

#[test]
fn both_ends_of_a_tebibyte_can_be_used() {
    let mut vm = Setup::disk(TIB).start();
    for sector in [0, TIB / 512 - 8] {
        assert!(vm.queue.read(sector, 4096) == [0; 4096]);
        vm.queue.write(sector, &pattern(sector, 4096));
    }
    vm.queue.flush();
    vm.backend.kill();
    let mut vm = Setup::of(vm.image).start();
    for sector in [0, TIB / 512 - 8] {
        assert!(vm.queue.read(sector, 4096) == pattern(sector, 4096));
    }
    drop(vm.frontend);
    vm.backend.stop();
    assert_eq!(vm.image.json("info")["written_blocks"], 2);
    vm.image.assert_clean();
}

/// The tuple array has 4 GiB, the memory for it 1 MiB: 256 pages, of which the blocks here touch
/// 600.
#[test]
fn more_tuples_than_memory_holds_are_kept() {
    const BLOCKS: u64 = 600;
    let mut vm = Setup::disk(TIB).options(&["--tuple-cache", "1M"]).start();
    let sector = |block: u64| block * (TIB / BLOCKS / 4096) * 8;
    for block in 0..BLOCKS {
        vm.queue.write(sector(block), &pattern(block, 4096));
    }
    for block in 0..BLOCKS {
        assert!(vm.queue.read(sector(block), 4096) == pattern(block, 4096), "block {block}");
        assert!(vm.queue.read(sector(block) + 8, 4096) == [0; 4096], "behind block {block}");
    }
    drop(vm.frontend);
    vm.backend.stop();
    assert_eq!(vm.image.json("info")["written_blocks"], BLOCKS);
    vm.image.assert_clean();
}
