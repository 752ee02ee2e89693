//! An image on tmpfs, where transfers do not go through io_uring.

use std::path::Path;

use crate::harness::{Image, OK, Request, Setup, pattern};
use crate::skip::skip;

const TMPFS: &str = "/dev/shm";
/// Small ones, and one that is cut into pieces.
const LENGTHS: [usize; 3] = [4096, 16 << 10, 512 << 10];

/// Writes of all lengths, in flight at once, then reads, then a write and a read of the same
/// blocks.
fn use_disk(image: &Image, args: &[&str]) {
    let mut vm = Setup::of(image).options(args).start();
    for kind in [Request::write, Request::read] {
        let buffers: Vec<_> = (0..24).map(|_| vm.memory.allocate(512 << 10)).collect();
        for (slot, &buffer) in (0_u64..).zip(&buffers) {
            let len = LENGTHS[usize::try_from(slot).unwrap() % 3];
            vm.memory.write(buffer, &pattern(slot, len));
            vm.queue.submit(&kind(slot * 1024, &[(buffer, u32::try_from(len).unwrap())]));
        }
        vm.queue.kick();
        assert!(vm.queue.wait_all().iter().all(|completion| completion.status == OK));
    }
    for slot in 0..24 {
        let len = LENGTHS[usize::try_from(slot).unwrap() % 3];
        assert!(
            vm.queue.read(slot * 1024, len) == pattern(slot, len),
            "{args:?}: what was written is not there"
        );
        assert!(image.read(slot * 1024 * 512, len) == pattern(slot, len), "{args:?}: it is not in the image");
    }
    vm.queue.write(0, &pattern(99, 16 << 10));
    assert!(vm.queue.read(0, 16 << 10) == pattern(99, 16 << 10));
    vm.queue.write(0, &pattern(0, 4096));
    vm.queue.flush();
    drop(vm.frontend);
    vm.backend.stop();
}

#[test]
fn data_written_to_tmpfs_is_read_back() {
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
