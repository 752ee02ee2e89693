//! Image and sidecar on different file systems, which a crash need not treat alike.

use std::path::Path;

use crate::harness::{Image, Setup, pattern};
use crate::skip::skip;

/// A file system in memory; the sidecar is on a disk.
const TMPFS: &str = "/dev/shm";

#[test]
fn a_crash_is_recovered_from_across_two_file_systems() {
    if !Path::new(TMPFS).is_dir() {
        skip(&format!("there is no {TMPFS}"));
        return;
    }
    for intent in ["region", "block"] {
        let mut vm =
            Setup::of(Image::create_apart(Path::new(TMPFS), 16 << 20)).options(&["--intent", intent]).start();
        vm.queue.write(0, &pattern(1, 1 << 20));
        vm.queue.flush();
        vm.queue.write(1024, &pattern(2, 1 << 20));
        vm.backend.kill();
        assert_eq!(vm.image.json("info")["state"], "dirty");

        let mut vm = Setup::of(vm.image).options(&["--intent", intent]).start();
        assert!(vm.queue.read(0, 1 << 19) == pattern(1, 1 << 20)[..1 << 19], "{intent}");
        // it was completed, and only the process has crashed
        assert!(vm.queue.read(1024, 1 << 20) == pattern(2, 1 << 20), "{intent}");
        vm.stop_clean();
    }
}
