//! The scrub: it verifies the whole disk beside its requests, finds what does not match and nothing
//! else, continues after a restart, and delays nothing that needs the disk for itself.

use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;

use integrity::Guard;
use serde_json::{Value, json};

use crate::harness::{Backend, DirtyLog, IOERR, Image, OK, Setup, pattern, wait_until};
use crate::sidecar_bytes::superblock;

const BLOCK: usize = 4096;
const MIB: usize = 1 << 20;
/// A rate at which the first chunk of 128 KiB takes longer than any test.
const SLOW: &str = "128";
const FAST: &str = "100G";

fn written_image(size: usize) -> Image {
    let mut vm = Setup::disk(size as u64).start();
    for start in (0..size).step_by(MIB) {
        vm.queue.write((start / 512) as u64, &pattern(start as u64, MIB));
    }
    drop(vm.frontend);
    vm.backend.stop();
    vm.image
}

fn status(backend: &Backend) -> Value {
    backend.ask(&["scrub", "status"])
}

/// The first block of each range in the damage list.
fn listed(backend: &Backend) -> Vec<u64> {
    let report = backend.ask(&["damage"]);
    report["ranges"].as_array().unwrap().iter().map(|range| range["first_lba"].as_u64().unwrap()).collect()
}

fn wait_for_state(backend: &Backend, state: &str) {
    wait_until(|| status(backend)["state"] == state, || status(backend).to_string());
}

/// Waits until the scrub has verified its first chunk, and rests.
fn wait_for_first_chunk(backend: &Backend) {
    wait_until(|| status(backend)["position"] == 128 << 10, || status(backend).to_string());
}

#[test]
fn a_scrub_lists_what_does_not_match_until_it_does() {
    let image = written_image(4 * MIB);
    let backend = Backend::serve(&image, &[]);
    assert_eq!(status(&backend)["state"], "idle");
    let clean = backend.ctl(&["scrub", "start", "--wait"]);
    assert_eq!((clean.code, clean.stdout.contains("no block found")), (Some(0), true), "{}", clean.stdout);
    for lba in [0, 31, 32, 1023] {
        image.flip_bit(lba * 4096 + 9);
    }
    image.flip_bit(500 * 4096);
    let found = backend.ctl(&["scrub", "start", "--rate", FAST, "--wait"]);
    assert_eq!((found.code, found.stdout.contains("5 blocks found")), (Some(4), true), "{}", found.stdout);
    assert_eq!(listed(&backend), [0, 31, 32, 500, 1023]);
    let range = &backend.ask(&["damage"])["ranges"][0];
    assert_eq!((&range["found_by"], &range["check"]), (&json!(["scrub"]), &json!("guard_tag")));
    let shown = backend.ask(&["status"]);
    assert_eq!((&shown["damage"]["blocks"], &shown["scrub"]["last_found"]), (&json!(5), &json!(5)));
    assert!(backend.ctl(&["status"]).stdout.contains("last complete scrub: 2"));

    // blocks that are put back match again
    image.flip_bit(31 * 4096 + 9);
    assert_eq!(backend.ctl(&["scrub", "start", "--rate", FAST, "--wait"]).code, Some(4));
    assert_eq!(listed(&backend), [0, 32, 500, 1023]);
    let mut frontend = backend.connect();
    let mut queue = frontend.queue(0);
    for lba in [0, 32, 500, 1023] {
        queue.write(lba * 8, &pattern(7, BLOCK));
    }
    assert_eq!(backend.ctl(&["scrub", "start", "--wait"]).code, Some(0));
    assert_eq!(listed(&backend), Vec::<u64>::new());
    drop(frontend);
    let log = backend.stop();
    assert!(log.contains("1 blocks of LBA 0 to 31 match again"), "{log}");
    image.assert_clean();
}

/// Writes of whole blocks and of parts, on several queues, over the same blocks as the scrub.
#[test]
fn a_scrub_under_load_finds_nothing_that_is_not_there() {
    let image = Image::create(8 * MIB as u64);
    let backend = Backend::serve(&image, &["--num-queues", "2"]);
    let mut frontend = backend.connect();
    let mut queues = [frontend.queue(0), frontend.queue(1)];
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        let load = |(index, queue): (usize, &mut crate::harness::Queue)| {
            let mut rng = fastrand::Rng::with_seed(index as u64);
            while !done.load(Relaxed) {
                let sectors = rng.u64(1..=64);
                let sector = rng.u64(0..8 * MIB as u64 / 512 - sectors);
                let data = pattern(rng.u64(..), usize::try_from(sectors).unwrap() * 512);
                assert_eq!(queue.try_write(sector, &data).status, OK);
                if rng.u8(..16) == 0 {
                    queue.flush();
                }
            }
        };
        for queue in queues.iter_mut().enumerate() {
            scope.spawn(move || load(queue));
        }
        for _ in 0..8 {
            let scrubbed = backend.ctl(&["scrub", "start", "--rate", FAST, "--wait"]);
            let log = backend.log().so_far();
            done.store(scrubbed.code != Some(0), Relaxed);
            assert_eq!(scrubbed.code, Some(0), "{}{}{log}", scrubbed.stdout, scrubbed.stderr);
        }
        done.store(true, Relaxed);
    });
    assert_eq!(backend.ask(&["damage"])["blocks"], 0);
    drop(frontend);
    backend.stop();
    image.assert_clean();
}

#[test]
fn a_scrub_continues_after_a_restart_and_after_a_stop() {
    let image = written_image(4 * MIB);
    image.flip_bit(3 * 4096);
    image.flip_bit(1000 * 4096);
    let backend = Backend::serve(&image, &[]);
    assert_eq!(backend.ask(&["scrub", "start", "--rate", SLOW])["state"], "running");
    wait_for_first_chunk(&backend);
    // it rests for much longer than a stop may take
    backend.stop();
    let backend = Backend::serve(&image, &[]);
    backend.log().wait_for("a scrub continues at byte 131072");
    wait_until(|| status(&backend)["position"] == 256 << 10, || status(&backend).to_string());
    let shown = backend.ctl(&["scrub", "status"]).stdout;
    for part in ["under way, 256.00 KiB of 4.00 MiB (6 %), begun 2", "1 block found, at most 128 B/s", "left"]
    {
        assert!(shown.contains(part), "{part}: {shown}");
    }
    assert_eq!(backend.ask(&["scrub", "stop"])["state"], "stopped");
    assert_eq!(backend.ctl(&["scrub", "stop"]).code, Some(1));
    backend.stop();

    let backend = Backend::serve(&image, &[]);
    let stopped = status(&backend);
    assert_eq!((&stopped["state"], &stopped["position"]), (&json!("stopped"), &json!(256 << 10)));
    assert_eq!(backend.ctl(&["scrub", "start", "--rate", FAST, "--wait"]).code, Some(4));
    let done = status(&backend);
    assert_eq!(
        (&done["state"], &done["last_found"], &done["position"]),
        (&json!("idle"), &json!(2), &json!(0))
    );
    assert_eq!(listed(&backend), [3, 1000]);
    // one from the start finds the first block again
    backend.ask(&["scrub", "start", "--rate", SLOW]);
    wait_for_first_chunk(&backend);
    backend.ask(&["scrub", "stop"]);
    assert_eq!(backend.ask(&["scrub", "start", "--rate", SLOW, "--from-start"])["position"], 0);
    wait_for_first_chunk(&backend);
    assert_eq!(status(&backend)["found"], 1);
    // a new rate takes effect in the midst of a rest
    backend.ask(&["scrub", "start", "--rate", FAST]);
    wait_for_state(&backend, "idle");
    backend.stop();
}

#[test]
fn a_killed_process_leaves_a_scrub_that_continues() {
    let image = written_image(4 * MIB);
    let backend = Backend::serve(&image, &[]);
    backend.ask(&["scrub", "start", "--rate", SLOW]);
    wait_for_first_chunk(&backend);
    // a change that is kept at once keeps the progress too
    backend.ask(&["scrub", "start", "--rate", "129"]);
    let layout = superblock(&image.sidecar_path()).layout().clone();
    let kept = || {
        let mut position = [0; 8];
        let file = OpenOptions::new().read(true).open(image.sidecar_path()).unwrap();
        file.read_exact_at(&mut position, layout.damage_area().unwrap().start + 40).unwrap();
        u64::from_be_bytes(position)
    };
    wait_until(|| kept() >= 128 << 10, || kept().to_string());
    backend.kill();
    let kept = kept();
    let backend = Backend::serve(&image, &[]);
    backend.log().wait_for(&format!("a scrub continues at byte {kept}"));
    backend.ask(&["scrub", "start", "--rate", FAST]);
    wait_for_state(&backend, "idle");
    assert_eq!(status(&backend)["last_found"], 0);
    backend.stop();
    image.assert_clean();
}

#[test]
fn a_disk_grows_while_it_is_scrubbed() {
    let image = written_image(4 * MIB);
    let backend = Backend::serve(&image, &[]);
    let mut frontend = backend.connect();
    let mut queue = frontend.queue(0);
    for (size, rate) in [(9, SLOW), (14, FAST), (19, SLOW)] {
        backend.ask(&["scrub", "start", "--rate", rate]);
        let size = size * MIB as u64;
        assert_eq!(backend.ask(&["resize", "--size", &size.to_string()])["bytes"], size);
        queue.write(size / 512 - 8, &pattern(size, BLOCK));
    }
    backend.ask(&["scrub", "start", "--rate", FAST]);
    wait_for_state(&backend, "idle");
    assert_eq!(status(&backend)["last_found"], 0);
    drop(frontend);
    backend.stop();
    image.assert_clean();
}

#[test]
fn a_scrub_goes_with_the_disk_to_another_host() {
    let image = written_image(4 * MIB);
    let source = Backend::serve(&image, &[]);
    let destination = Backend::serve(&image, &["--incoming"]);
    assert!(destination.ctl(&["scrub", "start"]).stderr.contains("another host has it"));
    let mut frontend = source.connect();
    let queue = frontend.queue(0);
    source.ask(&["scrub", "start", "--rate", SLOW]);
    wait_for_first_chunk(&source);
    frontend.log_to(&DirtyLog::new());
    frontend.log_writes(true);
    frontend.stop(&queue);
    let mut other = destination.connect();
    assert!(other.queue(0).read(0, BLOCK) == pattern(0, MIB)[..BLOCK]);
    let interrupted = status(&destination);
    assert_eq!((&interrupted["state"], &interrupted["position"]), (&json!("interrupted"), &json!(128 << 10)));
    destination.ask(&["scrub", "start", "--rate", FAST]);
    wait_for_state(&destination, "idle");
    source.stop();
    drop(other);
    destination.stop();
    image.assert_clean();
}

#[test]
fn a_frozen_disk_is_not_scrubbed_and_the_scrub_continues() {
    let image = written_image(4 * MIB);
    image.flip_bit(3 * 4096);
    let backend = Backend::serve(&image, &[]);
    backend.ask(&["scrub", "start", "--rate", SLOW]);
    wait_for_first_chunk(&backend);
    for rate in [SLOW, FAST] {
        backend.ask(&["scrub", "start", "--rate", rate]);
        backend.ask(&["freeze", "--seconds", "600"]);
        // closed, with the damage list
        let info = image.json("info");
        assert_eq!((&info["state"], &info["damage"]["blocks"]), (&json!("clean"), &json!(1)));
        assert_eq!(backend.ask(&["status"])["scrub"], Value::Null);
        assert_eq!(backend.ctl(&["scrub", "stop"]).code, Some(1));
        backend.ask(&["thaw"]);
    }
    wait_for_state(&backend, "idle");
    assert_eq!((&status(&backend)["last_found"], listed(&backend)), (&json!(1), vec![3]));
    backend.stop();
}

/// Where image and sidecar have holes there is nothing to read.
#[test]
fn holes_cost_no_time() {
    let image = Image::create(1 << 40);
    let backend = Backend::serve(&image, &[]);
    let mut frontend = backend.connect();
    let mut queue = frontend.queue(0);
    queue.write((1 << 31) - 8, &pattern(1, BLOCK));
    assert_eq!(queue.try_read(1 << 31, 512).0.status, IOERR);
    drop(frontend);
    image.flip_bit((1 << 40) - 5);
    // a block that was written and is a hole now
    image.flip_bit(1 << 39);
    let scrubbed = backend.ctl(&["scrub", "start", "--wait"]);
    assert_eq!(scrubbed.code, Some(4), "{}", scrubbed.stderr);
    assert_eq!(listed(&backend), [1 << 27, (1 << 28) - 1]);
    backend.stop();
}

#[test]
fn a_disk_without_tuples_is_not_scrubbed() {
    let image = Image::without_sidecar(1 << 20);
    let backend = Backend::serve(&image, &["--integrity", "none"]);
    for command in [&["scrub", "start"][..], &["scrub", "status"], &["damage"]] {
        let refused = backend.ctl(command);
        assert_eq!(refused.code, Some(1), "{command:?}");
    }
    assert!(backend.ctl(&["scrub", "start"]).stderr.contains("no protection information to verify"));
    assert_eq!(backend.ctl(&["scrub", "start", "--rate", "0"]).code, Some(2));
    let shown = backend.ask(&["status"]);
    assert_eq!((&shown["damage"], &shown["scrub"]), (&Value::Null, &Value::Null));
    backend.stop();
}

#[test]
fn a_disk_that_is_only_read_is_scrubbed() {
    let image = written_image(2 * MIB);
    image.flip_bit(70 * 4096);
    let backend = Backend::serve(&image, &["--read-only"]);
    assert_eq!(backend.ctl(&["scrub", "start", "--rate", FAST, "--wait"]).code, Some(4));
    assert_eq!(listed(&backend), [70]);
    backend.stop();
    assert_eq!(image.json("info")["damage"]["blocks"], 0);
}

/// A record that was made up costs no more than a scrub from the beginning.
#[test]
fn a_record_from_nowhere_is_harmless() {
    let image = written_image(2 * MIB);
    let backend = Backend::serve(&image, &[]);
    backend.ask(&["scrub", "start", "--rate", SLOW]);
    wait_for_first_chunk(&backend);
    backend.stop();
    let area = superblock(&image.sidecar_path()).layout().damage_area().unwrap();
    let file = OpenOptions::new().read(true).write(true).open(image.sidecar_path()).unwrap();
    let mut sector = [0; 512];
    file.read_exact_at(&mut sector, area.start).unwrap();
    for position in [u64::MAX, (2 << 20) - 5, 7] {
        sector[40..48].copy_from_slice(&position.to_be_bytes());
        // a rate without a limit, and numbers that are full
        sector[48..88].fill(0xff);
        let crc = Guard::Crc64Nvme.compute(&sector[..504]);
        sector[504..].copy_from_slice(&crc.to_be_bytes());
        file.write_all_at(&sector, area.start).unwrap();
        let backend = Backend::serve(&image, &[]);
        wait_for_state(&backend, "idle");
        backend.ctl(&["status"]);
        backend.stop();
    }
    image.assert_clean();
}
