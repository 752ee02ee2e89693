//! The log: its lines cannot be forged, a front-end cannot fill it, and a reader that does not read
//! holds nothing up.

use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};

use guest::limited;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::harness::{Backend, Image, Process, finish, serve_command, wait_until};

const SIZE: u64 = 1 << 20;
/// Locks the file that it is given, under a name that would forge a line.
const HOLDER: &str =
    r#"$| = 1; $0 = "\e[31m\nFORGED"; open(F, "<", $ARGV[0]); flock(F, 1); print "locked\n"; <STDIN>;"#;

/// The name of the process that has the image locked is that process's own to choose.
#[test]
fn the_name_of_another_process_is_escaped() {
    let image = Image::create(SIZE);
    let mut holder = Command::new("perl");
    let holder = holder.args(["-e", HOLDER]).arg(image.path()).stdin(Stdio::piped());
    let holder = Process::start(holder);
    holder.stdout().wait_for("locked");
    let directory = tempfile::tempdir().unwrap();
    let refused = finish(&mut serve_command(&directory.path().join("socket"), &image, &[]));
    assert_eq!(refused.code, Some(1));
    assert_eq!(refused.stderr.lines().count(), 1, "{}", refused.stderr);
    assert!(refused.stderr.contains(r"\u{1b}[31m\nFORGED"), "{}", refused.stderr);
}

/// Each session has a few lines to say. A limit of one session's would not be one.
#[test]
fn a_front_end_that_connects_for_ever_is_not_logged_for_ever() {
    const SESSIONS: usize = 400;
    let image = Image::create(SIZE);
    let backend = Backend::serve(&image, &[]);
    for _ in 0..SESSIONS {
        // SET_VRING_NUM without a body: the session is ended for it
        let mut frontend = backend.connect();
        frontend.send(8u32, 0, &[], &[]);
        assert!(frontend.reply().is_none());
    }
    let log = backend.stop();
    let connected = log.matches("front-end connected").count();
    assert!((32..SESSIONS / 2).contains(&connected), "{connected} of {SESSIONS} sessions are logged:\n{log}");
}

/// A pipe that nothing reads takes 64 KiB.
#[test]
fn a_log_that_is_not_read_delays_nothing() {
    let image = Image::create(SIZE);
    let directory = tempfile::tempdir().unwrap();
    let (socket, control) = (directory.path().join("socket"), directory.path().join("control"));
    let mut command = serve_command(&socket, &image, &["--log", "trace"]);
    command.arg("--control").arg(&control).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    wait_until(|| UnixStream::connect(&control).is_ok(), || "there is no control socket".to_owned());
    let unread = child.stderr.take().unwrap();
    // a line of more than 4 KiB each, of 64 at most that are logged at once: filters come back in
    // errors
    let set_log = |filter: &str| {
        let mut ctl = Command::new(crate::harness::PROGRAM);
        limited::output(ctl.arg("ctl").arg(&control).args(["log-level", filter])).unwrap()
    };
    for number in 0..200 {
        let filter = format!("trace,{}=info", format!("module{number}::").repeat(250));
        assert!(set_log(filter.trim_end_matches("::")).status.success());
    }
    let status = {
        let mut ctl = Command::new(crate::harness::PROGRAM);
        limited::output(ctl.arg("ctl").arg(&control).args(["status", "--json"])).unwrap()
    };
    let status: Value = serde_json::from_slice(&status.stdout).unwrap();
    assert_eq!(status["pid"], child.id());
    kill_process(Pid::from_child(&child), Signal::TERM).unwrap();
    assert!(limited::wait(&mut child).unwrap().success());
    drop(unread);
}
