//! QEMU's programs and we respect each other's locks.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};

use guest::qemu_tool;

use crate::harness::{Backend, Finished, Image, finish, serve_command};

/// Runs a program of QEMU's to its end.
fn qemu(program: &str, args: &[&str], image: &Path) -> Finished {
    finish(qemu_tool(program).args(args).arg(image))
}

/// Runs one command of `qemu-io` on the image.
fn qemu_io(image: &Image, options: &[&str], command: &str) -> Finished {
    qemu("qemu-io", &[options, &["-f", "raw", "-c", command]].concat(), image.path())
}

/// A `qemu-io` that has an image open until it is dropped.
struct QemuIo {
    child: Child,
    _stdin: ChildStdin,
}

impl QemuIo {
    fn open(image: &Image, options: &[&str]) -> Self {
        let mut command: Command = qemu_tool("qemu-io");
        command.args(options).args(["-f", "raw"]).arg(image.path());
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let (mut stdin, stdout) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
        stdin.write_all(b"read 0 512\n").unwrap();
        stdin.flush().unwrap();
        let line = BufReader::new(stdout).lines().map_while(Result::ok).find(|it| it.contains("512/512"));
        assert!(line.is_some(), "qemu-io did not open the image");
        Self { child, _stdin: stdin }
    }

    fn name(&self) -> String {
        format!("qemu-io (pid {})", self.child.id())
    }
}

impl Drop for QemuIo {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[track_caller]
fn is_refused_lock(run: &Finished) {
    assert_ne!(run.code, Some(0), "{}{}", run.stdout, run.stderr);
    assert!(run.stderr.contains("lock"), "{}", run.stderr);
}

#[test]
fn qemu_does_not_write_to_an_image_that_is_served() {
    for args in [&[][..], &["--integrity", "none"]] {
        let image = if args.is_empty() { Image::create(1 << 20) } else { Image::without_sidecar(1 << 20) };
        let backend = Backend::serve(&image, args);
        is_refused_lock(&qemu_io(&image, &[], "write -P 0xaa 0 4096"));
        is_refused_lock(&finish(
            qemu_tool("qemu-img").args(["resize", "-f", "raw"]).arg(image.path()).arg("2M"),
        ));
        let shared = qemu("qemu-img", &["info", "-U", "-f", "raw"], image.path());
        assert_eq!(shared.code, Some(0), "{}", shared.stderr);
        backend.stop();
        assert!(image.read(0, 4096) == vec![0; 4096], "qemu-io has written");
        let written = qemu_io(&image, &[], "write -P 0 0 4096");
        assert_eq!(written.code, Some(0), "{}", written.stderr);
    }
}

#[test]
fn an_image_that_qemu_writes_is_refused_by_its_name() {
    let image = Image::create(1 << 20);
    let qemu_io = QemuIo::open(&image, &[]);
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("socket");
    for args in [&[][..], &["--read-only"]] {
        let refused = finish(&mut serve_command(&socket, &image, args));
        assert_eq!(refused.code, Some(1), "{}", refused.stderr);
        for words in ["is in use by", &qemu_io.name(), "stop that first"] {
            assert!(refused.stderr.contains(words), "{words:?} is not in: {}", refused.stderr);
        }
    }
    for (command, code) in [("check", 2), ("protect", 1)] {
        let refused = finish(&mut image.command(command));
        assert_eq!(refused.code, Some(code), "{}", refused.stderr);
        assert!(refused.stderr.contains(&qemu_io.name()), "{}", refused.stderr);
    }
    assert_eq!(image.json("info")["in_use_by"], qemu_io.name());
    drop(qemu_io);
    Backend::serve(&image, &[]).stop();
}

#[test]
fn readers_of_both_kinds_share_an_image() {
    let image = Image::create(1 << 20);
    let _reading = QemuIo::open(&image, &["-r"]);
    let backend = Backend::serve(&image, &["--read-only"]);
    let read = qemu_io(&image, &["-r"], "read 0 4096");
    assert_eq!(read.code, Some(0), "{}", read.stderr);
    is_refused_lock(&qemu_io(&image, &[], "write 0 4096"));
    image.assert_clean();
    backend.stop();
}

/// The locks are those of the open file description that does the I/O: they go with it, and not
/// before.
#[test]
fn a_killed_back_end_leaves_no_lock() {
    let image = Image::create(1 << 20);
    Backend::serve(&image, &[]).kill();
    image.wait_until_closed();
    let written = qemu_io(&image, &[], "write -P 0 0 4096");
    assert_eq!(written.code, Some(0), "{}", written.stderr);
}
