//! The control socket: what it reports and does, and that its clients do not delay the disk.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::Shutdown;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::process::Command;

use rustix::process::geteuid;
use serde_json::{Value, json};

use crate::harness::{Backend, IOERR, Image, PROGRAM, Setup, copy_program, finish, pattern};
use crate::skip::skip;

/// More connections than the daemon keeps.
const MANY: usize = 40;

fn connect(backend: &Backend) -> UnixStream {
    let stream = UnixStream::connect(backend.control()).unwrap();
    stream.set_read_timeout(Some(crate::harness::TIME_LIMIT)).unwrap();
    stream
}

fn line(stream: &mut BufReader<UnixStream>) -> Value {
    let mut line = String::new();
    stream.read_line(&mut line).unwrap();
    serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line:?}"))
}

#[test]
fn status_counts_what_the_guest_did() {
    let image = Image::create(16 << 20);
    let backend = Backend::serve(&image, &["--num-queues", "4"]);
    let before = backend.ask(&["status"]);
    assert_eq!((&before["frontend"], &before["queues"]), (&Value::Null, &json!([])));
    let mut frontend = backend.connect();
    let (mut first, mut third) = (frontend.queue_of_size(0, 64), frontend.queue_of_size(2, 16));
    for index in 0..20 {
        first.write(index * 8, &pattern(index, 4096));
        assert!(third.read(index * 8, 4096) == pattern(index, 4096));
    }
    third.flush();
    assert_eq!(third.try_read(1 << 20, 512).0.status, IOERR);

    let status = backend.ask(&["status"]);
    assert_eq!(status["image"], image.path().display().to_string());
    assert_eq!(
        (&status["bytes"], &status["num_queues"], &status["log"]),
        (&json!(16 << 20), &json!(4), &json!("info"))
    );
    assert!(status["integrity"].as_str().unwrap().contains("crc64-nvme"), "{status}");
    assert_eq!(
        (&status["pid"], &status["frontend"]["pid"]),
        (&json!(backend.pid()), &json!(std::process::id()))
    );
    let features = status["frontend"]["features"].as_array().unwrap();
    assert!(features.contains(&json!("FLUSH")) && features.contains(&json!("VERSION_1")), "{features:?}");
    let queues = status["queues"].as_array().unwrap();
    let values =
        |name: &str| -> Vec<_> { queues.iter().map(|queue| queue[name].as_u64().unwrap()).collect() };
    assert_eq!(
        (values("queue"), values("ring_size"), values("in_flight")),
        (vec![0, 2], vec![64, 16], vec![0, 0])
    );
    assert_eq!((values("bytes_written"), values("bytes_read")), (vec![20 * 4096, 0], vec![0, 20 * 4096]));
    assert_eq!((values("refused"), values("integrity_errors")), (vec![0, 1], vec![0, 0]));
    let counts = [[0, 20, 0, 0], [20, 0, 1, 0]];
    for (queue, counts) in queues.iter().zip(counts) {
        for (kind, count) in ["reads", "writes", "flushes", "zeroings"].into_iter().zip(counts) {
            let latency = &queue["done"][kind];
            let buckets = latency["buckets"].as_array().unwrap();
            let sum: u64 = buckets.iter().map(|bucket| bucket["count"].as_u64().unwrap()).sum();
            assert_eq!((latency["count"].as_u64().unwrap(), sum), (count, count), "{kind}: {latency}");
        }
    }
    let shown = backend.ctl(&["status"]);
    for part in ["16.00 MiB", "queue 2: ring of 16, 0 in flight", "reads: 20, 80.00 KiB; mean ", "refused: 1"]
    {
        assert!(shown.stdout.contains(part), "{part:?} is missing:\n{}", shown.stdout);
    }
    // a queue that was stopped is reported with what it has done
    frontend.stop(&first);
    let status = backend.ask(&["status"]);
    assert_eq!(status["queues"][0]["ring_size"], 0);
    assert_eq!(status["queues"][0]["done"]["writes"]["count"], 20);
    drop(frontend);
    backend.stop();
}

#[test]
fn flush_and_drain_succeed_while_requests_are_under_way() {
    let image = Image::create(16 << 20);
    let backend = Backend::serve(&image, &[]);
    for command in ["flush", "drain"] {
        assert_eq!(backend.ctl(&[command]).code, Some(0), "{command} without a front-end");
    }
    let mut frontend = backend.connect();
    let mut queue = frontend.queue(0);
    queue.write(0, &pattern(1, 1 << 20));
    for round in 0..10 {
        let buffer = frontend.memory.allocate(4096);
        let requests: Vec<_> = (0..16)
            .map(|index| {
                queue.submit(&crate::harness::Request::read(round * 128 + index * 8, &[(buffer, 4096)]))
            })
            .collect();
        queue.kick();
        let command = if round % 2 == 0 { "flush" } else { "drain" };
        assert_eq!(backend.ctl(&[command]).code, Some(0));
        assert_eq!(queue.wait_all().len(), requests.len());
    }
    // data that the back-end flushed is there after a kill, the superblock's state being that of a
    // crash
    backend.kill();
    let mut vm = Setup::of(&image).start();
    assert!(vm.queue.read(0, 1 << 20) == pattern(1, 1 << 20));
    drop(vm.frontend);
    let log = vm.backend.stop();
    assert!(!log.contains("adopted"), "{log}");
    image.assert_clean();
}

#[test]
fn log_level_takes_effect() {
    let image = Image::create(1 << 20);
    let backend = Backend::serve(&image, &[]);
    drop(backend.connect().queue(0));
    backend.log().wait_for("front-end left");
    assert!(!backend.log().so_far().contains("queue started"));
    let set = backend.ctl(&["log-level", "warn,stableblk::session=debug"]);
    assert_eq!((set.code, set.stdout.as_str()), (Some(0), "logging warn,stableblk::session=debug\n"));
    drop(backend.connect().queue(0));
    backend.log().wait_for("queue started");
    let bad = backend.ctl(&["log-level", "debgu"]);
    assert_eq!(bad.code, Some(1));
    assert!(bad.stderr.contains("\"debgu\" is no level: say error, warn, info"), "{}", bad.stderr);
    assert_eq!(backend.ask(&["status"])["log"], "warn,stableblk::session=debug");
    let log = backend.stop();
    // the line of the second session, which is below warn
    assert_eq!(log.matches("front-end left").count(), 1, "{log}");
}

#[test]
fn exit_codes_distinguish_a_refusal_bad_arguments_and_a_missing_daemon() {
    let image = Image::create(1 << 20);
    let backend = Backend::serve(&image, &[]);
    assert_eq!(backend.ctl(&["status"]).code, Some(0));
    assert_eq!(backend.ctl(&["resize", "--size", "512K"]).code, Some(1));
    assert_eq!(backend.ctl(&["resize", "--size", "large"]).code, Some(2));
    assert_eq!(backend.ctl(&["stop"]).code, Some(2));
    let nowhere = finish(Command::new(PROGRAM).args(["ctl", "/nonexistent/control", "status"]));
    assert_eq!(nowhere.code, Some(3));
    assert!(nowhere.stderr.contains("is the disk running"), "{}", nowhere.stderr);
    backend.stop();
}

#[test]
fn only_root_and_the_owner_are_let_in() {
    let image = Image::create(1 << 20);
    let backend = Backend::serve(&image, &[]);
    let mode = backend.control().metadata().unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    if !geteuid().is_root() {
        return skip("only root can become another user, and that user is refused");
    }
    // even if the socket is open to all users
    let directory = backend.control().parent().unwrap();
    std::fs::set_permissions(directory, PermissionsExt::from_mode(0o755)).unwrap();
    std::fs::set_permissions(backend.control(), PermissionsExt::from_mode(0o666)).unwrap();
    let program = directory.join("stableblk");
    copy_program(&program);
    let mut other_user = Command::new(program);
    other_user.arg("ctl").arg(backend.control()).arg("status").uid(65534).gid(65534).current_dir("/");
    let refused = finish(&mut other_user);
    assert_eq!((refused.code, refused.stdout.as_str()), (Some(1), ""));
    assert!(refused.stderr.contains("not for uid 65534: come as root or as uid 0"), "{}", refused.stderr);
    let log = backend.stop();
    assert!(log.contains("a connection to the control socket was refused"), "{log}");
}

#[test]
fn an_invalid_request_is_refused_and_the_connection_stays() {
    let image = Image::create(1 << 20);
    let backend = Backend::serve(&image, &[]);
    let mut stream = BufReader::new(connect(&backend));
    let lines: [&[u8]; 8] = [
        b"\n",
        b"status\n",
        b"[[[[[[[[\n",
        b"{\"command\":\"stop\"}\n",
        b"{\"command\":\"resize\",\"size\":-1}\n",
        b"{\"command\":\"resize\",\"size\":99999999999999999999}\n",
        b"\xff\xfe\0\n",
        b"{\"command\":\"log-level\",\"filter\":\"a=b=c\"}\n",
    ];
    for bytes in lines {
        stream.get_mut().write_all(bytes).unwrap();
        assert!(line(&mut stream)["error"].is_string());
    }
    // in pieces, and several at once
    for piece in b"{\"command\":\"status\"}\n{\"command\":\"flush\"}\n{\"comm".chunks(5) {
        stream.get_mut().write_all(piece).unwrap();
    }
    assert_eq!(line(&mut stream)["ok"]["bytes"], 1 << 20);
    assert_eq!(line(&mut stream)["ok"], json!({}));
    stream.get_mut().write_all(b"and\":\"drain\"}\n").unwrap();
    // one who sends no more still gets his answer
    stream.get_mut().shutdown(Shutdown::Write).unwrap();
    assert_eq!(line(&mut stream)["ok"], json!({}));
    assert_eq!(stream.read(&mut [0]).unwrap(), 0);
    // without an end
    let mut endless = BufReader::new(connect(&backend));
    endless.get_mut().write_all(&[b'x'; 4096]).unwrap();
    assert_eq!(line(&mut endless)["error"], "the request is too long");
    assert_eq!(endless.read(&mut [0]).unwrap(), 0);
    backend.stop();
}

/// Not the one that came first.
#[test]
fn the_client_that_has_been_quiet_for_longest_makes_room() {
    const CLIENTS_MAX: usize = 16;
    let image = Image::create(1 << 20);
    let backend = Backend::serve(&image, &[]);
    let ask = |client: &mut BufReader<UnixStream>| {
        client.get_mut().write_all(b"{\"command\":\"flush\"}\n").unwrap();
        assert_eq!(line(client)["ok"], json!({}));
    };
    let mut clients: Vec<_> = (0..CLIENTS_MAX).map(|_| BufReader::new(connect(&backend))).collect();
    // the last of them has been let in when it is answered
    clients.iter_mut().for_each(ask);
    ask(&mut clients[0]);
    ask(&mut BufReader::new(connect(&backend)));
    // the second one was cut off, and no other
    assert_eq!(clients.remove(1).read(&mut [0]).unwrap(), 0);
    clients.iter_mut().for_each(ask);
    backend.stop();
}

#[test]
fn clients_that_do_not_read_or_write_delay_no_one() {
    let mut vm = Setup::disk(16 << 20).start();
    let before = vm.backend.holdings()[0];
    let mut silent: Vec<_> = (0..MANY).map(|_| connect(&vm.backend)).collect();
    // each asks for more than its socket holds, and reads none of it
    for stream in &mut silent {
        stream.set_nonblocking(true).unwrap();
        while stream.write(&b"{\"command\":\"status\"}\n".repeat(100)).is_ok() {}
        vm.queue.write(8, &pattern(1, 4096));
        assert!(vm.queue.read(8, 4096) == pattern(1, 4096));
    }
    assert_eq!(vm.backend.ctl(&["status"]).code, Some(0), "no room for one more");
    assert!(vm.backend.holdings()[0] <= before + 16, "more connections are kept than there should be");
    // requests whose askers are gone before they are answered
    for _ in 0..MANY {
        connect(&vm.backend).write_all(b"{\"command\":\"drain\"}\n{\"command\":\"flush\"}\n").unwrap();
    }
    drop(silent);
    assert!(vm.queue.read(8, 4096) == pattern(1, 4096));
    // one at a time: when this is answered, those before it are done
    vm.backend.ask(&["flush"]);
    vm.backend.ask(&["drain"]);
    vm.stop_clean();
}
