//! The checks of an image at the start change nothing of it.

use std::os::unix::fs::MetadataExt;

use rustix::fs::{FallocateFlags, fallocate};

use crate::harness::{Backend, Image};

const SIZE: u64 = 1 << 20;

/// Space behind the end of the image, as another host has it that makes the image larger meanwhile:
/// a hole there would be a hole in what its guest has flushed.
#[test]
fn a_destination_of_a_migration_changes_nothing_behind_the_end() {
    for args in [&["--incoming", "--integrity", "none"][..], &["--integrity", "none"]] {
        let image = Image::without_sidecar(SIZE);
        let file = std::fs::File::options().write(true).open(image.path()).unwrap();
        fallocate(&file, FallocateFlags::KEEP_SIZE, SIZE, SIZE).unwrap();
        file.sync_all().unwrap();
        drop(file);
        let of = || {
            let metadata = image.path().metadata().unwrap();
            (metadata.len(), metadata.blocks(), metadata.mtime_nsec(), metadata.ctime_nsec())
        };
        let before = of();
        assert!(before.1 * 512 >= SIZE, "the file system reserved no space");
        let backend = Backend::serve(&image, args);
        assert_eq!(of(), before, "{args:?}");
        backend.stop();
    }
}
