//! The files of `qemu-configs/`, and the README's command line, as QEMU, libvirt and management
//! software take them.

#[path = "skip.rs"]
mod skip;

use std::{
    fs,
    io::Write,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use guest::{Qemu, Server, Stableblk};
use serde_json::Value;
use skip::skip;
use tempfile::TempDir;

/// QEMU starts in a second.
const TIME_LIMIT: Duration = Duration::from_secs(120);

fn config(name: &str) -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../qemu-configs")).join(name)
}

fn parse(json: &[u8]) -> Value {
    serde_json::from_slice(json).expect("JSON")
}

#[test]
fn the_description_for_management_software_says_what_the_program_says() {
    let capabilities = Command::new(env!("CARGO_BIN_EXE_stableblk"))
        .arg("--print-capabilities")
        .output()
        .expect("start stableblk");
    let capabilities = parse(&capabilities.stdout);
    let description = parse(&fs::read(config("50-stableblk.json")).expect("read"));
    for field in ["type", "features"] {
        assert_eq!(description[field], capabilities[field], "{field}");
    }
}

#[test]
fn the_libvirt_domain_follows_libvirts_schema() {
    let validate = Command::new("virt-xml-validate").arg(config("libvirt-domain.xml")).output();
    let validate = validate.expect("start virt-xml-validate: run scripts/install-prerequisites");
    assert!(validate.status.success(), "{}", String::from_utf8_lossy(&validate.stderr));
}

/// A directory with the disks of the configurations, served.
struct Disks {
    scratch: TempDir,
    _servers: Vec<Server>,
}

impl Disks {
    fn serve() -> Self {
        let scratch = tempfile::tempdir().expect("temporary directory");
        let stableblk = Stableblk::new(env!("CARGO_BIN_EXE_stableblk"));
        let serve = |name: &str, options: &[&str]| {
            let [image, socket] = ["raw", "sock"].map(|kind| scratch.path().join(format!("{name}.{kind}")));
            stableblk.create(&image, "16M").unwrap_or_else(|error| panic!("{error}"));
            stableblk.serve(&image, &socket, options).unwrap_or_else(|error| panic!("{error}"))
        };
        let servers = vec![serve("disk", &[]), serve("read-only", &["--read-only"])];
        Self { scratch, _servers: servers }
    }

    /// Starts QEMU with its processors stopped, and ends it by its monitor.
    fn start(&self, qemu: Qemu, arguments: &[&str]) -> Result<(), String> {
        let mut command = qemu.command();
        command.current_dir(self.path()).args(["-nodefaults", "-no-user-config", "-display", "none", "-S"]);
        command.args(["-accel", "tcg", "-monitor", "stdio"]).args(arguments);
        let errors = fs::File::create(self.path().join("errors")).expect("file");
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(errors);
        let mut child = command.spawn().expect("start QEMU");
        // it may have ended already
        let _ = child.stdin.take().expect("stdin").write_all(b"quit\n");
        let deadline = Instant::now() + TIME_LIMIT;
        let status = loop {
            match child.try_wait().expect("wait for QEMU") {
                Some(status) => break Some(status),
                None if Instant::now() < deadline => thread::sleep(Duration::from_millis(20)),
                None => break None,
            }
        };
        let said = fs::read_to_string(self.path().join("errors")).expect("file");
        match status {
            Some(status) if status.success() => Ok(()),
            Some(_) => Err(said),
            None => {
                let _ = child.kill();
                let _ = child.wait();
                Err(format!("QEMU does not end; it said: {said}"))
            }
        }
    }

    fn path(&self) -> &Path {
        self.scratch.path()
    }
}

/// Those that are here; the first is older than 9.2, the second is not.
fn qemus() -> Vec<Qemu> {
    let qemus: Vec<_> = [Qemu::Installed, Qemu::Recent].into_iter().filter(|it| it.is_installed()).collect();
    if qemus.len() < 2 {
        skip("no recent QEMU was unpacked, see scripts/install-prerequisites");
    }
    qemus
}

#[test]
fn every_qemu_starts_with_each_configuration() {
    for qemu in qemus() {
        for entry in fs::read_dir(config("")).expect("directory") {
            let path = entry.expect("entry").path();
            if path.extension().is_none_or(|extension| extension != "cfg") {
                continue;
            }
            let disks = Disks::serve();
            let name = path.to_str().expect("UTF-8");
            let config = qemu.config(name, disks.path()).unwrap_or_else(|error| panic!("{error}"));
            // QEMU 11 does not know it any more
            let text = fs::read_to_string(&config).expect("read");
            let is_old = text.lines().any(|line| line.trim_start().starts_with("reconnect ="));
            assert_eq!(is_old, qemu == Qemu::Installed && text.contains("reconnect"), "{name}");
            let started = disks.start(qemu, &["-readconfig", config.to_str().expect("UTF-8")]);
            started.unwrap_or_else(|error| panic!("{qemu:?}, {name}: {error}"));
        }
    }
}

#[test]
fn every_qemu_starts_with_the_command_line_of_the_readme() {
    let readme = fs::read_to_string(config("../README.md")).expect("read");
    let (_, command) = readme.split_once("    qemu-system-x86_64 ").expect("the command line");
    let mut lines = Vec::new();
    for line in command.lines() {
        lines.push(line.trim_end_matches('\\'));
        if !line.ends_with('\\') {
            break;
        }
    }
    let newer = lines.join(" ").replace("-accel kvm", "");
    assert!(newer.contains("reconnect-ms=1000") && readme.contains("`reconnect=1`"));
    let older = newer.replace("reconnect-ms=1000", "reconnect=1");
    for qemu in qemus() {
        let disks = Disks::serve();
        let is_newer = qemu.version().expect("version") >= (9, 2);
        let command = if is_newer { &newer } else { &older };
        let command = command.replace("/run/vm/", "").replace("4G", "512M");
        let arguments: Vec<_> = command.split_whitespace().collect();
        disks.start(qemu, &arguments).unwrap_or_else(|error| panic!("{qemu:?}: {error}"));
        assert_eq!(is_newer, qemu == Qemu::Recent, "both kinds are to be tried");
    }
}
