//! An image that another program truncates while it is served: reads of the missing part fail, and
//! never return the earlier contents of a folio.

use std::fs::OpenOptions;

use crate::harness::{IOERR, NOT_WRITTEN, Setup, pattern};

const MIB: usize = 1 << 20;
/// The length of a read. Each piece of a longer one would be an error.
const TRANSFER: usize = 256 << 10;

#[test]
fn a_short_read_fails() {
    let mut vm = Setup::plain_disk(16 << 20).options(&["--integrity", "none", "--bounce", "always"]).start();
    let data = pattern(1, 4 * MIB);
    vm.queue.write(0, &data);
    OpenOptions::new().write(true).open(vm.image.path()).unwrap().set_len((6 << 20) + 4096).unwrap();
    // one has 4096 bytes left, the other none
    for mebibyte in [6, 8] {
        let (completion, read) = vm.queue.try_read(mebibyte * 2048, TRANSFER);
        assert_eq!((completion.status, completion.used_len), (IOERR, 1), "at {mebibyte} MiB");
        assert!(read == vec![NOT_WRITTEN; TRANSFER], "at {mebibyte} MiB");
    }
    assert!(vm.queue.read(0, 4 * MIB) == data);
    drop(vm.frontend);
    let log = vm.backend.stop();
    assert!(log.contains("short transfer: 4096 of 262144 bytes"), "{log}");
    assert!(log.contains("device_errors=2 "), "{log}");
}
