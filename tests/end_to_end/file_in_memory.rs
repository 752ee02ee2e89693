//! An image on tmpfs, where transfers do not go through io_uring.

use std::path::Path;

use crate::harness::{Backend, Frontend, GuestMemory, Image, OK, Request, pattern};
use crate::skip::skip;

const TMPFS: &str = "/dev/shm";
/// Small ones, and one that is cut into pieces.
const LENGTHS: [usize; 3] = [4096, 16 << 10, 512 << 10];

/// Writes of all lengths, in flight at once, then reads, then a write and a read of the same blocks.
fn use_disk(image: &Image, args: &[&str]) {
    let memory = GuestMemory::new();
    let backend = Backend::serve(image, args);
    let mut frontend = Frontend::connect(&backend, &memory);
    let mut queue = frontend.queue(0);
    for kind in [Request::write, Request::read] {
        let buffers: Vec<_> = (0..24).map(|_| memory.allocate(512 << 10)).collect();
        for (slot, &buffer) in (0_u64..).zip(&buffers) {
            let len = LENGTHS[usize::try_from(slot).unwrap() % 3];
            memory.write(buffer, &pattern(slot, len));
            queue.submit(&kind(slot * 1024, &[(buffer, u32::try_from(len).unwrap())]));
        }
        queue.kick();
        assert!(queue.wait_all().iter().all(|completion| completion.status == OK));
    }
    for slot in 0..24 {
        let len = LENGTHS[usize::try_from(slot).unwrap() % 3];
        assert!(
            queue.read(slot * 1024, len) == pattern(slot, len),
            "{args:?}: what was written is not there"
        );
        assert!(image.read(slot * 1024 * 512, len) == pattern(slot, len), "{args:?}: it is not in the image");
    }
    queue.write(0, &pattern(99, 16 << 10));
    assert!(queue.read(0, 16 << 10) == pattern(99, 16 << 10));
    queue.write(0, &pattern(0, 4096));
    queue.flush();
    drop(frontend);
    backend.stop();
}

#[test]
fn what_is_written_is_read() {
    if !Path::new(TMPFS).is_dir() {
        skip(&format!("there is no {TMPFS}"));
        return;
    }
    let image = Image::create_in(Path::new(TMPFS), 16 << 20, &[]);
    use_disk(&image, &[]);
    image.assert_clean();
    use_disk(&image, &["--integrity", "none", "--force"]);
    use_disk(&image, &["--integrity", "none", "--bounce", "always"]);
}
