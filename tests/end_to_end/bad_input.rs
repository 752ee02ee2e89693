//! Input that serving refuses: one line that names the cure, an exit code that says whether a
//! restart may help, and nothing changed on disk.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions, Permissions};
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use integrity::sidecar::SUPERBLOCK_SIZE;
use tempfile::TempDir;

use crate::harness::{Backend, Image, PROGRAM, Setup, copy_program, finish, pattern, serve_command};

/// A user other than root.
const NOBODY: u32 = 65534;

/// The contents of the directories `paths`, by name.
fn contents(paths: &[&Path]) -> BTreeMap<PathBuf, Option<Vec<u8>>> {
    let entries = paths.iter().flat_map(|path| fs::read_dir(path).unwrap());
    entries
        .map(|entry| {
            let path = entry.unwrap().path();
            let bytes =
                fs::metadata(&path).is_ok_and(|meta| meta.is_file()).then(|| fs::read(&path).unwrap());
            (path, bytes)
        })
        .collect()
}

/// `command` must fail with one line that has all `words`, and leave `image`'s directory as it was.
#[track_caller]
fn assert_command_refused(command: &mut Command, image: &Image, words: &[&str]) {
    let before = contents(&[image.directory()]);
    let refused = finish(command);
    // another process may let go of what it uses; the rest needs a person
    let expected = if refused.stderr.contains("in use by") { 1 } else { 78 };
    assert_eq!(refused.code, Some(expected), "{}", refused.stderr);
    assert_eq!(refused.stderr.lines().count(), 1, "{}", refused.stderr);
    assert!(refused.stderr.starts_with("stableblk: "), "{}", refused.stderr);
    for word in words {
        assert!(refused.stderr.contains(word), "{word:?} is not in: {}", refused.stderr);
    }
    assert!(contents(&[image.directory()]) == before, "the disk has changed: {}", refused.stderr);
}

/// Serving `image` with `args` must be refused, and leave no socket.
#[track_caller]
fn assert_refused(image: &Image, args: &[&str], words: &[&str]) {
    let directory = tempfile::tempdir().unwrap();
    assert_command_refused(&mut serve_command(&directory.path().join("socket"), image, args), image, words);
    assert!(contents(&[directory.path()]).is_empty(), "the socket was left");
}

fn path(path: &Path) -> &str {
    path.to_str().unwrap()
}

#[test]
fn an_image_in_use_names_who_uses_it() {
    let image = Image::create(1 << 20);
    let backend = Backend::serve(&image, &[]);
    let pid = backend.pid().to_string();
    assert_refused(&image, &[], &["disk.img is in use by", &pid, "stop that first"]);
    assert_refused(&image, &["--read-only"], &["disk.img is in use by", &pid]);
    let check = finish(&mut image.command("check"));
    assert_eq!(check.code, Some(2));
    assert!(check.stderr.contains("in use by") && check.stderr.contains(&pid), "{}", check.stderr);
    backend.stop();
    Backend::serve(&image, &[]).stop();
}

/// Another image, the same sidecar: two writers of one file of tuples.
#[test]
fn a_sidecar_in_use_names_who_uses_it() {
    let image = Image::create(1 << 20);
    let backend = Backend::serve(&image, &[]);
    let copy = Image::without_sidecar(1 << 20);
    let sidecar = image.sidecar_path();
    assert_refused(
        &copy,
        &["--integrity", path(&sidecar)],
        &["disk.img.pi is in use by", &backend.pid().to_string()],
    );
}

#[test]
fn a_socket_path_that_is_too_long_is_refused() {
    let image = Image::create(1 << 20);
    let long = PathBuf::from(format!("/tmp/{}", "x".repeat(110)));
    let words = ["115 bytes, more than 107", "choose a shorter one"];
    assert_command_refused(&mut serve_command(&long, &image, &[]), &image, &words);
}

#[test]
fn a_socket_in_use_is_refused() {
    let (image, other) = (Image::create(1 << 20), Image::create(1 << 20));
    let backend = Backend::serve(&image, &[]);
    let words = ["is in use by another process", "choose another path"];
    assert_command_refused(&mut serve_command(backend.socket(), &other, &[]), &other, &words);
    // and it is served on
    UnixStream::connect(backend.socket()).unwrap();
    backend.stop();
}

#[test]
fn a_socket_path_that_is_taken_or_has_no_directory_is_refused() {
    let image = Image::create(1 << 20);
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("precious");
    fs::write(&file, "data").unwrap();
    assert_command_refused(&mut serve_command(&file, &image, &[]), &image, &["exists and is not a socket"]);
    assert_eq!(fs::read(&file).unwrap(), b"data");
    let nowhere = directory.path().join("no/such/directory");
    assert_command_refused(&mut serve_command(&nowhere, &image, &[]), &image, &["there is no directory"]);
}

#[test]
fn a_socket_that_a_killed_process_left_is_replaced() {
    let image = Image::create(1 << 20);
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("socket");
    let listener = UnixListener::bind(&socket).unwrap();
    // not only dropped: for a moment each process that another test starts has it open too
    rustix::net::shutdown(&listener, rustix::net::Shutdown::Both).unwrap();
    drop(listener);
    let process = crate::harness::Process::start(&mut serve_command(&socket, &image, &[]));
    process.stderr().wait_for("serving");
    UnixStream::connect(&socket).unwrap();
}

#[test]
fn the_socket_has_the_mode_asked_for_and_an_unknown_group_is_refused() {
    let image = Image::create(1 << 20);
    let mode = |backend: &Backend| fs::metadata(backend.socket()).unwrap().permissions().mode() & 0o777;
    let backend = Backend::serve(&image, &[]);
    assert_eq!(mode(&backend), 0o660);
    backend.stop();
    let backend = Backend::serve(&image, &["--socket-mode", "0600"]);
    assert_eq!(mode(&backend), 0o600);
    backend.stop();
    assert_refused(
        &image,
        &["--socket-group", "no-such-group"],
        &["no group no-such-group", "--socket-group"],
    );
}

#[test]
fn more_queues_than_open_files_allow_are_refused() {
    let image = Image::create(1 << 20);
    let directory = tempfile::tempdir().unwrap();
    let serve = serve_command(&directory.path().join("socket"), &image, &["--num-queues", "200"]);
    let mut command = Command::new("sh");
    command.args(["-c", r#"ulimit -n 256; exec "$0" "$@""#]).arg(PROGRAM).args(serve.get_args());
    assert_command_refused(&mut command, &image, &["--num-queues 200", "the limit is 256", "ulimit -n"]);
}

#[test]
fn a_missing_image_is_refused() {
    let image = Image::create(1 << 20);
    fs::remove_file(image.path()).unwrap();
    assert_refused(&image, &[], &["there is no image", "stableblk create"]);
}

#[test]
fn a_missing_sidecar_is_refused_with_the_command_that_makes_one() {
    let image = Image::without_sidecar(1 << 20);
    let words = ["has no sidecar", "stableblk protect", path(image.path())];
    assert_refused(&image, &[], &words);
    // the command it names is the cure
    assert_eq!(finish(&mut image.command("protect")).code, Some(0));
    Backend::serve(&image, &[]).stop();
}

#[test]
fn an_image_without_a_sidecar_is_served_when_none_is_wanted() {
    let mut vm = Setup::plain_disk(1 << 20).start();
    vm.queue.write(0, &pattern(1, 4096));
    drop(vm.frontend);
    vm.backend.stop();
    assert!(vm.image.read(0, 4096) == pattern(1, 4096));
    assert!(!vm.image.sidecar_path().exists());
}

#[test]
fn an_image_without_write_permission_is_refused() {
    // in a directory that every user may read, with a copy of the program, which may lie where
    // others may not
    let directory = tempfile::tempdir().unwrap();
    fs::set_permissions(directory.path(), Permissions::from_mode(0o755)).unwrap();
    let program = directory.path().join("stableblk");
    copy_program(&program);
    let image = Image::create_in(directory.path(), 1 << 20, &[]);
    fs::set_permissions(image.directory(), Permissions::from_mode(0o755)).unwrap();
    let serve = || {
        let mut command = Command::new(&program);
        command.args(serve_command(&directory.path().join("socket"), &image, &[]).get_args());
        if rustix::process::geteuid().is_root() {
            command.uid(NOBODY).gid(NOBODY);
        }
        command
    };
    let mode = |path: &Path, mode| fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
    mode(image.path(), 0o444);
    mode(&image.sidecar_path(), 0o444);
    assert_command_refused(&mut serve(), &image, &["no permission to write", "disk.img"]);
    assert_command_refused(serve().env_clear().arg("--log=debug"), &image, &["no permission to write"]);
}

#[test]
fn a_sidecar_of_another_image_is_refused() {
    let (image, other) = (Image::create(1 << 20), Image::create(1 << 20));
    let sidecar = other.sidecar_path();
    let own = format!("--integrity {}", path(&image.sidecar_path()));
    assert_refused(&image, &["--integrity", path(&sidecar)], &["sidecar of another image", &own]);
    File::options().write(true).open(image.path()).unwrap().set_len(1 << 19).unwrap();
    assert_refused(
        &image,
        &[],
        &["is truncated: it has 524288 bytes", "covers 1048576", "restore the image"],
    );
}

#[test]
fn a_broken_sidecar_is_refused() {
    let break_and_refuse = |change: &dyn Fn(&File), words: &[&str]| {
        let image = Image::create(1 << 20);
        change(&OpenOptions::new().write(true).open(image.sidecar_path()).unwrap());
        assert_refused(&image, &[], words);
    };
    let in_both_copies = |file: &File, at: u64, bytes: &[u8]| {
        for copy in [0, SUPERBLOCK_SIZE] {
            file.write_all_at(bytes, copy + at).unwrap();
        }
    };
    break_and_refuse(&|file| file.set_len(9000).unwrap(), &["is truncated", "9000", "protect --force"]);
    break_and_refuse(&|file| file.set_len(0).unwrap(), &["is no usable sidecar", "protect --force"]);
    break_and_refuse(&|file| in_both_copies(file, 11, &[9]), &["format version 9 is unknown"]);
    break_and_refuse(
        &|file| in_both_copies(file, 40, &[9]),
        &["damaged superblock", "stableblk protect --force"],
    );
}

#[test]
fn a_path_that_is_no_regular_file_is_refused() {
    let image = Image::create(1 << 20);
    for not_a_file in ["/", "/dev/null"] {
        let mut command = Command::new(PROGRAM);
        let directory = TempDir::new().unwrap();
        command.arg("--socket-path").arg(directory.path().join("socket")).args(["--blk-file", not_a_file]);
        assert_command_refused(&mut command, &image, &["name a regular file"]);
    }
    assert_refused(&image, &["--integrity", "/"], &["is a directory", "name a regular file"]);
}

#[test]
fn a_block_size_that_does_not_fit_the_image_is_refused() {
    let image = Image::create_with((1 << 20) + 512, &["--interval", "512"]);
    assert_refused(&image, &["--block-size", "4096"], &["--block-size 4096", "choose 512"]);
    Backend::serve(&image, &[]).stop();
    let empty = Image::without_sidecar(0);
    assert_refused(&empty, &["--integrity", "none"], &["0 bytes"]);
}

#[test]
fn arguments_that_make_no_sense_are_refused() {
    let image = Image::create(1 << 20);
    let cases: [(&[&str], &str); 9] = [
        (&["--num-queues", "0"], "--num-queues"),
        (&["--num-queues", "257"], "--num-queues"),
        (&["--queue-size", "100"], "power of two"),
        (&["--queue-size", "65536"], "power of two"),
        (&["--block-size", "1024"], "512 or 4096"),
        (&["--serial", "longer-than-twenty-bytes"], "20"),
        (&["--socket-mode", "999"], "octal"),
        (&["--integrity", ""], "empty path"),
        (&["--fd", "3"], "cannot be used with"),
    ];
    for (args, word) in cases {
        let refused = finish(&mut serve_command(Path::new("/nowhere"), &image, args));
        assert_eq!(refused.code, Some(78), "{args:?}");
        assert!(refused.stderr.contains(word), "{args:?}: {}", refused.stderr);
    }
}

/// QEMU's back-end conventions: other options are ignored, whatever they are.
#[test]
fn capabilities_are_printed_whatever_else_is_asked() {
    let cases: [&[&str]; 4] = [
        &["--print-capabilities"],
        &["--print-capabilities", "--socket-path", "/nowhere", "--blk-file", "/nowhere"],
        &["--socket-path", "/nowhere", "--fd", "9", "--print-capabilities"],
        &["--no-such-option", "--print-capabilities", "surplus"],
    ];
    for args in cases {
        let printed = finish(Command::new(PROGRAM).args(args));
        assert_eq!(printed.code, Some(0), "{args:?}: {}", printed.stderr);
        let json: serde_json::Value = serde_json::from_str(&printed.stdout).unwrap();
        assert_eq!(json, serde_json::json!({ "type": "block", "features": ["read-only", "blk-file"] }));
    }
}
