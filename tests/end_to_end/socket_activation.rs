//! A listening socket that a parent keeps, as systemd does by the units of `packaging/`: what the
//! environment says of it, and that it outlives the back-ends that serve on it.

use std::collections::HashMap;
use std::fs;
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};
use std::path::Path;
use std::process::{Command, Stdio};

use rustix::process::Signal;
use virtio::Features;

use crate::harness::inflight::InflightRegion;
use crate::harness::{
    Frontend, GuestMemory, Image, OK, PROGRAM, Process, Queue, Request, TIME_LIMIT, Transcript, finish,
    pattern,
};

/// As systemd runs `program`: in an environment of its own, with `listener` as descriptor 3 and the
/// variables that say so.
fn activate(listener: &UnixListener, count: &str, pid: &str, program: &[&str]) -> Command {
    let mut command = Command::new("sh");
    let script = format!(r#"export LISTEN_FDS={count} LISTEN_PID={pid}; exec "$0" "$@" 3<&0 </dev/null"#);
    command.args(["-c", &script]).args(program);
    command.stdin(Stdio::from(OwnedFd::from(listener.try_clone().unwrap())));
    command
}

fn unit(name: &str) -> HashMap<String, String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../packaging").join(name);
    let text = fs::read_to_string(path).unwrap();
    let pairs = text.lines().filter(|line| !line.starts_with('#')).filter_map(|line| line.split_once('='));
    pairs.map(|(key, value)| (key.to_owned(), value.to_owned())).collect()
}

/// `ExecStart` of the unit, with its variables as its configuration file would have them.
fn unit_command(image: &Image) -> Vec<String> {
    let command = unit("stableblk@.service").remove("ExecStart").unwrap();
    let word = |word: &str| match word {
        "/usr/bin/stableblk" => vec![PROGRAM.to_owned()],
        "${IMAGE}" => vec![image.path().to_str().unwrap().to_owned()],
        "/run/stableblk/%i.control" => vec![image.directory().join("c").to_str().unwrap().to_owned()],
        "$OPTIONS" => vec!["--num-queues".to_owned(), "4".to_owned()],
        other => vec![other.to_owned()],
    };
    command.split_whitespace().flat_map(word).collect()
}

#[test]
fn the_units_serve_and_restart_under_a_front_end() {
    let image = Image::create(1 << 20);
    let directory = tempfile::tempdir().unwrap();
    let (path, notify) = (directory.path().join("socket"), directory.path().join("notify"));
    let listener = UnixListener::bind(&path).unwrap();
    let manager = UnixDatagram::bind(&notify).unwrap();
    manager.set_read_timeout(Some(TIME_LIMIT)).unwrap();
    let await_notification = |text: &str| {
        let mut message = [0; 1024];
        loop {
            let len = manager.recv(&mut message).unwrap();
            if String::from_utf8_lossy(&message[..len]).contains(text) {
                return;
            }
        }
    };
    let command = unit_command(&image);
    let command: Vec<&str> = command.iter().map(String::as_str).collect();
    let start = || {
        let mut command = activate(&listener, "1", "$$", &command);
        command.env("NOTIFY_SOCKET", &notify).env("WATCHDOG_USEC", "2000000");
        let process = Process::start(&mut command);
        await_notification("READY=1");
        await_notification("WATCHDOG=1");
        process
    };
    let memory = GuestMemory::new();
    let mut region = None;
    let mut queue = Queue::new(0, 64, &memory, Transcript::default());
    // the first connects before there is a process to serve it
    let mut stream = UnixStream::connect(&path).unwrap();
    for (number, signal) in [Signal::TERM, Signal::KILL, Signal::TERM].into_iter().enumerate() {
        let mut process = start();
        let mut frontend = Frontend::sharing(&memory, stream, process.stderr(), Features::empty());
        let region = region.get_or_insert_with(|| InflightRegion::ask(&mut frontend, 1, 64));
        region.give_to(&mut frontend);
        let base = queue.driver().used_index();
        frontend.start(&queue, base);
        await_notification(&format!("front-end with pid {} connected", std::process::id()));
        let data = pattern(number as u64, 4096);
        let address = memory.allocate(4096);
        memory.write(address, &data);
        // one left over from the last back-end, which may have done it
        queue.submit(&Request::write(8 * number as u64, &[(address, 4096)]));
        queue.kick();
        assert!(queue.wait_all().iter().all(|completion| completion.status == OK));
        assert!(image.read(4096 * number as u64, 4096) == data);
        // it is not looked at before the next
        queue.submit(&Request::flush());
        process.signal(signal);
        process.wait();
        if signal == Signal::TERM {
            await_notification("STOPPING=1");
        }
        stream = UnixStream::connect(&path).unwrap();
    }
    image.assert_clean();
}

#[test]
fn the_units_belong_together() {
    let (socket, service) = (unit("stableblk@.socket"), unit("stableblk@.service"));
    assert_eq!(service["Requires"], "stableblk@%i.socket");
    assert_eq!(service["Type"], "notify");
    assert_eq!(service["Restart"], "on-failure");
    assert_eq!(socket["ListenStream"], "/run/stableblk/%i.sock");
    // one process takes the listening socket, not one for each connection
    assert!(!socket.contains_key("Accept"));
}

#[test]
fn sockets_that_are_not_for_us_or_too_many_are_refused() {
    let image = Image::create(1 << 20);
    let directory = tempfile::tempdir().unwrap();
    let listener = UnixListener::bind(directory.path().join("socket")).unwrap();
    let program = [PROGRAM, "--blk-file", image.path().to_str().unwrap()];
    for (count, pid, words) in [
        ("1", "1", "give --socket-path or --fd"),
        ("0", "$$", "give --socket-path or --fd"),
        ("2", "$$", "LISTEN_FDS does not fit"),
        ("many", "$$", "LISTEN_FDS does not fit"),
    ] {
        let refused = finish(&mut activate(&listener, count, pid, &program));
        assert_eq!(refused.code, Some(78), "{}", refused.stderr);
        assert!(refused.stderr.contains(words), "{count} for {pid}: {}", refused.stderr);
    }
    let mut command = Command::new("sh");
    let script = r#"export LISTEN_FDS=2 LISTEN_PID=$$; exec "$0" "$@" 3<&0 4<&0"#;
    command.args(["-c", script]).args(program).stdin(Stdio::from(OwnedFd::from(listener)));
    let refused = finish(&mut command);
    assert!(refused.stderr.contains("2 sockets"), "{}", refused.stderr);
    image.assert_clean();
}

/// The command line takes precedence.
#[test]
fn a_socket_path_takes_precedence_over_an_activated_socket() {
    let image = Image::create(1 << 20);
    let directory = tempfile::tempdir().unwrap();
    let listener = UnixListener::bind(directory.path().join("other")).unwrap();
    let path = directory.path().join("socket");
    let program =
        [PROGRAM, "--socket-path", path.to_str().unwrap(), "--blk-file", image.path().to_str().unwrap()];
    let process = Process::start(&mut activate(&listener, "1", "$$", &program));
    process.stderr().wait_for("serving");
    assert!(path.exists());
}
