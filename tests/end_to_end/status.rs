//! `status`: its schema, the state of queues and front-ends, and a client's limit of time.

use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use jsonschema::Validator;
use serde_json::{Map, Value, json};

use crate::harness::{Backend, Finished, Image, PROGRAM, Setup, finish, pattern, wait_until};

const SCHEMA: &str = include_str!("../../docs/status.schema.json");
const DOCUMENT: &str = include_str!("../../docs/control.md");

/// The schema, which lets later versions add fields. `visit` gets the properties of each object.
fn walk(schema: &mut Value, visit: &mut impl FnMut(&mut Map<String, Value>)) {
    match schema {
        Value::Object(object) => {
            if object.contains_key("properties") {
                visit(object);
            }
            object.values_mut().for_each(|value| walk(value, visit));
        }
        Value::Array(values) => values.iter_mut().for_each(|value| walk(value, visit)),
        _ => {}
    }
}

/// A validator that finds fields which the schema does not have.
fn strict() -> Validator {
    let mut schema: Value = serde_json::from_str(SCHEMA).unwrap();
    walk(&mut schema, &mut |object| _ = object.insert("additionalProperties".to_owned(), json!(false)));
    jsonschema::validator_for(&schema).unwrap()
}

fn assert_valid(status: &Value) {
    let schema = strict();
    let errors: Vec<_> =
        schema.iter_errors(status).map(|error| format!("{}: {error}", error.instance_path())).collect();
    assert!(errors.is_empty(), "{errors:#?}\n{status:#}");
}

#[test]
fn the_schema_has_every_field_of_a_status_and_no_other() {
    let image = Image::create(16 << 20);
    let backend = Backend::serve(&image, &["--num-queues", "4"]);
    assert_valid(&backend.ask(&["status"]));
    let mut frontend = backend.connect();
    let mut queue = frontend.queue(0);
    queue.write(0, &pattern(1, 4096));
    queue.flush();
    assert_valid(&backend.ask(&["status"]));
    frontend.stop(&queue);
    assert_valid(&backend.ask(&["status"]));
    drop(frontend);
    backend.stop();
    let vm = Setup::plain_disk(1 << 20).start();
    assert_valid(&vm.backend.ask(&["status"]));
    let mut wrong = vm.backend.ask(&["status"]);
    wrong["surprise"] = json!(1);
    assert!(!strict().is_valid(&wrong));
    wrong.as_object_mut().unwrap().remove("surprise");
    wrong["queues"][0].as_object_mut().unwrap().remove("starved");
    assert!(!strict().is_valid(&wrong));
}

#[test]
fn the_document_names_every_field_of_the_schema() {
    let mut schema: Value = serde_json::from_str(SCHEMA).unwrap();
    let mut missing = Vec::new();
    walk(&mut schema, &mut |object| {
        let names = object["properties"].as_object().unwrap().keys();
        let is_missing = |name: &&String| {
            let forms = [format!("`{name}`"), format!("`{name}."), format!(".{name}`")];
            !forms.iter().any(|form| DOCUMENT.contains(form))
        };
        missing.extend(names.filter(is_missing).cloned());
    });
    assert!(missing.is_empty(), "docs/control.md does not name {missing:?}");
}

fn state(backend: &Backend) -> Value {
    backend.ask(&["status"])["queues"][0]["state"].clone()
}

#[test]
fn a_queue_does_not_seem_stopped_after_a_drain() {
    let mut vm = Setup::disk(1 << 20).start();
    vm.queue.write(0, &pattern(1, 512));
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        let backend = &vm.backend;
        let watcher = scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                let status = backend.ask(&["status"]);
                let queue = &status["queues"][0];
                assert!(["running", "paused"].contains(&queue["state"].as_str().unwrap()), "{queue}");
                assert_eq!(queue["ring_size"], 256);
            }
        });
        for _ in 0..20 {
            assert_eq!(backend.ctl(&["drain"]).code, Some(0));
            assert_eq!(state(backend), "running");
        }
        done.store(true, Ordering::Relaxed);
        watcher.join().unwrap();
    });
    vm.frontend.stop(&vm.queue);
    assert_eq!(state(&vm.backend), "stopped");
    assert!(vm.backend.ctl(&["status"]).stdout.contains("queue 0: stopped, 0 in flight"));
    vm.stop_clean();
}

#[test]
fn a_queue_with_a_broken_ring_is_shown_as_retired() {
    let mut vm = Setup::disk(1 << 20).start();
    vm.queue.write(0, &pattern(1, 512));
    // a head that no table has
    vm.queue.driver().make_available(60_000);
    vm.queue.kick();
    wait_until(|| state(&vm.backend) == "retired", || vm.backend.log().so_far());
    assert_eq!(vm.backend.ctl(&["drain"]).code, Some(0));
    assert_eq!(state(&vm.backend), "retired", "a drain repairs no ring");
    vm.stop_clean();
}

#[test]
fn front_ends_that_were_served_or_wait_are_counted() {
    let image = Image::create(1 << 20);
    let backend = Backend::serve(&image, &[]);
    let frontends = |backend: &Backend| backend.ask(&["status"])["frontends"].clone();
    let expected = |served: u32, waiting: bool| json!({"served": served, "failed": 0, "refused_messages": 0, "is_any_waiting": waiting});
    assert_eq!(frontends(&backend), expected(0, false));
    let first = backend.connect();
    assert_eq!(frontends(&backend), expected(1, false));
    let waiting = UnixStream::connect(backend.socket()).unwrap();
    assert_eq!(frontends(&backend), expected(1, true));
    assert!(backend.ctl(&["status"]).stdout.contains("another front-end waits"));
    drop((first, waiting));
    wait_until(|| frontends(&backend) == expected(2, false), || backend.log().so_far());
    backend.stop();
}

fn ctl(socket: &Path, args: &[&str]) -> Finished {
    finish(Command::new(PROGRAM).arg("ctl").arg(socket).args(args))
}

#[test]
fn a_client_waits_no_longer_than_its_limit() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("control");
    let listener = UnixListener::bind(&path).unwrap();
    // never accepted
    let late = ctl(&path, &["status", "--timeout", "1"]);
    assert_eq!((late.code, late.stdout.as_str()), (Some(3), ""));
    assert!(late.stderr.contains("within 1 s: give it longer with --timeout"), "{}", late.stderr);
    // no room in the backlog
    let mut waiting = Vec::new();
    rustix::net::listen(&listener, 0).unwrap();
    let flags = rustix::net::SocketFlags::NONBLOCK;
    loop {
        let socket = rustix::net::socket_with(
            rustix::net::AddressFamily::UNIX,
            rustix::net::SocketType::STREAM,
            flags,
            None,
        );
        let socket = socket.unwrap();
        let address = rustix::net::SocketAddrUnix::new(&path).unwrap();
        if rustix::net::connect(&socket, &address).is_err() {
            break;
        }
        waiting.push(socket);
    }
    let late = ctl(&path, &["status", "--timeout", "1"]);
    assert_eq!(late.code, Some(3), "{}", late.stderr);
    assert_eq!(ctl(&path, &["status", "--timeout", "0"]).code, Some(2));
}

/// Gives `ctl` a server that is no stableblk and sends these bytes until its client has gone.
fn with_server(sends: &'static [u8], pause_ms: u64, check: impl FnOnce(Finished)) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("control");
    let listener = UnixListener::bind(&path).unwrap();
    let server = thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let _ = stream.read(&mut [0; 64]);
        while stream.write_all(sends).is_ok() {
            thread::sleep(std::time::Duration::from_millis(pause_ms));
        }
    });
    check(ctl(&path, &["status", "--timeout", "2"]));
    server.join().unwrap();
}

#[test]
fn a_reply_without_an_end_is_given_up() {
    with_server(b" ", 50, |slow| {
        assert_eq!(slow.code, Some(3));
        assert!(slow.stderr.contains("within 2 s"), "{}", slow.stderr);
    });
    with_server(&[b'x'; 1 << 14], 0, |long| {
        assert_eq!(long.code, Some(3));
        assert!(long.stderr.contains("the reply is too long"), "{}", long.stderr);
    });
    with_server(b"{\"ok\":{\"protocol\":99}}\n", 50, |other| {
        assert_eq!(other.code, Some(3));
        assert!(other.stderr.contains("use the stableblk that serves the disk"), "{}", other.stderr);
    });
}
