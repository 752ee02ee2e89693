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
