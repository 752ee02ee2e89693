//! A file system without room left: the requests that need some fail, the others do not notice.

use std::fs;

use crate::harness::{Backend, Frontend, GuestMemory, IOERR, Image, OK, SmallFileSystem, pattern};
use crate::skip::skip;

const MIB: usize = 1 << 20;

#[test]
fn writes_that_need_room_fail_and_others_go_on() {
    let Some(file_system) = SmallFileSystem::mount(8) else {
        skip("mounting is not allowed");
        return;
    };
    let image = Image::create_in(file_system.path(), 32 << 20, &[]);
    let filler = file_system.path().join("filler");
    fs::write(&filler, vec![1; 2 * MIB]).unwrap();
    let backend = Backend::serve(&image, &[]);
    let memory = GuestMemory::new();
    let mut frontend = Frontend::connect(&backend, &memory);
    let mut queue = frontend.queue(0);
    let mut failed = 0;
    for mebibyte in 0..16 {
        match queue.try_write(mebibyte * 2048, &pattern(mebibyte, MIB)).status {
            OK => assert_eq!(failed, 0, "room has come from nowhere"),
            status => {
                assert_eq!(status, IOERR);
                failed += 1;
            }
        }
    }
    assert!((10..16).contains(&failed), "{failed} of 16 MiB did not fit into 8, where 2 are taken");
    for mebibyte in 0..16 - failed {
        assert!(queue.read(mebibyte * 2048, MIB) == pattern(mebibyte, MIB));
        queue.write(mebibyte * 2048, &pattern(mebibyte + 50, MIB));
        assert!(queue.read(mebibyte * 2048, MIB) == pattern(mebibyte + 50, MIB));
    }
    queue.flush();
    // room comes back while the disk is served
    fs::remove_file(&filler).unwrap();
    let freed = 16 - failed;
    queue.write(freed * 2048, &pattern(99, MIB));
    queue.flush();
    assert!(queue.read(freed * 2048, MIB) == pattern(99, MIB));
    drop(frontend);
    let log = backend.stop();
    assert!(log.contains("No space left on device"), "{log}");
    assert!(!log.contains("no_space=0 "), "{log}");
    // a write of which a part had room is no error of a device
    assert!(log.contains("device_errors=0 "), "{log}");
    image.assert_clean();
}
