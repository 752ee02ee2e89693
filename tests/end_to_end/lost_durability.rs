//! A sync of the image that fails is not forgotten when the image is served again: the first flush
//! fails for it, once.

use std::process::Command;

use vhost::VhostBackend;

use crate::harness::{
    Backend, DirtyLog, Finished, IOERR, Image, LoopDevice, OK, PROGRAM, Queue, Request, Setup, Which, finish,
    pattern, serve_command, wait_until, with_failing_syncs,
};

const SIZE: u64 = 16 << 20;
const PLAIN: &[&str] = &["--integrity", "none"];
const SAYS: &str = "a flush fails because durability was lost";

/// An image of either kind, how it is served, and which sync of the main thread ends that: with a
/// sidecar, one begins it.
fn images() -> [(Image, &'static [&'static str], Which<'static>); 2] {
    // the first syncs of a sidecar, and of the attributes of its image, are those of its opening
    let protected = Which::From { data: 2, whole: 2 };
    let plain = Which::From { data: 1, whole: 1 };
    [(Image::create(SIZE), &[], protected), (Image::without_sidecar(SIZE), PLAIN, plain)]
}

fn flush(queue: &mut Queue) -> u8 {
    queue.execute(&Request::flush()).status
}

fn write_without_a_flush(backend: &Backend) {
    let mut frontend = backend.connect();
    frontend.queue(0).write(8, &pattern(1, 8192));
}

fn is_said_to_be_lost(image: &Image) -> bool {
    image.json("info")["durability_lost"] == true
}

/// Serves `image` to a guest whose first flush fails, and no other.
fn the_next_owner_fails_one_flush(image: &Image, args: &[&str]) {
    let mut vm = Setup::of(image).options(args).start();
    vm.queue.write(64, &pattern(2, 4096));
    assert_eq!(flush(&mut vm.queue), IOERR);
    assert_eq!(flush(&mut vm.queue), OK);
    let mut other = vm.frontend.queue(1);
    assert_eq!(flush(&mut other), OK);
    drop(vm.frontend);
    let log = vm.backend.stop();
    assert_eq!(log.matches(SAYS).count(), 1, "{log}");
    no_flush_fails(image, args);
}

fn no_flush_fails(image: &Image, args: &[&str]) {
    let mut vm = Setup::of(image).options(args).start();
    assert_eq!(flush(&mut vm.queue), OK);
    drop(vm.frontend);
    vm.backend.stop();
}

/// Serves `image` with syncs that fail, to a guest that writes and does not flush, and ends.
fn lose(image: &Image, args: &[&str], which: Which) -> Option<String> {
    let backend = Backend::serve_with_failing_syncs(image, args, which)?;
    write_without_a_flush(&backend);
    Some(backend.terminate(Some(1)))
}

#[test]
fn a_loss_at_the_end_of_the_process_fails_the_next_flush() {
    for (image, args, _) in images() {
        let Some(log) = lose(&image, args, Which::Of(image.path())) else { return };
        assert!(log.contains("writes that were not flushed may be lost"), "{log}");
        assert!(!log.contains("could not be written down"), "{log}");
        the_next_owner_fails_one_flush(&image, args);
    }
}

/// The device's node carries the mark.
#[test]
fn a_loss_on_a_block_device_without_a_sidecar_fails_the_next_flush() {
    let Some(device) = LoopDevice::new(SIZE) else { return };
    let image = Image::of(device.path());
    let Some(log) = lose(&image, PLAIN, Which::Of(image.path())) else { return };
    assert!(!log.contains("could not be written down"), "{log}");
    let info = finish(Command::new(PROGRAM).arg("info").arg(device.path()));
    assert!(info.stdout.contains("durability lost: a sync of the image failed"), "{}", info.stdout);
    the_next_owner_fails_one_flush(&image, PLAIN);
}

/// Data that has not reached the medium is in the page cache nevertheless.
#[test]
fn a_loss_that_cannot_be_recorded_durably_fails_the_next_flush() {
    for (image, args, last) in images() {
        let Some(log) = lose(&image, args, last) else { return };
        assert!(log.contains("could not be written down"), "{log}");
        the_next_owner_fails_one_flush(&image, args);
    }
}

#[test]
fn a_loss_at_a_hand_over_fails_the_first_flush_of_the_destination() {
    for (image, args, _) in images() {
        let source = Backend::serve_with_failing_syncs(&image, args, Which::Of(image.path()));
        let Some(source) = source else { return };
        let destination = Backend::serve(&image, &[args, &["--incoming"]].concat());
        let mut frontend = source.connect();
        let mut queue = frontend.queue(0);
        queue.write(8, &pattern(1, 8192));
        frontend.log_to(&DirtyLog::new());
        frontend.log_writes(true);
        frontend.protocol.get_vring_base(0).expect_err("a hand-over that has lost writes");
        source.log().wait_for("so the migration is refused");
        drop(frontend);

        let mut other = destination.connect();
        let mut queue = other.queue(0);
        assert_eq!(flush(&mut queue), IOERR);
        assert_eq!(flush(&mut queue), OK);
        drop(other);
        destination.stop();
        let log = source.terminate(Some(1));
        assert!(log.contains("handed over without being closed"), "{log}");
        no_flush_fails(&image, args);
    }
}

#[test]
fn a_loss_in_recovery_fails_the_next_flush() {
    let image = Image::create(SIZE);
    let backend = Backend::serve(&image, &[]);
    write_without_a_flush(&backend);
    backend.kill();
    let serve = serve_command(&image.directory().join("socket"), &image, &[]);
    let Some(mut serve) = with_failing_syncs(&serve, Which::Of(image.path())) else { return };
    let Finished { code, stderr, .. } = finish(&mut serve);
    assert_eq!(code, Some(1), "{stderr}");
    assert!(is_said_to_be_lost(&image));
    the_next_owner_fails_one_flush(&image, &[]);
}

/// A sync of a checkpoint fails, and there is no orderly end afterwards.
#[test]
fn a_loss_in_a_checkpoint_fails_the_next_flush() {
    let image = Image::create(SIZE);
    let backend = Backend::serve_with_failing_syncs(&image, &[], Which::Of(image.path()));
    let Some(backend) = backend else { return };
    write_without_a_flush(&backend);
    backend.log().wait_for("cannot bring tuples from the log to the array");
    assert!(is_said_to_be_lost(&image));
    backend.kill();
    the_next_owner_fails_one_flush(&image, &[]);
}

#[test]
fn check_and_info_report_a_loss_until_a_flush_has_failed() {
    let image = Image::create(SIZE);
    if lose(&image, &[], Which::Of(image.path())).is_none() {
        return;
    }
    assert!(is_said_to_be_lost(&image));
    for recover in [&[][..], &["--recover"]] {
        let check = finish(image.command("check").args(recover));
        assert_eq!(check.code, Some(5), "{}", check.stdout);
        assert!(check.stdout.contains("durability lost: a sync of the image failed"), "{}", check.stdout);
    }
    let info = finish(&mut image.command("info"));
    assert!(info.stdout.contains("durability lost: a sync of the image failed"), "{}", info.stdout);
    assert_eq!(image.json("check")["durability_lost"], true);

    // a session that only reads settles nothing
    no_flush_fails(&image, &["--read-only"]);
    assert!(is_said_to_be_lost(&image));
    // and neither does a session without a flush
    let backend = Backend::serve(&image, &[]);
    assert_eq!(backend.ask(&["status"])["flushes_fail"], false, "no queue runs");
    backend.stop();
    assert!(is_said_to_be_lost(&image));

    // a flush by the control socket fails for it too, but it is the guest that is to see it
    let backend = Backend::serve(&image, &[]);
    for _ in 0..2 {
        let refused = backend.ctl(&["flush"]);
        assert_eq!(refused.code, Some(1), "{}", refused.stdout);
    }
    let mut frontend = backend.connect();
    let mut queue = frontend.queue(0);
    assert_eq!(flush(&mut queue), IOERR);
    assert_eq!(flush(&mut queue), OK);
    assert_eq!(backend.ctl(&["flush"]).code, Some(0));
    drop((frontend, queue));
    wait_until(|| !is_said_to_be_lost(&image), || "it is still said to be lost".to_owned());
    backend.kill();
    assert_eq!(finish(&mut image.command("check")).code, Some(0));
    no_flush_fails(&image, &[]);
}
