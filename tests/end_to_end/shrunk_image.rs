//! An image that somebody cuts off while it is served: what is gone is an error, and never what a folio held before.

use std::fs::OpenOptions;

use crate::harness::{Backend, Frontend, GuestMemory, IOERR, Image, NOT_WRITTEN, pattern};

const MIB: usize = 1 << 20;
/// Of a longer read, each piece would be an error.
const TRANSFER: usize = 256 << 10;

#[test]
fn a_short_read_fails() {
    let image = Image::without_sidecar(16 << 20);
    let backend = Backend::serve(&image, &["--integrity", "none", "--bounce", "always"]);
    let memory = GuestMemory::new();
    let mut frontend = Frontend::connect(&backend, &memory);
    let mut queue = frontend.queue(0);
    let data = pattern(1, 4 * MIB);
    queue.write(0, &data);
    OpenOptions::new().write(true).open(image.path()).unwrap().set_len((6 << 20) + 4096).unwrap();
    // one has 4096 bytes left, the other none
    for mebibyte in [6, 8] {
        let (completion, read) = queue.try_read(mebibyte * 2048, TRANSFER);
        assert_eq!((completion.status, completion.used_len), (IOERR, 1), "at {mebibyte} MiB");
        assert!(read == vec![NOT_WRITTEN; TRANSFER], "at {mebibyte} MiB");
    }
    assert!(queue.read(0, 4 * MIB) == data);
    drop(frontend);
    let log = backend.stop();
    assert!(log.contains("short transfer: 4096 of 262144 bytes"), "{log}");
    assert!(log.contains("device_errors=2 "), "{log}");
}
