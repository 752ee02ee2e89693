//! `stableblk list` and `stableblk top`: the disks of a host as a person sees them. `top` runs in a
//! terminal of tmux.

use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::Command;

use guest::limited;
use tempfile::TempDir;

use crate::harness::{Backend, Finished, Frontend, Image, PROGRAM, Queue, finish, pattern, wait_until};
use crate::skip::skip;

/// Two disks, one with a guest, and a control socket that does not reply.
struct Host {
    directory: TempDir,
    backends: Vec<Backend>,
    guest: (Frontend, Queue),
    images: Vec<Image>,
    _silent: UnixListener,
}

impl Host {
    fn start() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let images = vec![Image::create(16 << 20), Image::create(4 << 20)];
        let backends: Vec<_> = images.iter().map(|image| Backend::serve(image, &[])).collect();
        for (backend, name) in backends.iter().zip(["alpha.control", "beta.control"]) {
            backend.link_control(directory.path(), name);
        }
        let silent = UnixListener::bind(directory.path().join("silent.control")).unwrap();
        let mut frontend = backends[1].connect();
        let mut queue = frontend.queue(0);
        for index in 0..20 {
            queue.write(index * 8, &pattern(index, 4096));
        }
        Self { directory, backends, guest: (frontend, queue), images, _silent: silent }
    }

    fn list(&self, args: &[&str]) -> Finished {
        let mut list = Command::new(PROGRAM);
        list.args(["list", "--timeout", "1", "--control-directory"]).arg(self.directory.path());
        finish(list.args(args))
    }

    fn stop(self) {
        drop(self.guest);
        self.backends.into_iter().for_each(|backend| drop(backend.stop()));
        self.images.iter().for_each(Image::assert_clean);
    }
}

#[test]
fn list_shows_all_disks_of_the_host() {
    let host = Host::start();
    let list = host.list(&[]);
    assert_eq!(list.code, Some(1), "one disk does not reply: {}", list.stderr);
    let lines: Vec<_> = list.stdout.lines().collect();
    assert_eq!(lines.len(), 4, "{}", list.stdout);
    for (line, parts) in lines.iter().zip([
        &["DISK", "GUEST", "REQUESTS", "DAMAGE", "IMAGE"][..],
        &["alpha", "16.00 MiB", "sidecar", "none"],
        &["beta", "4.00 MiB", "sidecar", &format!("/{}", std::process::id()), "  20  "],
        &["silent", "no reply within 1.0 s"],
    ]) {
        assert!(parts.iter().all(|part| line.contains(part)), "{parts:?}:\n{}", list.stdout);
    }
    let list: serde_json::Value = serde_json::from_str(&host.list(&["--json"]).stdout).unwrap();
    assert_eq!(list[1]["status"]["queues"][0]["done"]["writes"]["count"], 20);
    assert_eq!((&list[1]["disk"], &list[1]["error"]), (&"beta".into(), &serde_json::Value::Null));
    assert!(list[1]["guest"].is_string());
    assert_eq!((&list[2]["disk"], &list[2]["status"]), (&"silent".into(), &serde_json::Value::Null));
    host.stop();
    let empty = tempfile::tempdir().unwrap();
    let none = finish(Command::new(PROGRAM).args(["list", "--control-directory"]).arg(empty.path()));
    assert_eq!(none.code, Some(0));
    assert!(none.stdout.contains("start disks with `--control"), "{}", none.stdout);
}

/// A terminal of 130 columns, in a server of tmux of its own.
struct Terminal {
    socket: std::path::PathBuf,
}

impl Terminal {
    fn start(directory: &Path, args: &[&str]) -> Self {
        let terminal = Self { socket: directory.join("tmux") };
        let mut tmux = terminal.tmux();
        tmux.args(["-f", "/dev/null", "new-session", "-d", "-x", "130", "-y", "30", PROGRAM, "top"]);
        let started = limited::output(tmux.args(args)).unwrap();
        assert!(started.status.success(), "{}", String::from_utf8_lossy(&started.stderr));
        terminal
    }

    fn tmux(&self) -> Command {
        let mut tmux = Command::new("tmux");
        tmux.arg("-S").arg(&self.socket).env("LC_ALL", "C.UTF-8").env("TERM", "xterm");
        tmux
    }

    fn screen(&self) -> String {
        let screen = limited::output(self.tmux().args(["capture-pane", "-p"])).unwrap();
        String::from_utf8_lossy(&screen.stdout).into_owned()
    }

    fn press(&self, key: &str) {
        assert!(limited::output(self.tmux().args(["send-keys", key])).unwrap().status.success());
    }

    fn wait_for(&self, what: impl Fn(&str) -> bool) -> String {
        wait_until(|| what(&self.screen()), || self.screen());
        self.screen()
    }

    fn has_ended(&self) -> bool {
        !limited::output(self.tmux().arg("has-session")).unwrap().status.success()
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = limited::output(self.tmux().arg("kill-server"));
    }
}

/// The names of the disks, from the top of the screen.
fn order(screen: &str) -> Vec<&str> {
    let names = ["alpha", "beta", "silent"];
    screen.lines().filter_map(|line| names.into_iter().find(|name| line.starts_with(name))).collect()
}

#[test]
fn top_shows_sorts_pauses_and_looks_into_a_disk() {
    if limited::output(Command::new("tmux").arg("-V")).is_err() {
        return skip("there is no tmux");
    }
    let mut host = Host::start();
    let directory = host.directory.path().to_str().unwrap();
    let options = ["--timeout", "1", "--interval", "1", "--control-directory", directory];
    let top = Terminal::start(host.directory.path(), &options);
    let screen = top.wait_for(|screen| order(screen).len() == 3);
    assert!(screen.contains("3 disks, 1 silent"), "{screen}");
    assert!(screen.contains("no reply within 1.0 s"), "{screen}");
    // a rate, while the guest is at work
    wait_until_busy(&top, &mut host.guest.1);
    // by name, and in reverse
    for _ in 0..7 {
        top.press("s");
    }
    top.wait_for(|screen| screen.contains("by DISK") && order(screen) == ["alpha", "beta", "silent"]);
    top.press("r");
    top.wait_for(|screen| screen.contains("DISK reversed") && order(screen) == ["silent", "beta", "alpha"]);
    top.press("r");
    top.wait_for(|screen| order(screen) == ["alpha", "beta", "silent"]);
    // into the second disk
    top.press("Down");
    top.press("Down");
    top.press("Enter");
    let inside = top.wait_for(|screen| screen.contains("times of requests"));
    let image = host.images[1].path().display().to_string();
    for part in [
        "beta: ",
        "4.00 MiB",
        "device sidecar",
        "tag log:",
        "damage: 0 blocks",
        "scrub: none",
        "running",
        "QUEUE",
        " us ",
        "esc back",
    ] {
        assert!(inside.contains(part), "{part}:\n{inside}");
    }
    assert!(inside.contains(&image[..40]), "{inside}");
    top.press("Escape");
    top.wait_for(|screen| order(screen).len() == 3);
    // paused, it shows what it has shown
    top.press("p");
    top.wait_for(|screen| screen.contains("PAUSED"));
    host.backends.remove(0).stop();
    host.guest.1.read(0, 4096);
    assert!(top.screen().contains("1 silent"), "{}", top.screen());
    top.press("p");
    top.wait_for(|screen| screen.contains("2 disks, 1 silent") || screen.contains("3 disks, 2 silent"));
    top.press("q");
    wait_until(|| top.has_ended(), || top.screen());
    host.images.remove(0);
    host.stop();
}

fn wait_until_busy(top: &Terminal, queue: &mut Queue) {
    let deadline = std::time::Instant::now() + crate::harness::TIME_LIMIT;
    let busy = |screen: &str| {
        let line = screen.lines().find(|line| line.starts_with("beta")).unwrap_or_default().to_owned();
        line.split_whitespace().nth(2).and_then(|iops| iops.parse::<u64>().ok()).is_some_and(|iops| iops > 0)
    };
    while !busy(&top.screen()) {
        assert!(std::time::Instant::now() < deadline, "{}", top.screen());
        (0..20).for_each(|index| drop(queue.read(index * 8, 4096)));
    }
}

#[test]
fn top_needs_a_terminal() {
    let piped = finish(Command::new(PROGRAM).arg("top"));
    assert_eq!(piped.code, Some(1));
    assert!(piped.stderr.contains("use `stableblk list`"), "{}", piped.stderr);
}
