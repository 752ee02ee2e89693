//! A page of the sidecar that cannot be read costs what a damaged one costs, and the next write
//! mends it.

use std::fs::File;
use std::os::unix::fs::FileExt;

use crate::harness::{CheckedFileSystem, IOERR, Image, OK, Queue, Setup, crash, pattern};
use crate::sidecar_bytes::{superblock, tuple_offset};

const BLOCK: usize = 4096;
const SECTORS: u64 = 8;
/// Blocks whose tuples lie in a page.
const BLOCKS: u64 = 248;

fn image_in(file_system: &CheckedFileSystem) -> Image {
    Image::create_in(&file_system.root(), 8 << 20, &[])
}

fn data() -> Vec<u8> {
    pattern(1, usize::try_from(BLOCKS).unwrap() * BLOCK)
}

fn write_all(queue: &mut Queue) {
    queue.write(0, &data());
    queue.flush();
}

/// Serves `image`, and returns the log.
fn served(image: &Image, use_disk: impl FnOnce(&mut Queue)) -> String {
    let mut vm = Setup::of(image).start();
    use_disk(&mut vm.queue);
    drop(vm.frontend);
    vm.backend.stop()
}

#[test]
fn an_unreadable_page_of_tuples_fails_its_blocks_until_these_are_rewritten() {
    let Some(file_system) = CheckedFileSystem::mount() else { return };
    let image = image_in(&file_system);
    served(&image, write_all);
    let first = tuple_offset(superblock(&image.sidecar_path()).layout(), 0);
    file_system.damage(&image.sidecar_path(), first);
    let lost: Vec<_> = (0..BLOCKS).map(|lba| (lba, "tuple_lost".to_owned())).collect();
    assert_eq!(image.bad_blocks(), lost);
    assert_eq!(image.json("info")["lost_blocks"], BLOCKS);
    let log = served(&image, |queue| {
        assert_eq!(queue.try_read(5 * SECTORS, BLOCK).0.status, IOERR);
        assert_eq!(queue.try_read(BLOCKS * SECTORS, BLOCK).0.status, OK);
        write_all(queue);
        assert!(queue.read(0, data().len()) == data());
    });
    assert!(log.contains("the sidecar is damaged: LBA 0 to 30 cannot be read"), "{log}");
    image.assert_clean();
}

#[test]
fn an_unreadable_superblock_is_mended() {
    for copy in [0, 4096] {
        let Some(file_system) = CheckedFileSystem::mount() else { return };
        let image = image_in(&file_system);
        served(&image, write_all);
        // the bytes behind the superblock are not read: they distinguish this copy from the other
        let sidecar = File::options().write(true).open(image.sidecar_path()).unwrap();
        sidecar.write_all_at(&[1], copy + 600).unwrap();
        drop(sidecar);
        file_system.damage(&image.sidecar_path(), copy);
        let damaged = &image.json("info")["damaged_superblock"];
        assert_eq!(damaged["copy"], copy / 4096);
        assert!(damaged["reason"].as_str().unwrap().contains("unreadable superblock"), "{damaged}");
        image.assert_clean();
        served(&image, |queue| assert!(queue.read(0, data().len()) == data()));
        assert!(image.json("info")["damaged_superblock"].is_null(), "it was not written");
    }
}

/// Six blocks, each with a page of the log.
fn write_six(queue: &mut Queue, attempt: u64) {
    for block in 0..6 {
        queue.write(block * SECTORS, &pattern(attempt * 10 + block, BLOCK));
        queue.flush();
    }
}

#[test]
fn a_crashed_image_with_unreadable_log_and_dirty_map_is_recovered() {
    let Some(file_system) = CheckedFileSystem::mount() else { return };
    let image = image_in(&file_system);
    let attempt = crash(&image, &[], 6, write_six);
    let superblock = superblock(&image.sidecar_path());
    file_system.damage(&image.sidecar_path(), superblock.layout().log_page_offset(superblock.tail() + 2));
    file_system.damage(&image.sidecar_path(), superblock.layout().map_offset());
    let recovery = &image.json("check")["recovery"];
    assert_eq!(recovery["missing_log_page"], superblock.tail() + 2);
    assert_eq!(recovery["damaged_map_sectors"], 1);
    served(&image, |queue| {
        for block in 0..6 {
            assert!(queue.read(block * SECTORS, BLOCK) == pattern(attempt * 10 + block, BLOCK));
        }
        write_all(queue);
    });
    image.assert_clean();
}
