//! An image whose back-end was killed: `check` and `info` report what recovery would do, and `check
//! --recover` does it.

use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;

use crate::harness::{Backend, Image, Queue, Setup, crash, finish, pattern};

const BLOCK: usize = 4096;
const SECTORS: u64 = 8;

/// Sixteen blocks, flushed.
fn work(queue: &mut Queue, attempt: u64) {
    queue.write(0, &pattern(attempt, 16 * BLOCK));
    queue.flush();
}

/// Makes the end of `block` another's than its beginning, as a write does that a power cut has
/// torn.
fn tear(image: &Image, block: u64) {
    let file = OpenOptions::new().write(true).open(image.path()).unwrap();
    file.write_all_at(&pattern(99, BLOCK / 2), block * BLOCK as u64 + 2048).unwrap();
}

#[test]
fn check_reports_what_recovery_would_do_and_then_does_it() {
    let image = Image::create(8 << 20);
    crash(&image, &[], 1, work);
    tear(&image, 3);
    let sidecar = || std::fs::read(image.sidecar_path()).unwrap();
    let before = sidecar();
    let mut dry = image.json("check");
    assert_eq!(dry["recovery"]["done"], false);
    assert_eq!(dry["recovery"]["dirty_regions"], 1);
    assert_eq!(dry["recovery"]["changed_tuples"], 16);
    assert_eq!(dry["recovery"]["adopted_blocks"], 1);
    assert_eq!(dry["adopted_ranges"], serde_json::json!([{ "first_lba": 3, "last_lba": 3 }]));
    assert_eq!(dry["mismatched_blocks"], 0);
    let found = finish(&mut image.command("check"));
    // of its own: all blocks match, and one was adopted
    assert_eq!(found.code, Some(3));
    assert!(
        found.stdout.contains("recovery would change 16 tuples and adopt 1 of 256 blocks"),
        "{}",
        found.stdout
    );
    assert!(found.stdout.contains("LBA 3: adopted after a crash, as found\n"), "{}", found.stdout);
    assert!(sidecar() == before, "something was written");

    let done = finish(image.command("check").args(["--recover", "--json"]));
    assert_eq!((done.code, done.stderr.as_str()), (Some(3), ""));
    let done: serde_json::Value = serde_json::from_str(&done.stdout).unwrap();
    dry["recovery"]["done"] = true.into();
    assert_eq!(done, dry);

    // from now on it is an image like any other
    let check = image.json("check");
    assert_eq!((&check["recovery"], &check["adopted_blocks"]), (&serde_json::Value::Null, &1.into()));
    let info = image.json("info");
    assert_eq!((&info["state"], &info["adopted_blocks"]), (&"clean".into(), &1.into()));
    let info = finish(&mut image.command("info"));
    assert!(
        info.stdout.contains("16 written, 2032 unwritten, 1 of them adopted after a crash"),
        "{}",
        info.stdout
    );
}

#[test]
fn an_adopted_block_stays_adopted_until_it_is_written() {
    let image = Image::create(8 << 20);
    let attempt = crash(&image, &[], 1, work);
    tear(&image, 3);
    let mut vm = Setup::of(&image).start();
    let mut data = pattern(attempt, 16 * BLOCK);
    data[3 * BLOCK + 2048..4 * BLOCK].copy_from_slice(&pattern(99, 2048));
    assert!(vm.queue.read(0, 16 * BLOCK) == data);
    drop(vm.frontend);
    let log = vm.backend.stop();
    assert!(log.contains("was not closed cleanly") && log.contains("adopted lba=3"), "{log}");
    assert_eq!(image.json("info")["adopted_blocks"], 1);

    let mut vm = Setup::of(&image).start();
    vm.queue.write(3 * SECTORS, &pattern(5, BLOCK));
    drop(vm.frontend);
    vm.backend.stop();
    assert_eq!(image.json("info")["adopted_blocks"], 0);
    image.assert_clean();
}

#[test]
fn a_reader_sees_what_recovery_would_leave_and_changes_nothing() {
    let image = Image::create(8 << 20);
    let attempt = crash(&image, &[], 1, work);
    let sidecar = || std::fs::read(image.sidecar_path()).unwrap();
    let before = sidecar();
    let mut vm = Setup::of(&image).options(&["--read-only"]).start();
    assert!(vm.queue.read(0, 16 * BLOCK) == pattern(attempt, 16 * BLOCK));
    drop(vm.frontend);
    vm.backend.stop();
    assert!(sidecar() == before, "something was written");
}

#[test]
fn info_reports_how_the_image_was_left_and_by_which_session() {
    for intent in ["region", "block"] {
        let image = Image::create(8 << 20);
        let new = image.json("info");
        assert_eq!(
            (&new["state"], &new["log"]["epoch"], &new["log"]["tail"]),
            (&"clean".into(), &1.into(), &1.into())
        );
        assert_eq!(new["intent"], serde_json::Value::Null);
        let attempts = crash(&image, &["--intent", intent], 1, work);

        let left = image.json("info");
        assert_eq!((&left["state"], &left["intent"]), (&"dirty".into(), &intent.into()));
        assert_eq!(left["log"]["epoch"], 1 + attempts);
        let found = finish(&mut image.command("info")).stdout;
        assert!(found.contains("state      dirty: the last writer did not close it"), "{found}");
        assert!(found.contains(&format!("intents by {intent}; superblock generation")), "{found}");

        let backend = Backend::serve(&image, &[]);
        let found = finish(&mut image.command("info")).stdout;
        assert!(found.contains("state      dirty: open for writing"), "{found}");
        assert!(found.contains(&format!("(pid {})", backend.pid())), "{found}");
        backend.stop();
        let closed = image.json("info");
        assert_eq!((&closed["state"], &closed["written_blocks"]), (&"clean".into(), &16.into()));
        assert!(closed["log"]["tail"].as_u64() > left["log"]["tail"].as_u64());
    }
}
