//! A medium that lies is found out: those blocks alone fail, and nothing of them reaches the guest.

use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;

use crate::harness::{IOERR, Image, NOT_WRITTEN, OK, Queue, Request, Setup, pattern};
use crate::sidecar_bytes::forge_tuple;

const BLOCK: usize = 4096;
const SECTORS: u64 = 8;
const BLOCKS: u64 = 64;

/// An image whose first [`BLOCKS`] blocks were written, and what they hold.
fn written_image() -> (Image, Vec<u8>) {
    let mut vm = Setup::disk(4 << 20).start();
    let data = pattern(1, usize::try_from(BLOCKS).unwrap() * BLOCK);
    vm.queue.write(0, &data);
    drop(vm.frontend);
    vm.backend.stop();
    vm.image.assert_clean();
    (vm.image, data)
}

/// Reads every block alone: `bad` fail and leave the buffer alone, the others hold `data`.
fn assert_bad_blocks(queue: &mut Queue, data: &[u8], bad: &[u64]) {
    for (block, expected) in (0..).zip(data.chunks(BLOCK)) {
        let (completion, read) = queue.try_read(block * SECTORS, BLOCK);
        if bad.contains(&block) {
            assert_eq!((completion.status, completion.used_len), (IOERR, 1), "block {block}");
            assert!(read == [NOT_WRITTEN; BLOCK], "block {block} leaked");
        } else {
            assert_eq!((completion.status, completion.used_len as usize), (OK, BLOCK + 1), "block {block}");
            assert!(read == expected, "block {block}");
        }
    }
}

#[test]
fn a_flipped_bit_fails_its_block_until_that_is_rewritten() {
    let (image, data) = written_image();
    image.flip_bit(5 * 4096 + 1234);
    image.flip_guard_bit(40);
    let guard_tag = "guard_tag".to_owned();
    assert_eq!(image.bad_blocks(), [(5, guard_tag.clone()), (40, guard_tag)]);

    let mut vm = Setup::of(&image).start();
    assert_bad_blocks(&mut vm.queue, &data, &[5, 40]);

    // a request over a bad block fails as a whole, however it is split
    let (completion, read) = vm.queue.try_read(0, 64 * BLOCK);
    assert_eq!((completion.status, completion.used_len), (IOERR, 1));
    assert!(read == vec![NOT_WRITTEN; 64 * BLOCK]);

    // part of a bad block cannot be written: there is nothing sound to merge it into
    assert_eq!(vm.queue.try_write(5 * SECTORS + 2, &pattern(2, 512)).status, IOERR);
    assert_bad_blocks(&mut vm.queue, &data, &[5, 40]);

    // a whole one can, and is sound from then on
    let mut data = data;
    for (block, seed) in [(5, 3), (40, 4)] {
        let fresh = pattern(seed, BLOCK);
        vm.queue.write(block * SECTORS, &fresh);
        let start = usize::try_from(block).unwrap() * BLOCK;
        data[start..start + BLOCK].copy_from_slice(&fresh);
    }
    assert_bad_blocks(&mut vm.queue, &data, &[]);
    drop(vm.frontend);
    let log = vm.backend.stop();
    assert!(log.contains("interval 5") || log.contains("LBA 5"), "the log names the block:\n{log}");
    image.assert_clean();
}

#[test]
fn a_partial_write_that_fails_leaves_no_trace() {
    let (image, _) = written_image();
    image.flip_bit(7 * 4096);
    let mut vm = Setup::of(&image).start();
    let before = image.read(7 * 4096, BLOCK);
    assert_eq!(vm.queue.try_write(7 * SECTORS + 3, &pattern(9, 1024)).status, IOERR);
    drop(vm.frontend);
    vm.backend.stop();
    assert!(image.read(7 * 4096, BLOCK) == before);
    assert_eq!(image.bad_blocks(), [(7, "guard_tag".to_owned())]);
}

/// A lost write, or a stray one, to a block that has no tuple.
#[test]
fn an_unwritten_block_that_is_not_zero_fails() {
    let (image, mut data) = written_image();
    image.flip_bit(100 * 4096 + 4095);
    assert_eq!(image.bad_blocks(), [(100, "unwritten_not_zero".to_owned())]);
    let mut vm = Setup::of(&image).start();
    data.resize(128 * BLOCK, 0);
    assert_bad_blocks(&mut vm.queue, &data, &[100]);
}

/// Blocks swapped on the medium have the right guard tag in the wrong place only if the tuples are
/// swapped too.
#[test]
fn a_misdirected_write_fails_by_its_reference_tag() {
    let (image, data) = written_image();
    copy_block_and_tuple(&image, 10, 20);
    assert_eq!(image.bad_blocks(), [(20, "reference_tag".to_owned())]);
    let mut vm = Setup::of(&image).start();
    assert_bad_blocks(&mut vm.queue, &data, &[20]);
}

fn copy_block_and_tuple(image: &Image, from: u64, to: u64) {
    let file = OpenOptions::new().write(true).open(image.path()).unwrap();
    file.write_all_at(&image.read(from * 4096, BLOCK), to * 4096).unwrap();
    let tuple = forge_tuple(&image.sidecar_path(), from, |tuple| tuple.to_vec());
    forge_tuple(&image.sidecar_path(), to, |other| other.copy_from_slice(&tuple));
}

#[test]
fn without_bounce_a_bad_block_still_fails() {
    let (image, data) = written_image();
    image.flip_bit(3 * 4096);
    let mut vm = Setup::of(&image).options(&["--bounce", "never"]).start();
    for block in 0..8 {
        let (completion, read) = vm.queue.try_read(block * SECTORS, BLOCK);
        let start = usize::try_from(block).unwrap() * BLOCK;
        if block == 3 {
            assert_eq!((completion.status, completion.used_len), (IOERR, 1));
        } else {
            assert_eq!(completion.status, OK);
            assert!(read == data[start..start + BLOCK]);
        }
    }
}

/// While one queue meets nothing but bad blocks, another is served.
#[test]
fn bad_blocks_on_one_queue_do_not_disturb_another() {
    let (image, data) = written_image();
    (0..32).for_each(|block| image.flip_bit(block * 4096));
    let mut vm = Setup::of(&image).connect();
    let (mut bad, mut good) = (vm.frontend.queue(0), vm.frontend.queue(1));
    let (bad_buffer, good_buffer) = (vm.memory.allocate(32 * BLOCK), vm.memory.allocate(32 * BLOCK));
    for _ in 0..10 {
        for block in 0..32 {
            bad.submit(&Request::read(block * SECTORS, &[(bad_buffer + block * 4096, 4096)]));
            good.submit(&Request::read((block + 32) * SECTORS, &[(good_buffer + block * 4096, 4096)]));
        }
        bad.kick();
        good.kick();
        assert!(bad.wait_all().iter().all(|completion| completion.status == IOERR));
        assert!(good.wait_all().iter().all(|completion| completion.status == OK));
        assert!(vm.memory.read(good_buffer, 32 * BLOCK) == data[32 * BLOCK..]);
    }
}

/// Longer than a folio, so that its parts are read and verified one by one: still all or nothing.
#[test]
fn a_long_read_over_a_bad_block_returns_no_data() {
    const LEN: usize = 3 << 20;
    let mut vm = Setup::disk(4 << 20).start();
    vm.queue.write(0, &pattern(1, LEN));
    drop(vm.frontend);
    vm.backend.stop();
    let last = LEN as u64 / 4096 - 1;
    vm.image.flip_bit(last * 4096);
    let mut vm = Setup::of(vm.image).start();
    let (completion, read) = vm.queue.try_read(0, LEN);
    assert_eq!((completion.status, completion.used_len), (IOERR, 1));
    assert!(read == vec![NOT_WRITTEN; LEN], "sound parts of a failed read were given away");
    assert!(vm.queue.read(0, LEN - BLOCK) == pattern(1, LEN)[..LEN - BLOCK]);
}
