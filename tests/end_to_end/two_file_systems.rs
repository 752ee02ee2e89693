//! Image and sidecar on different file systems, which a crash need not treat alike.

use std::path::Path;

use crate::harness::{Backend, Frontend, GuestMemory, Image, pattern};
use crate::skip::skip;

/// A file system in memory; the sidecar is on a disk.
const TMPFS: &str = "/dev/shm";

#[test]
fn a_crash_is_recovered_from() {
    if !Path::new(TMPFS).is_dir() {
        skip(&format!("there is no {TMPFS}"));
        return;
    }
    for intent in ["region", "block"] {
        let image = Image::create_apart(Path::new(TMPFS), 16 << 20);
        let memory = GuestMemory::new();
        let backend = Backend::serve(&image, &["--intent", intent]);
        let mut frontend = Frontend::connect(&backend, &memory);
        let mut queue = frontend.queue(0);
        queue.write(0, &pattern(1, 1 << 20));
        queue.flush();
        queue.write(1024, &pattern(2, 1 << 20));
        backend.kill();
        assert_eq!(image.json("info")["state"], "dirty");

        let backend = Backend::serve(&image, &["--intent", intent]);
        let mut frontend = Frontend::connect(&backend, &memory);
        let mut queue = frontend.queue(0);
        assert!(queue.read(0, 1 << 19) == pattern(1, 1 << 20)[..1 << 19], "{intent}");
        // it was completed, and only the process has crashed
        assert!(queue.read(1024, 1 << 20) == pattern(2, 1 << 20), "{intent}");
        drop(frontend);
        backend.stop();
        image.assert_clean();
    }
}
