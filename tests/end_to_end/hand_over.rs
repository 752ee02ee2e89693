//! Two back-ends on one image, as a live migration has them: one lets go of it, then the other
//! takes it.

use crate::harness::{Backend, DirtyLog, Frontend, Image, Queue, finish, pattern, serve_command};

const SIZE: u64 = 16 << 20;
const PLAIN: &[&str] = &["--integrity", "none"];

fn incoming(args: &[&'static str]) -> Vec<&'static str> {
    [args, &["--incoming"]].concat()
}

/// Does what the source's front-end does at the switch-over. Returns the indexes at which the
/// queues would continue.
fn switch_over(frontend: &mut Frontend, queues: &[&Queue]) -> Vec<u16> {
    frontend.log_to(&DirtyLog::new());
    frontend.log_writes(true);
    queues.iter().map(|queue| frontend.stop(queue)).collect()
}

fn capacity(frontend: &mut Frontend) -> u64 {
    u64::from_le_bytes(frontend.config(0, 8).unwrap().try_into().unwrap())
}

fn the_destination_continues(image: &Image, args: &[&'static str]) {
    let source = Backend::serve(image, args);
    let mut frontend = source.connect();
    let (mut first, mut second) = (frontend.queue(0), frontend.queue(1));
    first.write(8, &pattern(1, 65536));

    let destination = Backend::serve(image, &incoming(args));
    let mut other = destination.connect();
    assert_eq!(capacity(&mut other), SIZE / 512);

    // not flushed
    second.write(1000, &pattern(2, 5000 / 512 * 512));
    let bases = switch_over(&mut frontend, &[&first, &second]);
    let mut queue = other.queue(0);
    assert!(queue.read(8, 65536) == pattern(1, 65536));
    assert!(queue.read(1000, 5000 / 512 * 512) == pattern(2, 5000 / 512 * 512));
    queue.write(8, &pattern(3, 65536));

    // the source cannot have it back
    frontend.log_writes(false);
    frontend.try_start(&first, bases[0]).unwrap_err();
    let said = source.stop();
    assert!(said.contains("in use by stableblk"), "{said}");
    assert!(queue.read(8, 65536) == pattern(3, 65536));
    drop(other);
    destination.stop();
}

#[test]
fn the_destination_continues_with_a_sidecar() {
    let image = Image::create(SIZE);
    the_destination_continues(&image, &[]);
    image.assert_clean();
}

#[test]
fn the_destination_continues_with_a_plain_image() {
    the_destination_continues(&Image::without_sidecar(SIZE), PLAIN);
}

/// There and back, as often as one likes: what one has changed the other reads, and does not
/// remember.
#[test]
fn an_image_can_be_handed_back_and_forth() {
    let image = Image::create(SIZE);
    let backends = [Backend::serve(&image, &[]), Backend::serve(&image, &["--incoming"])];
    for round in 0..10 {
        let mut frontend = backends[round % 2].connect();
        let mut queue = frontend.queue(0);
        let seed = round as u64;
        if round > 0 {
            assert!(queue.read(8 * (seed - 1), 8192) == pattern(seed - 1, 8192));
        }
        queue.write(8 * seed, &pattern(seed, 8192));
        switch_over(&mut frontend, &[&queue]);
        // no back-end has it now, and all of it is on the disk
        image.assert_clean();
    }
    for backend in backends {
        backend.stop();
    }
    image.assert_clean();
}

#[test]
fn a_cancelled_migration_goes_back_to_the_source() {
    let image = Image::create(SIZE);
    let source = Backend::serve(&image, &[]);
    let destination = Backend::serve(&image, &["--incoming"]);
    let mut frontend = source.connect();
    let mut queue = frontend.queue(0);
    for seed in 0..3 {
        queue.write(64 * seed, &pattern(seed, 8192));
        let bases = switch_over(&mut frontend, &[&queue]);
        frontend.log_writes(false);
        frontend.start(&queue, bases[0]);
        assert!(queue.read(64 * seed, 8192) == pattern(seed, 8192));
    }
    // the destination never had it
    assert!(destination.stop().contains("stopping"));
    queue.write(0, &pattern(9, 8192));
    drop(frontend);
    source.stop();
    image.assert_clean();
}

/// Queues that stop for another reason keep the image.
#[test]
fn without_a_migration_nothing_is_handed_over() {
    let image = Image::create(SIZE);
    let source = Backend::serve(&image, &[]);
    let destination = Backend::serve(&image, &["--incoming"]);
    let mut frontend = source.connect();
    let mut queue = frontend.queue(0);
    queue.write(0, &pattern(1, 4096));
    let base = frontend.stop(&queue);
    {
        let mut other = destination.connect();
        let refused = other.new_queue(0);
        other.try_start(&refused, 0).unwrap_err();
    }
    destination.log().wait_until(|log| log.contains("in use by stableblk"));
    frontend.start(&queue, base);
    assert!(queue.read(0, 4096) == pattern(1, 4096));
    // and the next front-end of the destination gets it when it may
    switch_over(&mut frontend, &[&queue]);
    let mut other = destination.connect();
    assert!(other.queue(0).read(0, 4096) == pattern(1, 4096));
}

#[test]
fn an_image_in_use_is_refused_with_the_way_out() {
    let image = Image::create(SIZE);
    let _source = Backend::serve(&image, &[]);
    let refused = finish(&mut serve_command(&image.directory().join("other"), &image, &[]));
    assert_eq!(refused.code, Some(1));
    assert!(refused.stderr.contains("is in use by stableblk (pid "), "{}", refused.stderr);
    assert!(refused.stderr.trim_end().ends_with("Then use `--incoming`"), "{}", refused.stderr);
}

/// It is looked at when the destination starts, and again when it is taken.
#[test]
fn an_image_that_shrank_meanwhile_is_refused() {
    let image = Image::without_sidecar(SIZE);
    let destination = Backend::serve(&image, &incoming(PLAIN));
    std::fs::OpenOptions::new().write(true).open(image.path()).unwrap().set_len(SIZE / 2).unwrap();
    let mut frontend = destination.connect();
    let queue = frontend.new_queue(0);
    frontend.try_start(&queue, 0).unwrap_err();
    drop(frontend);
    let said = destination.stop();
    assert!(said.contains("the disk is not what it was"), "{said}");
}
