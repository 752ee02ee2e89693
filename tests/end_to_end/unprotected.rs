//! `--integrity none` for an image that has a sidecar: refused, or the sidecar is marked first.

use std::path::Path;

use crate::harness::{Backend, Finished, Image, Setup, finish, pattern, serve_command};

const NONE: &[&str] = &["--integrity", "none"];
const FORCED: &[&str] = &["--integrity", "none", "--force"];
const SIZE: u64 = 1 << 20;

fn write(image: &Image, args: &[&str], seed: u64) -> String {
    let mut vm = Setup::of(image).options(args).start();
    vm.queue.write(0, &pattern(seed, 4096));
    drop(vm.frontend);
    vm.backend.stop()
}

fn served(image: &Image, args: &[&str]) -> Finished {
    let directory = tempfile::tempdir().unwrap();
    finish(&mut serve_command(&directory.path().join("socket"), image, args))
}

#[track_caller]
fn says(finished: &Finished, code: i32, words: &[&str]) {
    assert_eq!(finished.code, Some(code), "{}", finished.stderr);
    assert_eq!(finished.stderr.lines().count(), 1, "{}", finished.stderr);
    for word in words {
        assert!(finished.stderr.contains(word), "{word:?} is not in: {}", finished.stderr);
    }
}

fn name(path: &Path) -> &str {
    path.to_str().unwrap()
}

#[test]
fn a_protected_image_is_not_served_without_its_sidecar() {
    let image = Image::create(SIZE);
    let sidecar = image.sidecar_path();
    write(&image, &[], 1);
    for args in [NONE, &["--integrity", "none", "--incoming"]] {
        says(&served(&image, args), 78, &["is protected", name(&sidecar), "`--force`"]);
    }
    says(&served(&image, &["--force"]), 78, &["--force", "`--integrity none`", "leave it out"]);
    // the sidecar is right still
    write(&image, &[], 2);
    image.assert_clean();
    // nor where the sidecar is not found
    std::fs::rename(&sidecar, image.directory().join("elsewhere")).unwrap();
    says(&served(&image, NONE), 78, &["is protected", "UUID", "`--force`"]);
}

#[test]
fn an_image_without_attributes_is_known_by_its_sidecar() {
    let image = Image::create(SIZE);
    rustix::fs::removexattr(image.path(), "user.stableblk.uuid").unwrap();
    says(&served(&image, NONE), 78, &["is protected", name(&image.sidecar_path())]);
    says(&served(&image, FORCED), 78, &["is protected", "move its sidecar away"]);
    Backend::serve(&image, &[]).stop();
}

#[test]
fn a_sidecar_that_missed_writes_is_not_used_again() {
    let image = Image::create(SIZE);
    write(&image, &[], 1);
    let log = write(&image, FORCED, 2);
    assert!(log.contains("WARN") && log.contains("is stale from now on"), "{log}");
    let words = ["was served without", "protect --force", name(image.path())];
    says(&served(&image, &[]), 78, &words);
    says(&served(&image, &["--read-only"]), 78, &words);
    says(&finish(&mut image.command("check")), 2, &words);
    says(&finish(image.command("resize").args(["--size", "2M"])), 1, &words);
    // once is enough
    write(&image, NONE, 3);
    let protected = finish(image.command("protect").arg("--force"));
    assert_eq!(protected.code, Some(0), "{}", protected.stderr);
    assert!(protected.stdout.contains("1 of 256 blocks do not match"), "{}", protected.stdout);
    image.assert_clean();
    write(&image, &[], 4);
    image.assert_clean();
    says(&served(&image, NONE), 78, &["is protected"]);
}

#[test]
fn reading_without_the_sidecar_is_allowed_with_a_warning() {
    let image = Image::create(SIZE);
    let backend = Backend::serve(&image, &["--integrity", "none", "--read-only"]);
    let log = backend.stop();
    assert!(log.contains("WARN") && log.contains("reads are not checked"), "{log}");
    Backend::serve(&image, &[]).stop();
    image.assert_clean();
}

#[test]
fn an_image_of_another_format_is_served_with_a_warning() {
    let image = Image::without_sidecar(SIZE);
    std::fs::OpenOptions::new()
        .write(true)
        .open(image.path())
        .and_then(|file| std::os::unix::fs::FileExt::write_all_at(&file, b"QFI\xfb", 0))
        .unwrap();
    let log = Backend::serve(&image, NONE).stop();
    assert!(log.contains("WARN") && log.contains("qemu-img convert -O raw"), "{log}");
}
