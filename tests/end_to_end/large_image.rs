//! An image far larger than memory: what is not used costs nothing.

use crate::harness::{Backend, Frontend, GuestMemory, Image, pattern};

const TIB: u64 = 1 << 40;

#[test]
fn both_ends_of_a_tebibyte() {
    let image = Image::create(TIB);
    let backend = Backend::serve(&image, &[]);
    let memory = GuestMemory::new();
    let mut frontend = Frontend::connect(&backend, &memory);
    let mut queue = frontend.queue(0);
    for sector in [0, TIB / 512 - 8] {
        assert!(queue.read(sector, 4096) == [0; 4096]);
        queue.write(sector, &pattern(sector, 4096));
    }
    queue.flush();
    backend.kill();
    let backend = Backend::serve(&image, &[]);
    let mut frontend = Frontend::connect(&backend, &memory);
    let mut queue = frontend.queue(0);
    for sector in [0, TIB / 512 - 8] {
        assert!(queue.read(sector, 4096) == pattern(sector, 4096));
    }
    drop(frontend);
    backend.stop();
    assert_eq!(image.json("info")["written_blocks"], 2);
    image.assert_clean();
}

/// The tuple array has 4 GiB, the memory for it 1 MiB: 256 pages, of which the blocks here touch 600.
#[test]
fn tuples_that_memory_cannot_hold() {
    const BLOCKS: u64 = 600;
    let image = Image::create(TIB);
    let backend = Backend::serve(&image, &["--tuple-cache", "1M"]);
    let memory = GuestMemory::new();
    let mut frontend = Frontend::connect(&backend, &memory);
    let mut queue = frontend.queue(0);
    let sector = |block: u64| block * (TIB / BLOCKS / 4096) * 8;
    for block in 0..BLOCKS {
        queue.write(sector(block), &pattern(block, 4096));
    }
    for block in 0..BLOCKS {
        assert!(queue.read(sector(block), 4096) == pattern(block, 4096), "block {block}");
        assert!(queue.read(sector(block) + 8, 4096) == [0; 4096], "behind block {block}");
    }
    drop(frontend);
    backend.stop();
    assert_eq!(image.json("info")["written_blocks"], BLOCKS);
    image.assert_clean();
}
