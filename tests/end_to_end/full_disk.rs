//! A file system without room left: the requests that need some fail, the others do not notice.

use std::fs;

use crate::harness::{IOERR, Image, OK, Setup, SmallFileSystem, pattern};
use crate::skip::skip;

const MIB: usize = 1 << 20;

#[test]
fn writes_that_need_room_fail_and_others_succeed() {
    let Some(file_system) = SmallFileSystem::mount(8) else {
        skip("mounting is not allowed");
        return;
    };
    let image = Image::create_in(file_system.path(), 32 << 20, &[]);
    let filler = file_system.path().join("filler");
    fs::write(&filler, vec![1; 2 * MIB]).unwrap();
    let mut vm = Setup::of(&image).start();
    let mut failed = 0;
    for mebibyte in 0..16 {
        match vm.queue.try_write(mebibyte * 2048, &pattern(mebibyte, MIB)).status {
            OK => assert_eq!(failed, 0, "room has come from nowhere"),
            status => {
                assert_eq!(status, IOERR);
                failed += 1;
            }
        }
    }
    assert!((10..16).contains(&failed), "{failed} of 16 MiB did not fit into 8, where 2 are taken");
    for mebibyte in 0..16 - failed {
        assert!(vm.queue.read(mebibyte * 2048, MIB) == pattern(mebibyte, MIB));
        vm.queue.write(mebibyte * 2048, &pattern(mebibyte + 50, MIB));
        assert!(vm.queue.read(mebibyte * 2048, MIB) == pattern(mebibyte + 50, MIB));
    }
    vm.queue.flush();
    // room comes back while the disk is served
    fs::remove_file(&filler).unwrap();
    let freed = 16 - failed;
    vm.queue.write(freed * 2048, &pattern(99, MIB));
    vm.queue.flush();
    assert!(vm.queue.read(freed * 2048, MIB) == pattern(99, MIB));
    drop(vm.frontend);
    let log = vm.backend.stop();
    assert!(log.contains("No space left on device"), "{log}");
    assert!(!log.contains("no_space=0 "), "{log}");
    // a write of which a part had room is no error of a device
    assert!(log.contains("device_errors=0 "), "{log}");
    image.assert_clean();
}
