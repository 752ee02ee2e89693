//! A disk that grows: what was written is still there, what is new reads as zeros, and a run that
//! was cut off is finished by the next.

use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;
use std::thread;
use std::time::Duration;

use rustix::process::Signal;
use stableblk::storage::image::{Access, DirectIo, Image as OpenImage};
use stableblk::storage::sidecar_file::{GrowingSidecar, SidecarFile};

use crate::harness::{Backend, Finished, Image, Process, Setup, finish, pattern, wait_until};

const MIB: usize = 1 << 20;
/// Its last tuples lie in the middle of a page of the array.
const OLD: u64 = 4 << 20;
const NEW: u64 = 9 << 20;

/// An image of [`OLD`] bytes whose last mebibyte was written, and what that holds.
fn written_image() -> (Image, Vec<u8>) {
    let mut vm = Setup::disk(OLD).start();
    let data = pattern(1, MIB);
    vm.queue.write(OLD / 512 - 2048, &data);
    drop(vm.frontend);
    vm.backend.stop();
    (vm.image, data)
}

fn resize(image: &Image, args: &[&str]) -> Finished {
    finish(image.command("resize").args(args))
}

#[track_caller]
fn assert_resized(image: &Image, args: &[&str]) {
    let resized = resize(image, args);
    assert_eq!((resized.code, resized.stderr.as_str()), (Some(0), ""));
}

#[track_caller]
fn assert_refused(image: &Image, args: &[&str], words: &[&str]) {
    let state = || (image.read(0, MIB), std::fs::read(image.sidecar_path()).unwrap());
    let before = state();
    let refused = resize(image, args);
    assert_eq!(refused.code, Some(1), "{}", refused.stdout);
    assert_eq!(refused.stderr.lines().count(), 1, "{}", refused.stderr);
    for word in words {
        assert!(refused.stderr.contains(word), "{word:?} is not in: {}", refused.stderr);
    }
    assert!(state() == before, "something has changed");
}

/// The old part ends with `data`, the new one is zero, and both can be written, over the old end
/// too.
fn assert_grown(image: &Image, data: &[u8]) {
    assert_eq!(image.path().metadata().unwrap().len(), NEW);
    image.assert_clean();
    assert_eq!(image.json("info")["state"], "clean");
    let mut vm = Setup::of(image).connect();
    let capacity = vm.frontend.config(0, 8).unwrap();
    assert_eq!(u64::from_le_bytes(capacity.try_into().unwrap()), NEW / 512);
    let mut queue = vm.frontend.queue(0);
    assert!(queue.read(OLD / 512 - 2048, MIB) == data);
    for offset in (OLD..NEW).step_by(MIB) {
        assert!(queue.read(offset / 512, MIB) == vec![0; MIB]);
    }
    for sector in [OLD / 512 - 1024, NEW / 512 - 2048] {
        queue.write(sector, &pattern(sector, MIB));
        assert!(queue.read(sector, MIB) == pattern(sector, MIB));
    }
    drop(vm.frontend);
    vm.backend.stop();
    image.assert_clean();
}

#[test]
fn old_data_stays_and_new_blocks_are_zero() {
    let (image, data) = written_image();
    assert_resized(&image, &["--size", "9M"]);
    assert_grown(&image, &data);
}

#[test]
fn resizing_to_the_same_size_changes_nothing() {
    let (image, _) = written_image();
    let before = std::fs::read(image.sidecar_path()).unwrap();
    assert_resized(&image, &[]);
    assert_resized(&image, &["--size", "4M"]);
    assert!(std::fs::read(image.sidecar_path()).unwrap() == before);
}

/// By `truncate`, say, and something was written there since.
#[test]
fn an_image_that_has_grown_already_is_followed() {
    let (image, data) = written_image();
    let file = OpenOptions::new().write(true).open(image.path()).unwrap();
    file.set_len(NEW).unwrap();
    file.write_all_at(&pattern(7, 8192), OLD + 8192).unwrap();
    assert_resized(&image, &[]);
    image.assert_clean();
    let mut vm = Setup::of(&image).start();
    assert!(vm.queue.read(OLD / 512 - 2048, MIB) == data);
    assert!(vm.queue.read(OLD / 512 + 16, 8192) == pattern(7, 8192));
    assert!(vm.queue.read(OLD / 512, 8192) == [0; 8192]);
}

#[test]
fn an_image_can_grow_again_and_again() {
    let (image, data) = written_image();
    for size in ["4100K", "5M", "8M", "9M"] {
        assert_resized(&image, &["--size", size]);
        image.assert_clean();
    }
    assert_grown(&image, &data);
}

/// The old end lies within a page of the array, a block of direct I/O and a sector of tuples.
#[test]
fn an_image_of_an_odd_size_grows() {
    const END: u64 = (4 << 20) + 512;
    let mut vm = Setup::of(Image::create_with(END, &["--interval", "512"])).start();
    vm.queue.write(END / 512 - 3, &pattern(1, 3 * 512));
    drop(vm.frontend);
    vm.backend.stop();
    let file = OpenOptions::new().write(true).open(vm.image.path()).unwrap();
    file.write_all_at(&pattern(2, 1024), END).unwrap();
    assert_refused(&vm.image, &["--size", "4195841"], &["512-byte interval", "--size 4196352"]);
    assert_resized(&vm.image, &["--size", "4196864"]);
    vm.image.assert_clean();
    let mut vm = Setup::of(vm.image).start();
    let expected = [pattern(1, 3 * 512), pattern(2, 1024), vec![0; 512]].concat();
    assert!(vm.queue.read(END / 512 - 3, 6 * 512) == expected);
    drop(vm.frontend);
    vm.backend.stop();
}

/// Killed a little later each time, until one is not. The steps grow, or a slow machine would take
/// very many.
#[test]
fn a_run_that_is_killed_is_finished_by_the_next() {
    let (image, data) = written_image();
    let mut size = OLD;
    let (mut delay, mut killed) = (Duration::ZERO, 0);
    loop {
        size += 1 << 20;
        let size = size.to_string();
        let mut process = Process::start(image.command("resize").args(["--size", &size]));
        thread::sleep(delay);
        process.signal(Signal::KILL);
        let ended = process.wait().success();
        killed += u32::from(!ended);
        assert_resized(&image, &["--size", &size]);
        image.assert_clean();
        match (ended, killed) {
            // it was done before we came to kill it
            (true, 0) => {}
            (true, _) => break,
            (false, _) => delay += Duration::from_micros(500) + delay / 16,
        }
    }
    let mut vm = Setup::of(&image).start();
    assert!(vm.queue.read(OLD / 512 - 2048, MIB) == data);
    for offset in (OLD..size).step_by(MIB) {
        assert!(vm.queue.read(offset / 512, MIB) == vec![0; MIB]);
    }
    drop(vm.frontend);
    vm.backend.stop();
}

/// The steps of a run, of which a killed one has made the first few.
#[test]
fn a_run_that_was_cut_off_is_finished_by_the_next_or_by_serving() {
    type Cut = fn(&mut OpenImage, GrowingSidecar);
    let cuts: [Cut; 3] = [
        |_, _| {},
        |image, _| image.grow(NEW).unwrap(),
        |image, grown| {
            image.grow(NEW).unwrap();
            // tuples of what was there then; it is gone now
            grown.sidecar().write_tuples(OLD / 4096, &[0x5A; 16 * 300]).unwrap();
        },
    ];
    let ways = cuts.into_iter().enumerate().flat_map(|cut| [(cut, false), (cut, true)]);
    for ((number, cut), by_serving) in ways {
        let (image, data) = written_image();
        let mut open = OpenImage::open(image.path(), Access::ReadWrite, DirectIo::Never).unwrap();
        let sidecar = SidecarFile::open(&image.sidecar_path(), &open, Access::ReadWrite).unwrap();
        let grown = sidecar.superblock().grown_to(NEW).unwrap();
        cut(&mut open, sidecar.make_room(grown).unwrap());
        drop(open);
        image.wait_until_closed();
        if number == 0 {
            // the image is what it was
            Backend::serve(&image, &[]).stop();
            image.assert_clean();
        }
        if number > 0 && by_serving {
            let backend = Backend::serve(&image, &[]);
            wait_until(|| backend.ask(&["status"])["bytes"] == NEW, || backend.log().whole());
            backend.stop();
        } else {
            assert_resized(&image, &["--size", "9M"]);
        }
        assert_grown(&image, &data);
    }
}

/// The last write to one of the two copies of the superblock may not have happened.
#[test]
fn the_older_copy_of_the_superblock_does_not_count() {
    for copy in [0, 4096] {
        let (image, data) = written_image();
        let sidecar = OpenOptions::new().read(true).write(true).open(image.sidecar_path()).unwrap();
        let mut older = [0; 512];
        sidecar.read_exact_at(&mut older, copy).unwrap();
        assert_resized(&image, &["--size", "9M"]);
        sidecar.write_all_at(&older, copy).unwrap();
        assert_grown(&image, &data);
    }
}

#[test]
fn an_image_that_was_not_closed_is_recovered_first() {
    let (image, mut data) = written_image();
    let mut vm = Setup::of(&image).start();
    vm.queue.write(OLD / 512 - 8, &pattern(3, 4096));
    vm.queue.flush();
    vm.backend.kill();
    assert_eq!(image.json("info")["state"], "dirty");
    data[MIB - 4096..].copy_from_slice(&pattern(3, 4096));
    assert_resized(&image, &["--size", "9M"]);
    assert_grown(&image, &data);
}

#[test]
fn an_impossible_size_is_refused_and_nothing_changes() {
    let (image, _) = written_image();
    assert_refused(&image, &["--size", "3M"], &["4194304 bytes", "does not shrink to 3145728"]);
    assert_refused(&image, &["--size", "4195000"], &["4096-byte interval", "--size 4198400"]);
    assert_refused(
        &image,
        &["--size", "65T"],
        &["has no room for 71468255805440 bytes", "protect --force", "dirty map"],
    );
    let backend = Backend::serve(&image, &[]);
    assert_refused(&image, &["--size", "9M"], &["is in use by", &backend.pid().to_string()]);
    backend.stop();
    OpenOptions::new().write(true).open(image.path()).unwrap().set_len(2 << 20).unwrap();
    assert_refused(&image, &[], &["is truncated: it has 2097152 bytes", "covers 4194304", "restore"]);
}
