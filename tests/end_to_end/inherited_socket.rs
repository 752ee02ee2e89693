//! `--fd`: a socket that another process made, listening or connected.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};
use std::process::{Command, Stdio};

use rustix::process::Signal;

use crate::harness::{Frontend, Image, PROGRAM, Process, finish, pattern};

/// Serves `image` on `socket`, which it finds as descriptor 3.
fn serve_on(socket: OwnedFd, image: &Image) -> Command {
    let mut command = Command::new("sh");
    command.args(["-c", r#"exec "$0" "$@" 3<&0 </dev/null"#, PROGRAM, "--fd", "3", "--blk-file"]);
    command.arg(image.path()).stdin(Stdio::from(socket));
    command
}

#[test]
fn a_listening_socket_serves_one_front_end_after_another() {
    let image = Image::create(1 << 20);
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("socket");
    let listener = UnixListener::bind(&path).unwrap();
    let mut process = Process::start(&mut serve_on(listener.into(), &image));
    process.stderr().wait_for("serving");
    for seed in 0..3 {
        let stream = UnixStream::connect(&path).unwrap();
        let mut frontend = Frontend::over(stream, process.stderr());
        let mut queue = frontend.queue(0);
        queue.write(seed, &pattern(seed, 4096));
        assert!(queue.read(seed, 4096) == pattern(seed, 4096));
    }
    process.signal(Signal::TERM);
    assert!(process.wait().success());
    assert!(path.exists(), "the socket was removed by a process that did not make it");
    image.assert_clean();
}

#[test]
fn a_connected_socket_is_served_until_it_ends() {
    let image = Image::create(1 << 20);
    let (ours, theirs) = UnixStream::pair().unwrap();
    let mut process = Process::start(&mut serve_on(theirs.into(), &image));
    let mut frontend = Frontend::over(ours, process.stderr());
    let mut queue = frontend.queue(0);
    queue.write(0, &pattern(1, 4096));
    assert!(queue.read(0, 4096) == pattern(1, 4096));
    drop(frontend);
    assert!(process.wait().success());
    image.assert_clean();
}

#[test]
fn a_descriptor_that_is_no_stream_socket_is_refused() {
    let image = Image::create(1 << 20);
    let unconnected = UnixDatagram::unbound().unwrap();
    for (fd, words) in [
        (OwnedFd::from(File::open("/dev/null").unwrap()), "no Unix stream socket"),
        (unconnected.into(), "no Unix stream socket"),
    ] {
        let refused = finish(&mut serve_on(fd, &image));
        assert_eq!(refused.code, Some(78));
        assert!(refused.stderr.contains("--fd 3") && refused.stderr.contains(words), "{}", refused.stderr);
    }
    for (fd, words) in [("1", "standard streams"), ("97", "not open")] {
        let mut command = Command::new(PROGRAM);
        let refused = finish(command.args(["--fd", fd, "--blk-file"]).arg(image.path()));
        assert_eq!(refused.code, Some(78));
        assert!(refused.stderr.contains(words), "{}", refused.stderr);
    }
    image.assert_clean();
}

/// A file that the process opens itself is not taken for one that was passed to it.
#[test]
fn a_descriptor_that_was_not_inherited_is_refused() {
    let image = Image::create(1 << 20);
    let nothing = r#"exec "$0" "$@" 3<&- 4<&- 5<&- 6<&- 7<&- 8<&- 9<&-"#;
    for fd in 3..=9 {
        let mut command = Command::new("sh");
        command.args(["-c", nothing, PROGRAM, "--fd", &fd.to_string(), "--blk-file"]).arg(image.path());
        let refused = finish(&mut command);
        assert_eq!(refused.code, Some(78), "--fd {fd}: {}", refused.stderr);
        assert!(refused.stderr.contains("not open"), "--fd {fd}: {}", refused.stderr);
    }
    let mut command = Command::new("sh");
    let script = format!("export LISTEN_FDS=1 LISTEN_PID=$$; {nothing}");
    let refused = finish(command.args(["-c", &script, PROGRAM, "--blk-file"]).arg(image.path()));
    assert_eq!(refused.code, Some(78), "{}", refused.stderr);
    assert!(refused.stderr.contains("LISTEN_FDS"), "{}", refused.stderr);
    image.assert_clean();
}
